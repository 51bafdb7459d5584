"""What a worker and `doctor` warn of at their start."""

import pytest
from structlog.testing import capture_logs

from consumers.config import load_settings
from consumers.kafka import KafkaSettings, MissingTopic, TopicFacts
from consumers.wiring import start_warnings
from consumers.wiring.start_warnings import (
    log_server_warnings,
    log_warnings,
    server_warnings,
    topic_warnings,
    worker_warnings,
)
from pipeline.store.milvus.api import ServerInfo
from tests.support.fakes.milvus import FakeMilvus


def facts(**changes: object) -> TopicFacts:
    usual = {
        "partitions": 2,
        "compacted": False,
        "max_message_bytes": 1_000_000,
        "retention_ms": -1,
        "broker_time": False,
    }
    return TopicFacts(**(usual | changes))  # type: ignore[arg-type]


def warned(
    *sets: str, source: TopicFacts | MissingTopic | None = None, dead: TopicFacts | MissingTopic | None = None
) -> list[tuple[str, str]]:
    settings = load_settings(None, {}, ["kafka.topics=[docs]", "kafka.dead_letter_topic=dead", *sets])
    found = topic_warnings(settings, {"docs": source or facts(), "dead": dead or facts()})
    return [(warning.check, f"{warning.seen} -> {warning.do}") for warning in found]


def test_sound_topics_and_missing_ones_have_no_warning() -> None:
    assert warned() == []
    assert warned(source=facts(retention_ms=1000)) == []
    assert warned(source=MissingTopic(()), dead=MissingTopic(())) == []
    assert warned(dead=facts(retention_ms=None)) == []  # this user may not see it


def test_a_dead_letter_topic_that_forgets_is_reported() -> None:
    ((check, text),) = warned(dead=facts(retention_ms=604_800_000))
    assert check == "kafka.dead_letters"
    assert "retention.ms=604800000" in text
    assert "set retention.ms=-1" in text


def test_the_brokers_time_is_reported_where_it_replaces_a_records_own() -> None:
    ((_, dead),) = warned(dead=facts(broker_time=True))
    assert "dead has message.timestamp.type=LogAppendTime: dead letters lose the timestamps" in dead
    ((check, source),) = warned(source=facts(broker_time=True))
    assert check == "kafka.timestamps"
    assert "a record without event_time is as old as its copy" in source
    assert "the one read last counts as newer" in source
    ((_, versioned),) = warned("record.version_field=v", source=facts(broker_time=True))
    assert "the one read last" not in versioned


def test_a_server_below_the_floor_is_reported_and_logged() -> None:
    old = FakeMilvus(server=ServerInfo("v2.3.5", (2, 3, 5), lite=False))
    assert [warning.check for warning in server_warnings(old)] == ["milvus.version"]
    assert list(server_warnings(FakeMilvus(server=ServerInfo("v2.6.22", (2, 6, 22), lite=False)))) == []
    with capture_logs() as lines:
        log_server_warnings(old)
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("milvus.version", "warning")
    assert "below 2.5.27" in line["seen"]


def test_a_worker_logs_what_doctor_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_warnings, "topic_facts", lambda _, names: dict.fromkeys(names, facts(retention_ms=1000)))
    settings = load_settings(None, {}, ["kafka.topics=[docs]", "kafka.dead_letter_topic=dead"])
    server = FakeMilvus(server=ServerInfo("v2.3.5", (2, 3, 5), lite=False))
    with capture_logs() as lines:
        log_warnings(settings, KafkaSettings("fake:9092", ("docs",), "group"), server, workers=3)
    assert [line["event"] for line in lines] == ["milvus.version", "kafka.dead_letters", "kafka.idle_workers"]
    assert "set retention.ms=-1" in lines[1]["do"]


def idle(workers: int, **topics: TopicFacts | MissingTopic) -> list[str]:
    settings = load_settings(None, {}, [f"kafka.topics=[{','.join(topics)}]"])
    return [f"{warning.seen} -> {warning.do}" for warning in worker_warnings(settings, topics, workers)]


def test_more_workers_than_kafka_partitions_are_reported() -> None:
    (text,) = idle(5, docs=facts(partitions=2), news=facts(partitions=1))
    assert "5 workers were started, but docs, news has 3 Kafka partitions: 2 of the workers get none" in text
    assert "--workers 3" in text
    assert idle(3, docs=facts(partitions=2), news=facts(partitions=1)) == []
    assert idle(1, docs=facts(partitions=1)) == []
    assert idle(5, docs=facts(partitions=2), news=MissingTopic(())) == []
