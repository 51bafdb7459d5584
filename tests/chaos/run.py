"""One run: servers, workers and load up, faults by the schedule, then everything healed and judged."""

import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from pymilvus import MilvusClient

from pipeline.embedding import HashEmbedder
from tests.chaos.proxy import Fault, FaultProxy
from tests.chaos.schedule import WHOLE_SYSTEM, Event, plan
from tests.chaos.servers import Killable, make_kafka, make_milvus
from tests.chaos.workers import Slot, Workers
from tests.support.load import Load, Publisher
from tests.support.observed import Observation
from tests.support.oracle import OffsetWatch, Verdict, committed_and_end, judge, judge_prefix

TOPIC, LETTERS, GROUP, COLLECTION = "documents", "documents.dlq", "chaos", "chaos"
KAFKA_PARTITIONS = 6
SLOTS, WORKERS = 4, 3
SESSION_S = 10.0
MODEL = "hash:32"
HEAL_S = 300.0
_TICK_S = 0.05


@dataclass
class Report:
    """What a run has shown."""

    seed: int
    minutes: float
    survived: Counter[str] = field(default_factory=Counter)
    """Faults by kind."""
    records: int = 0
    documents: int = 0
    rows: int = 0
    dead_letters: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    prefix_checks: int = 0
    longest_stall_s: float = 0.0
    """Longest time without a commit while load ran and no fault hit everybody."""
    longest_stall_with_outages_s: float = 0.0
    caught_up_s: float = 0.0
    """From the last record to lag 0, everything healed."""
    worker_starts: int = 0
    unexpected_ends: list[str] = field(default_factory=list)
    peak_rss_mib: float = 0.0
    shown_until_reload: int = 0
    """Differences that were gone once Milvus had loaded the collection anew."""
    proxied_faults: int = 0
    """Connections and pieces of data that a proxy has harmed."""

    @property
    def harms(self) -> int:
        """Everything that must be 0."""
        return self.verdict.harms

    def as_dict(self) -> dict[str, Any]:
        """For the last line of the output."""
        found = self.verdict
        return {
            "seed": self.seed,
            "minutes": self.minutes,
            "faults": dict(sorted(self.survived.items())),
            "faults_total": sum(self.survived.values()),
            "records": self.records,
            "documents": self.documents,
            "rows": self.rows,
            "dead_letters": self.dead_letters,
            "lost": len(found.lost),
            "duplicates": len(found.duplicates),
            "stale": len(found.stale),
            "misplaced": len(found.misplaced),
            "resurrected": len(found.resurrected),
            "dead_letters_missing": len(found.dead_letters_missing),
            "dead_letters_wrong": len(found.dead_letters_wrong),
            "ledger_wrong": len(found.ledger_wrong),
            "offsets_ahead": len(found.ahead),
            "offsets_behind": len(found.offsets_behind),
            "harms": self.harms,
            "shown_until_reload": self.shown_until_reload,
            "prefix_checks": self.prefix_checks,
            "longest_stall_s": round(self.longest_stall_s, 1),
            "longest_stall_with_outages_s": round(self.longest_stall_with_outages_s, 1),
            "caught_up_s": round(self.caught_up_s, 1),
            "worker_starts": self.worker_starts,
            "unexpected_ends": len(self.unexpected_ends),
            "peak_rss_mib": round(self.peak_rss_mib),
            "proxied_faults": self.proxied_faults,
        }


