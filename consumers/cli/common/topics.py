"""The topics of the broker, made and listed."""

import re
import sys
from typing import Any

from consumers.cli.common.inventory import quick_kafka
from consumers.cli.common.output import stdout, table
from consumers.config import Settings
from consumers.kafka import MissingTopic, create_topic, topic_facts, topic_names, topic_ranges
from pipeline.errors import UsageError
from pipeline.telemetry import printable

_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}", re.ASCII)
"""The names that Kafka takes (org.apache.kafka.common.internals.Topic)."""


def create(settings: Settings, topic: str, partitions: int) -> dict[str, Any]:
    """Make the topic. One that exists is left as it is; with another number of Kafka partitions that is a UsageError.

    Also raises Unavailable.
    """
    made = make_missing(settings, topic, partitions)
    if made["partitions"] != partitions:
        raise UsageError(
            f"topic {topic} exists with {made['partitions']} Kafka partitions and is left as it is. "
            "With more of them, later records of a document could go to another one than its earlier records"
        )
    return made


def make_missing(settings: Settings, topic: str, partitions: int) -> dict[str, Any]:
    """Make the topic where it is missing, and say what there is. Raises UsageError, Unavailable."""
    if _NAME.fullmatch(topic) is None or topic in (".", ".."):
        raise UsageError(f"topic {topic!r}: write letters, digits, dots, _ and -, at most 249")
    kafka = quick_kafka(settings)
    before = topic_facts(kafka, [topic])[topic]
    if isinstance(before, MissingTopic):
        create_topic(kafka, topic, partitions=partitions)
        created, what = True, "made"
    else:
        created, what, partitions = False, "exists already", before.partitions
    sys.stderr.write(f"topic {printable(topic)} on {kafka.bootstrap_servers}, {partitions} Kafka partitions: {what}\n")
    return {"topic": topic, "partitions": partitions, "created": created}


def listed(settings: Settings) -> list[dict[str, Any]]:
    """Every topic of the broker but its internal ones: `topic`, `partitions`, `records`, `read` (by these settings).

    `records` counts offsets: it is too high where a topic is compacted or written by transactions.
    """
    kafka = quick_kafka(settings)
    facts = topic_facts(kafka, [name for name in topic_names(kafka) if not name.startswith("__")])
    found = {name: fact for name, fact in facts.items() if not isinstance(fact, MissingTopic)}
    records = dict.fromkeys(found, 0)
    for (name, _), (start, end) in topic_ranges(kafka, list(found)).items():
        records[name] += end - start
    return [
        {"topic": name, "partitions": fact.partitions, "records": records[name], "read": name in kafka.topics}
        for name, fact in sorted(found.items())
    ]


def show(topics: list[dict[str, Any]]) -> None:
    """Print topics as a table."""
    if not topics:
        sys.stderr.write("no topics: make one with `milvus-stream topics create`\n")
        return
    rows = [(each["topic"], each["partitions"], each["records"], each["read"]) for each in topics]
    stdout().print(table(("topic", "Kafka partitions", "records", "read"), rows))
