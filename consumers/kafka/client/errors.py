"""The errors of kafka-python translated into those of `pipeline.errors`."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from kafka.errors import (
    AuthorizationError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    InvalidTopicError,
    KafkaConfigurationError,
    KafkaError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)

from consumers.kafka.client.internals import UnreadableBatch
from pipeline.errors import MembershipLost, MilvusStreamError, Unavailable, UsageError

_REFUSALS = (
    AuthorizationError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    InvalidTopicError,
    KafkaConfigurationError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)


@contextmanager
def kafka_errors(operation: str) -> Iterator[None]:
    """Translate kafka-python's errors: UsageError where somebody must change something, else Unavailable."""
    try:
        yield
    except MilvusStreamError:
        raise
    except (KafkaError, ssl.SSLError, OSError, ValueError, AssertionError) as error:
        raise translated(error, operation) from error


def translated(error: BaseException, operation: str) -> MilvusStreamError:
    """Return the error to raise instead of one of kafka-python's."""
    if isinstance(error, UnreadableBatch):
        return MilvusStreamError(str(error))
    why = error_text(error) if str(error) else type(error).__name__
    if isinstance(error, _REFUSALS) or (not isinstance(error, KafkaError) and not isinstance(error, TimeoutError)):
        return UsageError(f"Kafka refused {operation}: {why}. Check kafka.* in the configuration and the broker's ACLs")
    return Unavailable(f"Kafka cannot be used for {operation}: {why}")


def error_text(error: BaseException) -> str:
    """Return type and message of an error, for logs and messages."""
    name, text = type(error).__name__, str(error)
    return text if text.startswith(f"{name}:") else f"{name}: {text}"  # kafka-python's errors begin with their name


def fenced(error: Exception | None = None) -> MembershipLost:
    """Return the error of a static member whose id was taken by another worker."""
    lost = MembershipLost(
        "another worker has joined with the same kafka.group_instance_id: this one was fenced off and must not write. "
        "Give every worker its own group_instance_id"
    )
    lost.__cause__ = error
    return lost