class Chaos:
    """Everything that runs. Use as a context manager; `go` makes the run."""

    def __init__(self, folder: Path, seed: int, seconds: float, rate: float) -> None:
        self._folder = folder
        self._seed = seed
        self._seconds = seconds
        self._rate = rate
        self._stack = ExitStack()
        self.report = Report(seed, seconds / 60)
        self._leaving: set[int] = set()
        self._outages: list[tuple[float, float]] = []
        self._ends: list[tuple[float, Event]] = []

    def __enter__(self) -> "Chaos":
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- up ----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        say("starting Apache Kafka and Milvus")
        broker = make_kafka(self._folder / "kafka", SLOTS)
        milvus = make_milvus(self._folder / "milvus")
        kafka_proxies = [FaultProxy(port, self._seed + n) for n, port in enumerate(broker.listeners)]
        broker.advertise([proxy.port for proxy in kafka_proxies])
        self._stack.callback(broker.stop)
        self._stack.callback(milvus.stop)
        broker.launch()
        milvus.launch()
        self._bootstrap = broker.await_ready()
        self._uri = milvus.await_ready()
        self._broker, self._milvus = Killable(broker), Killable(milvus)
        milvus_port = int(self._uri.rpartition(":")[2])
        slots = [
            Slot(number, proxy, FaultProxy(milvus_port, self._seed + 100 + number))
            for number, proxy in enumerate(kafka_proxies)
        ]
        self._workers = Workers(slots, self._folder, self._settings(), self._folder / "refuse-flushes")
        self._stack.callback(self._workers.end)
        self._create_topics()

    def _settings(self) -> dict[str, Any]:
        return {
            "kafka": {
                "topics": [TOPIC],
                "group_id": GROUP,
                "dead_letter_topic": LETTERS,
                "session_timeout": f"{SESSION_S:.0f}s",
            },
            "milvus": {"collection": COLLECTION, "timeout": "2s"},
            "embedding": {"model": MODEL},
            "chunking": {"max_tokens": 24, "overlap": 4},
            "batch": {"max_records": 200, "max_wait": "200ms"},
            "telemetry": {"port": 0, "log_format": "json"},
        }

    def _create_topics(self) -> None:
        admin = AdminClient({"bootstrap.servers": self._bootstrap})
        made = admin.create_topics([NewTopic(TOPIC, KAFKA_PARTITIONS, 1), NewTopic(LETTERS, 2, 1)])
        for each in made.values():
            each.result(30)

    # --- the run -----------------------------------------------------------------------------------------------

    def go(self) -> Report:
        """Load and faults for the time given; then heal, catch up and judge."""
        for slot in self._workers.slots[:WORKERS]:
            self._workers.start(slot)
        with OffsetWatch(self._bootstrap, TOPIC, GROUP) as watch:
            self._await_first_commit(watch)
            began = time.monotonic()
            with self._load():
                self._strike(began)
            ended = time.monotonic()
            self._heal()
            self._catch_up(ended)
        self.report.verdict.ahead += watch.check()
        self._stalls(watch.observations, began, ended)
        self._stop_workers()
        self._judge()
        return self.report

    def _await_first_commit(self, watch: OffsetWatch) -> None:
        publisher = Publisher(self._bootstrap, TOPIC)
        self._source = Load(self._seed, KAFKA_PARTITIONS)
        publisher.publish(self._source.next_records(200))
        publisher.flush(60)
        publisher.close()
        deadline = time.monotonic() + 90
        while not (watch.observations and sum(watch.observations[-1].offsets.values())):
            self._reap()
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing was committed within 90 s; the workers' logs are in {self._folder}")
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
        publisher = Publisher(self._bootstrap, TOPIC)
        try:
            began, sent = time.monotonic(), 0
            while not ending.wait(_TICK_S):
                due = int((time.monotonic() - began) * self._rate) - sent
                publisher.publish(self._source.next_records(max(0, due)))
                sent += max(0, due)
            publisher.flush(100)
        except BaseException as error:
            failures.append(error)
        finally:
            publisher.close()

    def _strike(self, began: float) -> None:
        waiting = plan(self._seed, self._seconds, SLOTS, SESSION_S)
        for event in waiting:
            say(f"  planned at {event.at_s:5.0f} s: {describe(event)}")
        told = began
        while (now := time.monotonic()) - began < self._seconds:
            while waiting and waiting[0].at_s <= now - began:
                self._begin(waiting.pop(0))
            self._finish(now)
            self._reap()
            if now - told >= 15:
                told = now
                self._workers.measure()
                say(f"{now - began:5.0f} s: {sum(self.report.survived.values())} faults so far")
            time.sleep(_TICK_S)

    def _begin(self, event: Event) -> None:  # noqa: PLR0912 - a table of what each fault does
        slot = self._workers.slots[event.slot]
        say(f"  {describe(event)}")
        match event.kind:
            case "kill worker":
                self._workers.kill(slot)
            case "freeze worker":
                self._workers.freeze(slot)
            case "add worker":
                slot = next((each for each in self._workers.slots if not each.running), slot)
                if not slot.running:
                    self._workers.start(slot)
            case "remove worker":
                if sum(each.running for each in self._workers.slots) > 1 and slot.running:
                    self._leaving.add(slot.number)
                    self._workers.remove(slot)
            case "delay":
                longest = 0.05 + 1.95 * event.number
                slot.inject(event.link, Fault("delay", (0.05, longest)))
            case "blackhole":
                slot.inject(event.link, Fault("blackhole"))
            case "reset":
                slot.inject(event.link, Fault("reset"))
            case "cut replies":
                slot.inject(event.link, Fault("cut", after_bytes=int(event.number * 2000)))
            case "flush refused":
                self._workers.refusing.touch()
            case "dead letters refused":
                self._refuse_letters(yes=True)
            case "kill broker":
                self._broker.kill()
            case "kill milvus":
                self._milvus.kill()
                self._milvus.launch()
            case "kill everything":
                for each in self._workers.slots:
                    self._workers.kill(each)
                self._judge_prefix()
        now = time.monotonic()
        if event.kind in WHOLE_SYSTEM:
            self._outages.append((now - 1.0, now + event.seconds + 2 * SESSION_S))
        self.report.survived[event.kind] += 1
        self._ends.append((now + event.seconds, event))

    def _finish(self, now: float) -> None:
        over = [event for at, event in self._ends if at <= now]
        self._ends = [(at, event) for at, event in self._ends if at > now]
        for event in over:
            slot = self._workers.slots[event.slot]
            match event.kind:
                case "kill worker" | "remove worker":
                    self._fill()
                case "freeze worker":
                    self._workers.thaw(slot)
                case "delay" | "blackhole" | "reset" | "cut replies":
                    slot.heal()
                case "flush refused":
                    self._workers.refusing.unlink(missing_ok=True)
                case "dead letters refused":
                    self._refuse_letters(yes=False)
                case "kill broker":
                    self._broker.launch()
                case "kill everything":
                    self._fill()

    def _fill(self) -> None:
        """There are to be so many workers again."""
        for slot in self._workers.slots:
            if sum(each.running for each in self._workers.slots) >= WORKERS:
                return
            if slot.process is None:
                self._workers.start(slot)

    def _reap(self) -> None:
        for slot in self._workers.reap(self._leaving):
            say(f"  {self._workers.unexpected[-1]}")
            self._workers.start(slot)

    def _refuse_letters(self, *, yes: bool) -> None:
        """One broker cannot give two in-sync replicas, so it refuses what must be confirmed by all."""
        entry = ConfigEntry("min.insync.replicas", "2" if yes else "1", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, LETTERS, incremental_configs=[entry])
        with suppress(Exception):  # the broker may be down at this moment; at the end it is set for certain
            for each in (
                AdminClient({"bootstrap.servers": self._bootstrap}).incremental_alter_configs([resource]).values()
            ):
                each.result(5)

    # --- the end -----------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        say("healing everything")
        for _, event in self._ends:
            if event.kind == "kill broker":
                self._broker.launch()
        self._broker.await_ready()
        self._ends.clear()
        self._workers.refusing.unlink(missing_ok=True)
        for slot in self._workers.slots:
            self._workers.thaw(slot)
            slot.heal()
        self._refuse_letters(yes=False)
        self._reap()
        self._fill()

    def _catch_up(self, ended: float) -> None:
        deadline = time.monotonic() + HEAL_S
        told = 0.0
        while True:
            offsets = committed_and_end(self._bootstrap, GROUP, TOPIC)
            lag = sum(end - max(0, at) for at, end in offsets.values())
            self._workers.measure()
            self._reap()
            if lag == 0:
                break
            if time.monotonic() - told > 5:
                told = time.monotonic()
                say(f"catching up: {lag} records to go")
            if time.monotonic() > deadline:
                say(f"NOT caught up within {HEAL_S:.0f} s")
                break
            time.sleep(0.5)
        self.report.caught_up_s = time.monotonic() - ended
        self.report.records = sum(end for _, end in offsets.values())

    def _stop_workers(self) -> None:
        for slot in self._workers.slots:
            self._leaving.add(slot.number)
            self._workers.remove(slot)
        deadline = time.monotonic() + 60
        while any(slot.running for slot in self._workers.slots) and time.monotonic() < deadline:
            time.sleep(_TICK_S)
        self._workers.reap(self._leaving)

    def _judge_prefix(self) -> None:
        """With no worker running: nothing below the committed offsets may be missing, and the ledger must be true."""
        say("  looking at what is stored")
        self._broker.await_ready()
        with self._client() as client:
            found = judge_prefix(self._bootstrap, TOPIC, GROUP, LETTERS, client, COLLECTION, vector_of=_vector)
        self.report.prefix_checks += 1
        self.report.verdict.ahead += found.ahead
        self.report.verdict.ledger_wrong += found.ledger_wrong

    def _judge(self) -> None:
        """What is stored, looked at twice: Milvus 2.3.5 misses deletes while it loads a segment (docs/guarantees.md).

        It does so without any fault, and forgets them in memory only: loaded anew, it shows what it stores. What the
        first look finds and the second does not is reported as the server's.
        """
        say("judging")
        report = self.report
        with self._client() as client:
            found = judge(self._bootstrap, TOPIC, GROUP, LETTERS, client, COLLECTION, vector_of=_vector)
            if found.harms:
                say(f"{found.harms} differences; loading the collection anew")
                report.shown_until_reload = found.harms
                for name in (COLLECTION, f"{COLLECTION}__ledger"):
                    client.release_collection(name)
                    client.load_collection(name, timeout=120)
                found = judge(self._bootstrap, TOPIC, GROUP, LETTERS, client, COLLECTION, vector_of=_vector)
                report.shown_until_reload -= found.harms
        found.ahead += report.verdict.ahead
        found.ledger_wrong += report.verdict.ledger_wrong
        report.verdict = found
        report.documents, report.rows = found.expected_documents, found.stored_rows
        report.dead_letters = found.expected_dead_letters
        report.worker_starts = sum(slot.starts for slot in self._workers.slots)
        report.unexpected_ends = self._workers.unexpected
        report.peak_rss_mib = self._workers.peak_rss / 2**20
        report.proxied_faults = sum(slot.kafka.refused + slot.milvus.refused for slot in self._workers.slots)

    @contextmanager
    def _client(self) -> Iterator[MilvusClient]:
        with closing(MilvusClient(self._uri, dedicated=True)) as client:
            yield client

    def _stalls(self, observations: list[Observation], began: float, ended: float) -> None:
        last_at, last = began, -1
        for seen in observations:
            total = sum(seen.offsets.values())
            if total != last or seen.at > ended:
                stall = min(seen.at, ended) - last_at
                self.report.longest_stall_with_outages_s = max(self.report.longest_stall_with_outages_s, stall)
                if not any(start < seen.at and last_at < end for start, end in self._outages):
                    self.report.longest_stall_s = max(self.report.longest_stall_s, stall)
                last_at, last = seen.at, total
            if seen.at > ended:
                break


