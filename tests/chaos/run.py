"""One run: load and faults by the schedule, then everything healed, caught up and judged."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pymilvus import MilvusClient, MilvusException

from tests.chaos.faults import Faults, describe
from tests.chaos.profile import SESSION_S, Group
from tests.chaos.proof import prove
from tests.chaos.report import Report, say
from tests.chaos.schedule import plan
from tests.chaos.stage import Stage
from tests.support.oracle.contract import Scope, name_of
from tests.support.oracle.observed import OffsetWatch, committed_and_end
from tests.support.oracle.prefix import judge_prefix
from tests.support.oracle.stored import judge, read_scope
from tests.support.oracle.verdict import Verdict, is_about
from tests.support.rigs.publisher import publisher

HEAL_S = 400.0
"""Everything healed: within this time the groups have caught up, or do not."""
_FIRST_RECORDS = 200
_LOAD_S = 600.0
_TICK_S = 0.05
_Judge = Callable[[Scope, MilvusClient], Verdict]


class Chaos:
    """`go` makes the run on a stage that nobody has played on."""

    def __init__(self, stage: Stage, seed: int, seconds: float, rate: float) -> None:
        self._stage = stage
        self._workers = stage.workers
        self._groups = stage.profile.groups
        self._seed = seed
        self._seconds = seconds
        self._rate = rate
        self.report = Report(seed, seconds / 60, stage.profile.name)
        self.proof = ""
        """Of the harm, and of what was shown until a reload."""
        self._faults = Faults(stage, self.report, self._compare_between)

    def go(self) -> Report:
        """Load and faults for the time given; then heal, catch up and judge."""
        self._faults.fill()
        with ExitStack() as stack:
            watches = [
                stack.enter_context(OffsetWatch(self._stage.bootstrap, group.topics, group.name))
                for group in self._groups
            ]
            self._await_work()
            began = time.monotonic()
            with self._load():
                self._strike(began)
            ended = time.monotonic()
            self._faults.heal()
            self._catch_up(ended)
        for watch in watches:
            self.report.verdict.ahead += watch.check()
        self.report.measure_stalls(watches[0].observations, began, ended, self._faults.outages)
        self._judge_end()
        return self.report

    # --- load and faults ---------------------------------------------------------------------------------------

    def _await_work(self) -> None:
        with self._publishing() as publish:
            publish(_FIRST_RECORDS)
        running = [slot for slot in self._workers.slots if slot.running]
        deadline = time.monotonic() + 120
        while not all(b'"batch.written"' in self._log_of(slot.name) for slot in running):
            if time.monotonic() > deadline or not all(slot.running for slot in running):
                raise RuntimeError(f"the workers do not work: {self._log_of(running[0].name)[-2000:]!r}")
            time.sleep(_TICK_S)
        say("the workers are at work")

    def _log_of(self, name: str) -> bytes:
        return (self._stage.folder / f"{name}.log").read_bytes()

    @contextmanager
    def _publishing(self) -> Iterator[Callable[[int], None]]:
        """A function that publishes so many records, shared out over the topics; confirmed at the end of the block."""
        topics = self._stage.profile.topics
        with ExitStack() as stack:
            senders = [stack.enter_context(publisher(self._stage.bootstrap, topic.name)) for topic in topics]
            sent = Counter[str]()

            def publish(count: int) -> None:
                total = sent.total() + count
                for topic, sender in zip(topics, senders, strict=True):
                    due = max(0, round(total * topic.share) - sent[topic.name])
                    sender.publish(self._stage.loads[topic.name].next_records(due))
                    sent[topic.name] += due

            yield publish
            for sender in senders:
                sender.flush(100)

    @contextmanager
    def _load(self) -> Iterator[None]:
        ending = threading.Event()
        failures: list[BaseException] = []
        thread = threading.Thread(target=self._publish, args=(ending, failures), name="load", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join(300)
        if failures:
            raise failures[0]

    def _publish(self, ending: threading.Event, failures: list[BaseException]) -> None:
        try:
            with self._publishing() as publish:
                began, sent = time.monotonic(), 0
                while not ending.wait(_TICK_S):
                    due = max(0, int((time.monotonic() - began) * self._rate) - sent)
                    publish(due)
                    sent += due
        except BaseException as error:
            failures.append(error)

    def _strike(self, began: float) -> None:
        slots = len(self._workers.slots)
        waiting = plan(self._seed, self._seconds, slots, SESSION_S, disks=self._stage.disks)
        for event in waiting:
            say(f"  planned at {event.at_s:5.0f} s: {describe(event, None)}")
        last_said = began
        while (now := time.monotonic()) - began < self._seconds:
            while waiting and waiting[0].at_s <= now - began:
                self._faults.begin(waiting.pop(0))
            self._faults.pass_time(now)
            if now - last_said >= 15:
                last_said = now
                self._workers.measure()
                say(f"{now - began:5.0f} s: {sum(self.report.survived.values())} faults so far")
            time.sleep(_TICK_S)

    # --- the end -----------------------------------------------------------------------------------------------

    def _catch_up(self, ended: float) -> None:
        """Until those who are left have written all of it; then they leave in order, which commits it.

        What a killed worker had written, or one that left too soon, may have to be written again: then until the rest
        is committed.
        """
        deadline = time.monotonic() + HEAL_S
        self._wait_for(self._to_write, deadline)
        self._faults.remove_all(60)
        if self._to_commit():
            self._faults.fill()
            self._wait_for(self._to_commit, deadline)
            self._faults.remove_all(60)
        self.report.caught_up_s = time.monotonic() - ended

    def _wait_for(self, to_go: Callable[[], int], deadline: float) -> None:
        last_said = 0.0
        while left := to_go():
            self._workers.measure()
            self._faults.reap()
            if time.monotonic() - last_said > 5:
                last_said = time.monotonic()
                say(f"catching up: {left} records to go")
            if time.monotonic() > deadline:
                say(f"NOT caught up within {HEAL_S:.0f} s")
                return
            time.sleep(0.5)

    def _to_write(self) -> int:
        left = 0
        for group in self._groups:
            written = self._workers.written(group)
            for log, (at, end) in self._offsets(group).items():
                left += end - min(end, max(at, written.get(log, 0)))
        return left

    def _to_commit(self) -> int:
        return sum(end - max(0, at) for group in self._groups for at, end in self._offsets(group).values())

    def _offsets(self, group: Group) -> dict[tuple[str, int], tuple[int, int]]:
        """By Kafka partition: committed and end."""
        return {
            (topic, number): offsets
            for topic in group.topics
            for number, offsets in committed_and_end(self._stage.bootstrap, group.name, topic).items()
        }

    # --- the verdict -------------------------------------------------------------------------------------------

    def _compare_between(self) -> None:
        """With no worker running: nothing below the committed offsets may be missing, and the ledger must be true."""
        say("  comparing what is stored")
        with self._stage.client() as client:
            found = self._judged(judge_prefix, client)
        forgotten = self._forgotten_deletes() if self._stage.jobs.cut_off else []
        found.ahead = [line for line in found.ahead if not any(is_about(line, name) for name in forgotten)]
        self.report.prefix_checks += 1
        strange = [f"never produced: {name}" for name in found.resurrected]
        self.report.verdict.add(Verdict(ahead=found.ahead + strange, ledger_wrong=found.ledger_wrong))

    def _judge_end(self) -> None:
        say("judging")
        report = self.report
        report.records = sum(end for _, end in self._offsets(self._groups[0]).values())
        with self._stage.client() as client:
            found = self._judged(judge, client)
            if self._stage.jobs.cut_off:
                found.set_apart(self._begun_by_jobs(found))
            report.verdict.add(found)
            if found.shared:
                report.verdict.unnoticed += self._unnoticed(Verdict(shared=found.shared), client)
            if report.verdict.harms:
                scopes = [group.scope(self._stage.bootstrap) for group in self._groups]
                self.proof += prove(report.verdict, scopes, client, self._stage.folder)
        report.documents, report.rows = report.verdict.expected_documents, report.verdict.stored_rows
        report.dead_letters = report.verdict.expected_dead_letters
        report.worker_starts = sum(slot.starts for slot in self._workers.slots)
        report.unexpected_ends = self._workers.unexpected + self._stage.jobs.unexpected
        report.jobs = self._stage.jobs.ended
        report.peak_rss_mib = self._workers.peak_rss / 2**20
        report.proxied_faults = sum(slot.kafka.refused + slot.milvus.refused for slot in self._workers.slots)

    def _forgotten_deletes(self) -> list[str]:
        """Documents that were deleted and of which a replay that was cut off may have written an older record again."""
        forgetting = [group for group in self._groups if group.forgets]
        scopes = [read_scope(group.scope(self._stage.bootstrap)) for group in forgetting]
        return [
            name
            for scope in scopes
            for name, history in scope.versions.items()
            if any(version.document is None for version in history)
        ]

    def _begun_by_jobs(self, found: Verdict) -> set[str]:
        """Documents that a job may have begun and not finished: an audit finds and a repair finishes them.

        A replay writes a document again whose delete is forgotten, and deletes it again before its end.
        """
        names = {*found.pending}
        for group in (group for group in self._groups if group.forgets):
            versions = read_scope(group.scope(self._stage.bootstrap)).versions
            names |= {name for name, history in versions.items() if history.newest.document is None}
        return names

    def _unnoticed(self, differing: Verdict, client: MilvusClient) -> Iterator[str]:
        """What `audit` does not find of these shared documents, and what is wrong with them after `audit --repair`."""
        for group in (group for group in self._groups if not group.contract.append):
            scope = group.scope(self._stage.bootstrap)
            versions = read_scope(scope).versions
            # Where a clock decides, an audit accepts both.
            names = [name for name, history in versions.items() if not history.decided_by_clocks]
            names = [name for name in names if differing.about(name)]
            say(f"{group.name}: {len(names)} documents of several owners differ; auditing")
            findings = self._stage.jobs.report(group)["findings"]
            self._stage.jobs.report(group, "--repair")
            yield from sorted({*names} - {name_of(each["tenant"], each["doc_id"]) for each in findings})
            after = judge(scope, client)
            yield from [f"after the repair: {line}" for name in names for line in after.about(name)]

    def _judged(self, by: _Judge, client: MilvusClient) -> Verdict:
        """The verdict on every group; of one that has differences after its collection was loaded again.

        Milvus 2.3.5 misses deletes while it loads a segment. It does so without any fault, and forgets them in memory
        only: loaded again, it shows what it stores (docs/guarantees.md). What is gone then is reported apart.
        """
        total = Verdict()
        for group in self._groups:
            scope = group.scope(self._stage.bootstrap)
            found = by(scope, client)
            if found.harms:
                say(f"{group.name}: {found.harms} differences; loading the collection again")
                before = prove(found, [scope], client, self._stage.folder)
                if _loaded_again(client, scope.collection):
                    shown, found = found, by(scope, client)
                    gone = _gone(shown, found)
                    self.report.shown_until_reload += gone
                    if gone:
                        self.proof += f"shown until a reload: {dict(gone)}\n{before}"
            total.add(found)
        return total


def _loaded_again(client: MilvusClient, collection: str) -> bool:
    """Whether the server could load the collections again; a busy one needs minutes."""
    try:
        for name in (collection, f"{collection}__ledger"):
            if client.has_collection(name):
                client.release_collection(name)
                client.load_collection(name, timeout=_LOAD_S)
    except MilvusException as error:
        say(f"it cannot be loaded again: {error}")
        return False
    return True


def _gone(shown: Verdict, found: Verdict) -> Counter[str]:
    """Differences by kind that were shown at first and are there no more."""
    still = {kind: len(some) for kind, some in found.found.items()}
    return Counter({kind: len(some) - still.get(kind, 0) for kind, some in shown.found.items()}) + Counter()
