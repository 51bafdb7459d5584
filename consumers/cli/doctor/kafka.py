"""The Kafka checks of `doctor`: broker, topics, the group's offsets and the newest records."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from consumers.cli.common.inventory import quick_kafka, waiting_since
from consumers.cli.common.output import one_line, span
from consumers.cli.doctor.findings import CLOCK_SKEW_MS, Findings
from consumers.cli.doctor.keys import examine_keys, newest, read_keys
from consumers.config import Settings
from consumers.kafka import (
    KafkaSettings,
    MissingTopic,
    TopicFacts,
    broker_info,
    group_lag,
    read_range,
    topic_facts,
    topic_ranges,
)
from consumers.wiring import documents
from consumers.wiring.modes import mode_of
from consumers.wiring.start_warnings import topic_warnings
from pipeline.errors import MilvusStreamError
from pipeline.intake import Reason
from pipeline.records import Rejected, SourceRecord

SAMPLE = 100
"""Newest records read from each topic."""
_TOPIC_IDS_SINCE = (2, 8)
_BATCH_OVERHEAD = 1_024
"""Framing between a record's own bytes and `max.message.bytes`, generously."""
_NEAR_LIMIT = 0.8
_NO_ID = {Reason.MISSING_ID, Reason.DELETE_WITHOUT_KEY}


def examine_kafka(settings: Settings, findings: Findings, now_ms: int) -> None:
    """Add the findings about Kafka; checks that an earlier problem makes impossible are left out."""
    kafka = quick_kafka(settings)
    try:
        broker = broker_info(kafka)
    except MilvusStreamError as error:
        findings.failed(
            "kafka.reachable", error, "check kafka.bootstrap_servers, the network, and TLS or SASL settings"
        )
        return
    seen = f"{broker.address} answers, protocol of Kafka {broker.version}, {broker.topics} topics"
    if _version(broker.version) < _TOPIC_IDS_SINCE:
        findings.warning(
            "kafka.version", seen, "upgrade to 2.8 or newer: older brokers do not show that a topic was re-created"
        )
    else:
        findings.ok("kafka.reachable", seen)
    facts: dict[str, TopicFacts | MissingTopic] = {}
    dead_letter_topic = settings.kafka.dead_letter_topic
    with findings.checking("kafka.topics", "give the user DESCRIBE and READ on the topics"):
        facts = topic_facts(kafka, [*settings.kafka.topics, dead_letter_topic])
    for warning in topic_warnings(settings, facts):
        findings.warning(warning.check, warning.seen, warning.do)
    present = {
        name: details
        for name, details in facts.items()
        if isinstance(details, TopicFacts) and name != dead_letter_topic
    }
    for topic in settings.kafka.topics:
        details = facts.get(topic)
        if details is not None:
            _topic(settings, topic, details, findings)
    if dead_letter_topic in facts:
        _dead_letter_topic(settings, kafka, facts[dead_letter_topic], present.values(), findings)
    if present and len(present) == len(settings.kafka.topics):
        with findings.checking("kafka.group", "give the user READ on the group"):
            _group(kafka, present, findings, now_ms)
    for topic, details in present.items():
        with findings.checking("records", "see the message; the newest records could not be read"):
            _records(settings, kafka, topic, details, findings=findings, now_ms=now_ms)


def _topic(settings: Settings, topic: str, details: TopicFacts | MissingTopic, findings: Findings) -> None:
    if isinstance(details, MissingTopic):
        near = f"; there is {' and '.join(details.similar)}" if details.similar else ""
        findings.problem(
            "kafka.topics", f"topic {topic} does not exist{near}", "create it, or correct kafka.topics: no worker does"
        )
        return
    workers = "one worker can read it" if details.partitions == 1 else f"up to {details.partitions} workers share it"
    findings.ok("kafka.topics", f"{topic}: {details.partitions} Kafka partitions, {workers}")
    if details.compacted and not mode_of(settings).one_version:
        findings.warning(
            "kafka.topics",
            f"{topic} is compacted: only the last record of a key is kept, yet in mode append each one is a document",
            "set cleanup.policy=delete on the topic, or mode: upsert",
        )
    limit, max_record_bytes = details.max_message_bytes, settings.kafka.max_record_bytes
    if limit is None:
        findings.ok("kafka.message_size", f"{topic}: this user may not see its limits")
    elif limit > max_record_bytes + _BATCH_OVERHEAD:
        findings.warning(
            "kafka.message_size",
            f"{topic} takes records of {limit:,} bytes, kafka.max_record_bytes is {max_record_bytes:,}: those between "
            "become dead letters",
            f"set kafka.max_record_bytes to {limit:,}, or lower max.message.bytes of the topic",
        )
    else:
        findings.ok(
            "kafka.message_size", f"{topic} takes {limit:,} bytes, kafka.max_record_bytes is {max_record_bytes:,}"
        )