def describe(event: Event) -> str:
    """For the log."""
    where = {
        "kill worker": f"slot {event.slot}",
        "freeze worker": f"slot {event.slot}",
        "remove worker": f"slot {event.slot}",
        "delay": f"slot {event.slot}, {event.link}",
        "blackhole": f"slot {event.slot}, {event.link}",
        "reset": f"slot {event.slot}, {event.link}",
        "cut replies": f"slot {event.slot}, {event.link}",
    }.get(event.kind, "")
    return f"{event.kind} {where} for {event.seconds:.1f} s".replace("  ", " ")


def say(text: str) -> None:
    """Progress, for people."""
    sys.stderr.write(f"chaos: {time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def keep_proof(folder: Path, report: Report) -> Path:
    """Copy logs and the verdict to where they outlast the run; returns the folder."""
    kept = Path.cwd() / ".data" / f"chaos-{report.seed}-{os.getpid()}"
    kept.mkdir(parents=True, exist_ok=True)
    for each in folder.glob("*.log"):
        shutil.copy(each, kept)
    lines = [repr(report.verdict)]
    lines += [f"{kind}: {one}" for kind, some in report.verdict.found.items() for one in some]
    (kept / "harms.txt").write_text("\n".join(lines) + "\n")
    return kept


def _vector(text: str) -> Any:
    return HashEmbedder(MODEL).embed_queries([text])[0]
