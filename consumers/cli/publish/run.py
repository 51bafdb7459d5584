"""A run of `milvus-stream publish`: check every row, send what has changed, remember it."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfileobj
from typing import Any

from consumers.cli.common.output import one_line, progress_line, stderr
from consumers.cli.publish.manifest import Target, manifest_path, read_manifest, write_manifest
from consumers.cli.publish.plan import (
    SHOWN,
    Checker,
    Plan,
    Problem,
    make_plan,
    manifest_after,
    manifest_before,
    to_send,
    vanished,
)
from consumers.cli.publish.rows import Row, Shape, json_lines, read_rows, renames
from consumers.config import Settings
from consumers.kafka import KafkaSettings, MissingTopic, Publisher, TopicFacts, topic_facts
from consumers.wiring.connections import kafka_settings
from consumers.wiring.documents import decoder
from consumers.wiring.modes import mode_of
from pipeline.errors import UsageError

_STDIN = Path("-")
_OVERHEAD = 512
"""Bytes of a batch around one record."""
_SHOW_EACH = 500


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    path: Path
    topic: str | None = None
    id_from: str | None = None
    time_from: str | None = None
    text_from: str | None = None
    rate: float | None = None
    all: bool = False
    delete_missing: bool = False
    dry_run: bool = False


@dataclass(slots=True)
class Report:
    """What a run did, or would do."""

    topic: str
    dry_run: bool
    rows: int = 0
    sent: int = 0
    unchanged: int = 0
    deleted: int = 0
    rejected: int = 0
    problems: list[Problem] = field(default_factory=list)
    """The first ones."""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        counts = {name: getattr(self, name) for name in ("rows", "sent", "unchanged", "deleted", "rejected")}
        problems = [problem.as_dict() for problem in self.problems]
        return {"topic": self.topic, "dry_run": self.dry_run, **counts, "problems": problems}

    def line(self) -> str:
        """The summary."""
        verb = "would send" if self.dry_run else "sent"
        return (
            f"{self.topic}: {self.rows:,} rows read, {verb} {self.sent:,} records and {self.deleted:,} deletes, "
            f"{self.unchanged:,} documents unchanged, {self.rejected:,} rows rejected"
        )


def run(settings: Settings, options: Options) -> Report:
    """Publish the rows. Raises UsageError before anything is sent, Unavailable."""
    topic = _topic(settings, options)
    shape = _shape(settings, options)
    kafka = kafka_settings(settings)
    facts = _facts(kafka, topic)
    target = Target(topic, facts.topic_id or kafka.bootstrap_servers)
    report = Report(topic, options.dry_run)
    with ExitStack() as stack:
        rows = _rows(options.path, shape, stack)
        manifest = None if options.path == _STDIN else manifest_path(options.path)
        published = _published(manifest, target)
        checker = _checker(settings, topic, facts)
        progress = stack.enter_context(progress_line())
        known: Mapping[str, str] = {} if options.all else published

        def on_problem(problem: Problem) -> None:
            if len(report.problems) < SHOWN:
                report.problems.append(problem)
                stderr().print(one_line(f"{problem.where}: {problem.why}"))

        def on_row(count: int) -> None:
            if count % _SHOW_EACH == 0:
                progress("rows checked", count, None)

        plan = make_plan(rows, checker, known, on_problem, on_row)
        gone = _to_delete(plan, published) if options.delete_missing else []
        report.rows, report.rejected = plan.rows, plan.problems
        report.sent, report.unchanged, report.deleted = (
            len(plan.pending),
            len(plan.digests) - len(plan.pending),
            len(gone),
        )
        if options.dry_run:
            return report
        if manifest is not None and (plan.pending or gone):
            write_manifest(manifest, target, manifest_before(plan, published, gone))
        pace = _Pace(options.rate)
        with Publisher(kafka) as publisher:
            for count, checked in enumerate(to_send(rows(), checker, plan), 1):
                pace.wait()
                publisher.send(topic, checked.doc_id.encode(), checked.value)
                if count % _SHOW_EACH == 0:
                    progress("records sent", count, len(plan.pending))
            for doc_id in gone:
                pace.wait()
                publisher.send(topic, doc_id.encode(), None)
        if manifest is not None:
            write_manifest(manifest, target, manifest_after(plan, published, gone))
    return report


def _topic(settings: Settings, options: Options) -> str:
    if options.delete_missing:
        if options.path == _STDIN:
            raise UsageError("--delete-missing: of stdin nothing is remembered; name a file or a folder")
        if settings.record.tenant_field is not None:
            raise UsageError("--delete-missing: record.tenant_field is set, and a tombstone cannot name a tenant")
        if not mode_of(settings).one_version:
            raise UsageError("--delete-missing: in mode append there is nothing to delete")
    topics = settings.kafka.topics
    if options.topic is None and len(topics) != 1:
        raise UsageError(f"--topic: name one of kafka.topics ({', '.join(topics)})")
    topic = options.topic or topics[0]
    if topic == settings.kafka.dead_letter_topic:
        raise UsageError(f"--topic {topic} is kafka.dead_letter_topic: name a topic for documents")
    return topic


def _shape(settings: Settings, options: Options) -> Shape:
    record = settings.record
    if record.format not in ("auto", "json"):
        raise UsageError(f"record.format is {record.format}; publish writes JSON objects: set it to auto or json")
    renamed = renames(
        (
            ("--id-from", options.id_from, record.id_field),
            ("--time-from", options.time_from, record.time_field),
            ("--text-from", options.text_from, record.text_field),
        )
    )
    if renamed and options.path.is_dir():
        raise UsageError("--id-from, --time-from and --text-from are for rows with fields; a folder of texts has none")
    return Shape(record.id_field, record.text_field, record.time_field, renamed, settings.kafka.max_record_bytes)


def _facts(kafka: KafkaSettings, topic: str) -> TopicFacts:
    facts = topic_facts(kafka, (topic,))[topic]
    if isinstance(facts, MissingTopic):
        near = f" Did you mean {' or '.join(facts.similar)}?" if facts.similar else ""
        raise UsageError(f"--topic: there is no topic {topic} on {kafka.bootstrap_servers}; create it first.{near}")
    return facts


def _rows(path: Path, shape: Shape, stack: ExitStack) -> Callable[[], Iterator[Row]]:
    """The rows, to be read several times; stdin is copied to a temporary file."""
    if path != _STDIN:
        if not path.exists():
            raise UsageError(f"{path}: there is no such file or folder")
        return lambda: read_rows(path, shape)
    spool = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
    copyfileobj(sys.stdin.buffer, spool)

    def again() -> Iterator[Row]:
        spool.seek(0)
        return json_lines(spool, "-", shape)

    return again


def _published(manifest: Path | None, target: Target) -> Mapping[str, str]:
    """What the last run published to this topic; nothing where it published to another one."""
    found = None if manifest is None else read_manifest(manifest)
    if found is None:
        return {}
    if found[0] != target:
        stderr().print(one_line(f"{manifest} is of another topic ({found[0].topic}): everything is sent"))
        return {}
    return found[1]


def _checker(settings: Settings, topic: str, facts: TopicFacts) -> Checker:
    limit = settings.kafka.max_record_bytes
    if facts.max_message_bytes is not None:
        limit = min(limit, facts.max_message_bytes - _OVERHEAD)
    # As in mode upsert, where a row without an id is refused: in append mode its place in Kafka would be its id.
    with_ids = decoder(settings.model_copy(update={"mode": "upsert"}))
    return Checker(with_ids, topic, time.time_ns() // 1_000_000, limit, deletes=mode_of(settings).one_version)


def _to_delete(plan: Plan, published: Mapping[str, str]) -> list[str]:
    """The documents to delete; none while a row is rejected, because it may be the one of a missing document."""
    gone = vanished(plan, published)
    if gone and plan.problems:
        stderr().print(f"{len(gone):,} documents are missing and not deleted: first correct the rejected rows")
        return []
    return gone


class _Pace:
    """At most so many records a second."""

    def __init__(self, rate: float | None) -> None:
        self._interval = 0.0 if rate is None else 1 / rate
        self._next = time.monotonic()

    def wait(self) -> None:
        """Wait until the next record may be sent."""
        if not self._interval:
            return
        now = time.monotonic()
        if self._next > now:
            time.sleep(self._next - now)
        self._next = max(self._next, now) + self._interval
