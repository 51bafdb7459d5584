"""`milvus-stream dlq`: the dead-letter topic, read without a group; nothing in it is changed."""

import base64
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from consumers.cli.common.inventory import dead_letter_topic
from consumers.cli.common.output import one_line, progress_line, stdout, utc
from consumers.config import Settings
from consumers.dead_letters import DeadLetter, decode_dead_letter
from consumers.kafka import newest as newest_records
from consumers.kafka import read_range, topic_ranges
from pipeline.errors import NotFound, UsageError
from pipeline.records import KafkaPartition, SourceRecord
from pipeline.telemetry import printable

_SHOWN_REASONS = 10


@dataclass(frozen=True, slots=True)
class DeadLetterView:
    """A dead letter as the commands show it."""

    dead_letter: DeadLetter

    @property
    def position(self) -> str:
        """`PARTITION/OFFSET` in the dead-letter topic: what `dlq show` takes."""
        at = self.dead_letter.record.position
        return f"{at.partition}/{at.offset}"

    @property
    def origin(self) -> str:
        """`TOPIC/PARTITION/OFFSET` of the rejected record; `?` for a part that the dead letter does not have."""
        parts = (self.dead_letter.topic or None, self.dead_letter.partition, self.dead_letter.offset)
        return "/".join("?" if part is None else str(part) for part in parts)

    def as_dict(self, *, with_value: bool) -> dict[str, Any]:
        """For `--json`; these keys are stable.

        `position` in the dead-letter topic; `topic`, `partition`, `offset` of the rejected record; `time` of the
        rejected record; `stage`, `reason`, `message`, `truncated`. With the value also `key`, `value` (text, null, or
        {`base64`: …} where the bytes are no UTF-8), `headers` of the rejected record, and all headers of the
        dead letter as `dead_letter_headers`, both as [name, value] pairs.
        """
        dead_letter = self.dead_letter
        about: dict[str, Any] = {
            "position": self.position,
            "topic": dead_letter.topic,
            "partition": dead_letter.partition,
            "offset": dead_letter.offset,
            "time": _time(dead_letter.record),
            "stage": dead_letter.stage,
            "reason": dead_letter.reason,
            "message": dead_letter.message,
            "truncated": dead_letter.truncated,
        }
        if with_value:
            record = dead_letter.record
            about["key"] = _as_json(record.key)
            about["value"] = _as_json(record.value)
            about["headers"] = [[name, _as_json(value)] for name, value in dead_letter.original_headers]
            about["dead_letter_headers"] = [[name, _as_json(value)] for name, value in record.headers]
        return about


def newest(settings: Settings, limit: int, reason: str | None) -> list[DeadLetterView]:
    """The last dead letters, the newest first; `reason` None: any. Raises UsageError (no such topic), Unavailable."""
    kafka, topic = dead_letter_topic(settings)
    total = sum(end - start for start, end in topic_ranges(kafka, [topic]).values())
    seen: Counter[str] = Counter()
    with progress_line() as progress:

        def matches(record: SourceRecord) -> bool:
            record_reason = decode_dead_letter(record).reason
            seen[record_reason] += 1
            progress(f"reading {topic} backwards", seen.total(), total)
            return reason is None or record_reason == reason

        records = newest_records(kafka, topic, limit, matches)
    if not records and seen:
        reasons = ", ".join(f"{one_line(name)} ({count})" for name, count in seen.most_common(_SHOWN_REASONS))
        sys.stderr.write(f"no dead letter has the reason {reason}; there are: {reasons}\n")
    return [DeadLetterView(decode_dead_letter(record)) for record in records]


def one(settings: Settings, position: str) -> DeadLetterView:
    """The dead letter at `PARTITION/OFFSET`. Raises UsageError (not a position, no topic), NotFound, Unavailable."""
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
        return DeadLetterView(decode_dead_letter(record))
    raise NotFound(f"there is no dead letter at {position}: the offset is there but holds no record")


def show_list(dead_letters: Sequence[DeadLetterView]) -> None:
    """Print dead letters on two lines each, newest first: where and what, then why."""
    if not dead_letters:
        sys.stderr.write("no dead letters\n")
        return
    console = stdout()
    for view in dead_letters:
        letter = view.dead_letter
        facts = (view.position, letter.reason, f"{letter.stage} of {view.origin}", _time(letter.record) or "-")
        console.print(one_line("  ".join(facts)))
        console.print(f"  {one_line(letter.message)}")


def show_one(view: DeadLetterView) -> None:
    """Print a dead letter whole; its bytes cannot steer the terminal."""
    dead_letter, record = view.dead_letter, view.dead_letter.record
    console = stdout()
    for name, value in (
        ("position", f"{view.position} in {record.position.topic}"),
        ("rejected record", view.origin),
        ("its time", _time(record) or "-"),
        ("stage", dead_letter.stage),
        ("reason", dead_letter.reason),
        ("message", dead_letter.message),
        ("cut short", "yes: the headers give the full size and SHA-256" if dead_letter.truncated else "no"),
    ):
        console.print(f"{name:<16}{one_line(value)}")
    for header, content in record.headers:
        console.print(f"{'header':<16}{one_line(header)}: {_as_text(content)}")
    console.print(f"{'key':<16}{_as_text(record.key)}")
    console.print(f"{'value':<16}{_as_text(record.value)}")


def _time(record: SourceRecord) -> str | None:
    return utc(record.timestamp_ms) if record.timestamp_ms >= 0 else None


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
        return printable(raw.decode("utf-8"), keep="\n\t")
    except UnicodeDecodeError:
        return f"({len(raw):,} bytes, no UTF-8; base64) {base64.b64encode(raw).decode()}"
