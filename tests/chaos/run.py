"""One run: load and faults by the schedule, then everything healed, caught up and judged."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pymilvus import MilvusClient

from tests.chaos.faults import Faults, describe
from tests.chaos.proof import prove
from tests.chaos.report import Report, say
from tests.chaos.schedule import plan
from tests.chaos.stage import (
    COLLECTION,
    GROUP,
    KAFKA_PARTITIONS,
    LETTERS,
    SESSION_S,
    SLOTS,
    TOPIC,
    WORKERS,
    Stage,
    vector_of,
)
from tests.support.oracle.stored import OffsetWatch, Verdict, committed_and_end, judge, judge_prefix
from tests.support.rigs.load import Load, publisher

HEAL_S = 300.0
"""Everything healed: within this time the group has caught up, or does not."""
_TICK_S = 0.05
_Judge = Callable[..., Verdict]


class Chaos:
    """`go` makes the run on a stage that nobody has played on."""

    def __init__(self, stage: Stage, seed: int, seconds: float, rate: float) -> None:
        self._stage = stage
        self._workers = stage.workers
        self._seed = seed
        self._seconds = seconds
        self._rate = rate
        self._source = Load(seed, KAFKA_PARTITIONS)
        self.report = Report(seed, seconds / 60)
        self.proof = ""
        """Of the harm, if there was some."""
        self._faults = Faults(stage, self.report, self._look_between)

    def go(self) -> Report:
        """Load and faults for the time given; then heal, catch up and judge."""
        for slot in self._workers.slots[:WORKERS]:
            self._workers.start(slot)
        with OffsetWatch(self._stage.bootstrap, TOPIC, GROUP) as watch:
            self._await_work()
            began = time.monotonic()
            with self._load():
                self._strike(began)
            ended = time.monotonic()
            self._faults.heal()
            self._catch_up(ended)
        self.report.verdict.ahead += watch.check()
        self.report.measure_stalls(watch.observations, began, ended, self._faults.outages)
        self._judge_end()
        return self.report

    # --- load and faults ---------------------------------------------------------------------------------------

    def _await_work(self) -> None:
        with publisher(self._stage.bootstrap, TOPIC) as sender:
            sender.publish(self._source.next_records(200))
            sender.flush(60)
        logs = [self._stage.folder / f"{slot.name}.log" for slot in self._workers.slots[:WORKERS]]
        deadline = time.monotonic() + 90
        while not all(b'"batch.written"' in log.read_bytes() for log in logs):
            if time.monotonic() > deadline or not all(slot.running for slot in self._workers.slots[:WORKERS]):
                raise RuntimeError(f"the workers do not work: {logs[0].read_text()[-2000:]}")
            time.sleep(_TICK_S)
        say("the workers are at work")

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
            thread.join(120)
        if failures:
            raise failures[0]

    def _publish(self, ending: threading.Event, failures: list[BaseException]) -> None:
        try:
            with publisher(self._stage.bootstrap, TOPIC) as sender:
                began, sent = time.monotonic(), 0
                while not ending.wait(_TICK_S):
                    due = max(0, int((time.monotonic() - began) * self._rate) - sent)
                    sender.publish(self._source.next_records(due))
                    sent += due
                sender.flush(100)
        except BaseException as error:
            failures.append(error)

    def _strike(self, began: float) -> None:
        waiting = plan(self._seed, self._seconds, SLOTS, SESSION_S)
        for event in waiting:
            say(f"  planned at {event.at_s:5.0f} s: {describe(event, None)}")
        told = began
        while (now := time.monotonic()) - began < self._seconds:
            while waiting and waiting[0].at_s <= now - began:
                self._faults.begin(waiting.pop(0))
            self._faults.pass_time(now)
            if now - told >= 15:
                told = now
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
        told = 0.0
        while left := to_go():
            self._workers.measure()
            self._faults.reap()
            if time.monotonic() - told > 5:
                told = time.monotonic()
                say(f"catching up: {left} records to go")
            if time.monotonic() > deadline:
                say(f"NOT caught up within {HEAL_S:.0f} s")
                return
            time.sleep(0.5)

    def _to_write(self) -> int:
        written = self._workers.written()
        return sum(end - min(end, max(at, written.get(number, 0))) for number, (at, end) in self._offsets().items())

    def _to_commit(self) -> int:
        return sum(end - max(0, at) for at, end in self._offsets().values())

    def _offsets(self) -> dict[int, tuple[int, int]]:
        """By Kafka partition: committed and end."""
        offsets = committed_and_end(self._stage.bootstrap, GROUP, TOPIC)
        self.report.records = sum(end for _, end in offsets.values())
        return offsets

    # --- the verdict -------------------------------------------------------------------------------------------

    def _look_between(self) -> None:
        """With no worker running: nothing below the committed offsets may be missing, and the ledger must be true."""
        say("  looking at what is stored")
        self._stage.broker.await_ready()
        with self._stage.client() as client:
            found = self._judged(judge_prefix, client)
        self.report.prefix_checks += 1
        self.report.verdict.ahead += found.ahead
        self.report.verdict.ledger_wrong += found.ledger_wrong

    def _judge_end(self) -> None:
        say("judging")
        report = self.report
        with self._stage.client() as client:
            found = self._judged(judge, client)
            found.ahead += report.verdict.ahead
            found.ledger_wrong += report.verdict.ledger_wrong
            if found.harms:
                self.proof = prove(found, self._stage.bootstrap, client, self._stage.folder)
        report.verdict = found
        report.documents, report.rows = found.expected_documents, found.stored_rows
        report.dead_letters = found.expected_dead_letters
        report.worker_starts = sum(slot.starts for slot in self._workers.slots)
        report.unexpected_ends = self._workers.unexpected
        report.peak_rss_mib = self._workers.peak_rss / 2**20
        report.proxied_faults = sum(slot.kafka.refused + slot.milvus.refused for slot in self._workers.slots)

    def _judged(self, by: _Judge, client: MilvusClient) -> Verdict:
        """What is stored, if need be looked at twice: Milvus 2.3.5 misses deletes while it loads a segment.

        It does so without any fault, and forgets them in memory only: loaded anew, it shows what it stores
        (docs/guarantees.md). What the first look finds and the second does not is reported as the server's.
        """
        found = self._once(by, client)
        if found.harms:
            say(f"{found.harms} differences; loading the collection anew")
            for name in (COLLECTION, f"{COLLECTION}__ledger"):
                client.release_collection(name)
                client.load_collection(name, timeout=120)
            again = self._once(by, client)
            self.report.shown_until_reload += found.harms - again.harms
            return again
        return found

    def _once(self, by: _Judge, client: MilvusClient) -> Verdict:
        return by(self._stage.bootstrap, TOPIC, GROUP, LETTERS, client, COLLECTION, vector_of=vector_of)
