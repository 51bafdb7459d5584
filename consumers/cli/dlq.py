"""`milvus-stream dlq`: the dead-letter topic, read without a group; nothing in it is changed."""

import base64
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from consumers.cli import output as tables
from consumers.cli.status import quick
from consumers.config.settings import Settings
from consumers.dead_letters import DeadLetter, decode_dead_letter
from consumers.kafka import KafkaSettings, MissingTopic, read_range, topic_facts, topic_ranges
from consumers.kafka import newest as newest_records
from consumers.wiring import common as wiring
from pipeline.errors import NotFound, UsageError
from pipeline.records import KafkaPartition, SourceRecord

_SHOWN_REASONS = 10


@dataclass(frozen=True, slots=True)
class ShownLetter:
    """A dead letter and where it stands in the dead-letter topic."""

    letter: DeadLetter

    @property
    def position(self) -> str:
        """`PARTITION/OFFSET` in the dead-letter topic: what `dlq show` takes."""
        at = self.letter.record.position
        return f"{at.partition}/{at.offset}"

    @property
    def origin(self) -> str:
        """`TOPIC/PARTITION/OFFSET` of the rejected record, as far as the letter tells."""
        parts = (self.letter.topic or None, self.letter.partition, self.letter.offset)
        return "/".join("?" if part is None else str(part) for part in parts)

    def as_dict(self, *, with_value: bool) -> dict[str, Any]:
        """For `--json`; these keys are stable.

        `position` in the dead-letter topic; `topic`, `partition`, `offset` of the rejected record; `time` of the
        rejected record; `stage`, `reason`, `message`, `truncated`. With the value also `key`, `value` (text, null, or
        {`base64`: …} where the bytes are no UTF-8), `headers` of the rejected record, and all headers of the letter
        as `letter_headers`, both as [name, value] pairs.
        """
        letter = self.letter
        about: dict[str, Any] = {
            "position": self.position,
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
            "time": _time(letter.record),
            "stage": letter.stage,
            "reason": letter.reason,
            "message": letter.message,
            "truncated": letter.truncated,
        }
        if with_value:
            record = letter.record
            about["key"] = _as_json(record.key)
            about["value"] = _as_json(record.value)
            about["headers"] = [[name, _as_json(value)] for name, value in letter.original_headers]
            about["letter_headers"] = [[name, _as_json(value)] for name, value in record.headers]
        return about


def newest(settings: Settings, limit: int, reason: str | None) -> list[ShownLetter]:
    """The last letters, the newest first; `reason` None: any. Raises UsageError for a missing topic, Unavailable."""
    kafka, topic = dead_letter_topic(settings)
    total = sum(end - start for start, end in topic_ranges(kafka, [topic]).values())
    seen: Counter[str] = Counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = tables.stderr()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"reading {topic} backwards", total=total)

        def keep(record: SourceRecord) -> bool:
            found = decode_dead_letter(record).reason
            seen[found] += 1
            progress.advance(task)
            return reason is None or found == reason

        records = newest_records(kafka, topic, limit, keep)
    if not records and seen:
        told = ", ".join(f"{tables.printable(name)} ({count})" for name, count in seen.most_common(_SHOWN_REASONS))
        sys.stderr.write(f"no dead letter has the reason {reason}; there are: {told}\n")
    return [ShownLetter(decode_dead_letter(record)) for record in records]


def one(settings: Settings, position: str) -> ShownLetter:
    """The letter at `PARTITION/OFFSET`. Raises UsageError (not a position, no topic), NotFound, Unavailable."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,18})", position)
    if match is None:
        raise UsageError(f"{position!r} is no position: write PARTITION/OFFSET as `dlq list` prints it, e.g. 0/12")
    partition, offset = int(match[1]), int(match[2])
    kafka, topic = dead_letter_topic(settings)
    ranges = topic_ranges(kafka, [topic])
    name: KafkaPartition = (topic, partition)
    if name not in ranges:
        raise NotFound(f"topic {topic} has no Kafka partition {partition}: it has {len(ranges)}, counted from 0")
    start, end = ranges[name]
    if not start <= offset < end:
        held = f"offsets {start} to {end - 1}" if start < end else "nothing"
        raise NotFound(f"there is no dead letter at {position}: Kafka partition {partition} of {topic} holds {held}")
    for record in read_range(kafka, {name: (offset, offset + 1)}):
        return ShownLetter(decode_dead_letter(record))
    raise NotFound(f"there is no dead letter at {position}: the offset is there but holds no record")


def show_list(letters: Sequence[ShownLetter]) -> None:
    """Print the letters as a table, newest first."""
    if not letters:
        sys.stderr.write("no dead letters\n")
        return
    rows = (
        (one.position, one.origin, _time(one.letter.record), one.letter.stage, one.letter.reason, one.letter.message)
        for one in letters
    )
    columns = ("position", "rejected record", "its time", "stage", "reason", "message")
    tables.stdout().print(tables.table(columns, rows))


def show_one(shown: ShownLetter) -> None:
    """Print a letter whole; what its bytes hold cannot steer the terminal."""
    letter, record = shown.letter, shown.letter.record
    console = tables.stdout()
    for name, value in (
        ("position", f"{shown.position} in {record.position.topic}"),
        ("rejected record", shown.origin),
        ("its time", _time(record) or "-"),
        ("stage", letter.stage),
        ("reason", letter.reason),
        ("message", letter.message),
        ("cut short", "yes: the headers give the full size and SHA-256" if letter.truncated else "no"),
    ):
        console.print(f"{name:<16}{tables.printable(value)}")
    for header, content in record.headers:
        console.print(f"{'header':<16}{tables.printable(header)}: {_as_text(content)}")
    console.print(f"{'key':<16}{_as_text(record.key)}")
    console.print(f"{'value':<16}{_as_text(record.value)}")


def dead_letter_topic(settings: Settings) -> tuple[KafkaSettings, str]:
    """How to reach Kafka quickly or not at all, and the topic, which is there. Raises UsageError, Unavailable."""
    kafka, topic = quick(wiring.kafka_settings(settings)), settings.kafka.dead_letter_topic
    facts = topic_facts(kafka, [topic])[topic]
    if isinstance(facts, MissingTopic):
        near = f" Did you mean {' or '.join(facts.similar)}?" if facts.similar else ""
        raise UsageError(
            f"kafka.dead_letter_topic: there is no topic {topic} on {kafka.bootstrap_servers}; a worker creates it at "
            f"its first start.{near}"
        )
    return kafka, topic


def _time(record: SourceRecord) -> str | None:
    return tables.utc(record.timestamp_ms) if record.timestamp_ms >= 0 else None


def _as_json(raw: bytes | None) -> str | dict[str, str] | None:
    if raw is None:
        return None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}


def _as_text(raw: bytes | None) -> str:
    if raw is None:
        return "(null)"
    if not raw:
        return "(empty)"
    try:
        return tables.escaped(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return f"({len(raw):,} bytes, no UTF-8; base64) {base64.b64encode(raw).decode()}"
