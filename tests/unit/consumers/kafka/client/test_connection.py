"""The Kafka settings: what passes through, what is refused, and the hint that goes with it."""

import pytest
from kafka.errors import (
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
)

from consumers.kafka import KafkaSettings
from consumers.kafka.client.connection import start_timestamp_ms
from consumers.kafka.client.errors import translated
from pipeline.errors import Unavailable, UsageError


def settings(**options: object) -> KafkaSettings:
    return KafkaSettings("localhost:9092", ("t",), "g", options=options)


def test_tls_and_sasl_options_pass_through() -> None:
    options = {
        "security_protocol": "SASL_SSL",
        "ssl_cafile": "/etc/ca.pem",
        "ssl_check_hostname": True,
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "user",
        "sasl_plain_password": "secret",
        "client_id": "me",
        "delivery_timeout_ms": 20_000,
    }
    assert settings(**options).options == options


def test_text_becomes_the_options_type() -> None:
    found = settings(ssl_check_hostname="false", fetch_max_bytes="1000", sasl_plain_username="12").options
    assert found == {"ssl_check_hostname": False, "fetch_max_bytes": 1000, "sasl_plain_username": "12"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("sasl_mechansim", "PLAIN", "did you mean sasl_mechanism?"),
        ("zzz", 1, "not an option of kafka-python"),
        ("enable_auto_commit", True, "milvus-stream sets it itself"),
        ("auto_offset_reset", "latest", "set kafka.start_from instead"),
        ("session_timeout_ms", 1, "set kafka.session_timeout instead"),
        ("acks", 1, "milvus-stream sets it itself"),
        ("ssl_check_hostname", "nope", "write true or false"),
        ("fetch_max_bytes", "1MiB", "write a whole number"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_what_to_write(option: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=f"kafka.{option} .*{message}".replace("?", r"\?")):
        settings(**{option: value})


def test_a_static_member_has_a_short_lease_and_heartbeats_that_are_frequent_enough() -> None:
    assert settings().lease_s == 45.0
    assert settings(group_instance_id="worker-0", heartbeat_interval_ms="5000").lease_s == 15.0
    with pytest.raises(UsageError, match=r"heartbeat_interval_ms is 6000; with kafka\.group_instance_id .* 5000"):
        settings(group_instance_id="worker-0", heartbeat_interval_ms="6000")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("earliest", None),
        ("latest", None),
        ("1970-01-01T00:00:01Z", 1_000),
        ("1970-01-01T01:00:01+01:00", 1_000),
        ("1970-01-02", 86_400_000),
        ("1970-01-01 00:00:01,25z", 1_250),
    ],
)
def test_start_from(text: str, expected: int | None) -> None:
    assert start_timestamp_ms(text) == expected


@pytest.mark.parametrize("text", ["newest", "", "1969-12-31T00:00:00Z", "2026-13-01", "20261122", "2026-W47-1"])
def test_start_from_that_means_nothing(text: str) -> None:
    with pytest.raises(UsageError, match=r"kafka\.start_from"):
        KafkaSettings("localhost:9092", ("t",), "g", start_from=text)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KafkaTimeoutError("late"), Unavailable),
        (KafkaConnectionError("refused"), Unavailable),
        (TimeoutError(), Unavailable),
        (GroupAuthorizationFailedError("g"), UsageError),
        (SaslAuthenticationFailedError("no"), UsageError),
        (FileNotFoundError("/etc/ca.pem"), UsageError),
        (ValueError("security_protocol"), UsageError),
    ],
)
def test_errors_say_whether_to_wait_or_to_change_something(error: Exception, expected: type[Exception]) -> None:
    assert type(translated(error, "reading")) is expected