def _dead_letter_topic(
    settings: Settings,
    kafka: KafkaSettings,
    details: TopicFacts | MissingTopic,
    sources: Iterable[TopicFacts],
    findings: Findings,
) -> None:
    check, topic = "kafka.dead_letters", settings.kafka.dead_letter_topic
    if isinstance(details, MissingTopic):
        if settings.kafka.create_dead_letter_topic:
            findings.ok(check, f"{topic} does not exist yet; the first worker creates it")
        else:
            do = "create it (1 partition, cleanup.policy=delete, retention.ms=-1): without it no worker starts"
            findings.problem(check, f"{topic} does not exist and kafka.create_dead_letter_topic is false", do)
        return
    count = 0
    with findings.checking(check):
        count = sum(end - start for start, end in topic_ranges(kafka, [topic]).values())
    if details.compacted:
        do = "set cleanup.policy=delete on it: no worker starts with a compacted one"
        findings.problem(check, f"{topic} is compacted: it keeps one dead letter a key and refuses those without", do)
    largest = max((source.max_message_bytes or 0 for source in sources), default=0)
    if details.max_message_bytes is not None and details.max_message_bytes < largest:
        seen = f"{topic} takes {details.max_message_bytes:,} bytes, a source topic {largest:,}: records are cut short"
        findings.warning(check, seen, f"set max.message.bytes={largest + _BATCH_OVERHEAD * 16} on it")
    do = "; `milvus-stream dlq list` shows them" if count else ""
    findings.ok(check, f"{topic} holds {count:,} dead letters{do}")


def _group(kafka: KafkaSettings, facts: Mapping[str, TopicFacts], findings: Findings, now_ms: int) -> None:
    lags = group_lag(kafka)
    group = f"group {kafka.group_id}"
    if all(lag.committed is None for lag in lags):
        findings.ok("kafka.group", f"{group} has never committed: it will begin at {kafka.start_from}")
        return
    findings.ok(
        "kafka.group", f"{group} lags {sum(lag.lag for lag in lags):,} records behind on {len(lags)} partitions"
    )
    for (topic, number), began in waiting_since(kafka, lags).items():
        retention_ms, age_ms = facts[topic].retention_ms, now_ms - began
        if retention_ms is not None and 0 < retention_ms < 2 * age_ms:
            findings.warning(
                "kafka.retention",
                f"{topic}/{number}: the first record not committed is {span(age_ms / 1000)} old, the topic keeps "
                f"records for {span(retention_ms / 1000)}: then they are lost unread",
                "start more workers, or raise retention.ms of the topic",
            )


def _records(
    settings: Settings, kafka: KafkaSettings, topic: str, details: TopicFacts, *, findings: Findings, now_ms: int
) -> None:
    ranges = topic_ranges(kafka, [topic])
    sample = list(read_range(kafka, newest(ranges, SAMPLE)))
    if not sample:
        findings.ok("records", f"{topic} holds no record yet")
        return
    _decoded(settings, topic, sample, findings, now_ms)
    if mode_of(settings).one_version and details.partitions > 1:
        examine_keys(topic, read_keys(settings, kafka, ranges), findings)
    largest, limit = max(record.size for record in sample), settings.kafka.max_record_bytes
    if limit >= largest > _NEAR_LIMIT * limit:
        seen = f"{topic}: the largest of the newest records has {largest:,} bytes, kafka.max_record_bytes is {limit:,}"
        findings.warning("records.size", seen, "raise kafka.max_record_bytes before larger ones become dead letters")
    else:
        findings.ok("records.size", f"{topic}: the largest of the newest {len(sample)} records has {largest:,} bytes")
    ahead = max(record.timestamp_ms for record in sample) - now_ms
    whose = "the broker's" if details.broker_time else "a producer's"
    if ahead > CLOCK_SKEW_MS:
        findings.warning(
            "clock.kafka",
            f"{topic}: a record's timestamp is {span(ahead / 1000)} ahead of this machine's clock ({whose} clock)",
            "synchronise the clocks (NTP): event times ahead of partitioning.future_skew become dead letters",
        )
    else:
        findings.ok("clock.kafka", f"{topic}: no record's timestamp ({whose} clock) is ahead of this machine's")


def _decoded(settings: Settings, topic: str, sample: Sequence[SourceRecord], findings: Findings, now_ms: int) -> None:
    decoder = documents.decoder(settings)
    operations = [decoder.decode(record, now_ms) for record in sample]
    rejected = [operation for operation in operations if isinstance(operation, Rejected)]
    total = f"the newest {len(sample)} records"
    if not rejected:
        findings.ok("records.decode", f"{topic}: {total} can be read")
        return
    reasons = ", ".join(
        f"{reason} ({count})" for reason, count in Counter(operation.reason for operation in rejected).most_common()
    )
    first = rejected[0]
    seen = (
        f"{topic}: {len(rejected)} of {total} would become dead letters: {reasons}. For instance "
        f"{'/'.join(map(str, first.position))}: {one_line(first.message)}"
    )
    do = "correct the producer, or record.* in the configuration to what the records hold"
    if len(rejected) == len(sample):
        findings.problem("records.decode", seen, do)
    else:
        findings.warning("records.decode", seen, do)
    without_id = sum(operation.reason in _NO_ID for operation in rejected)
    if without_id:
        findings.problem(
            "records.keys",
            f"{topic}: {without_id} of {total} have neither a field {settings.record.id_field!r} nor a key",
            "give records a key or an id, set record.id_field to the field that holds one, or mode: append",
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())
