"""Errors as pymilvus and gRPC were seen to raise them, and what they mean."""

import grpc  # type: ignore[import-untyped]
import pytest
from pymilvus.exceptions import DataNotMatchException, MilvusException, ParamError

from pipeline import errors
from pipeline.store.failures import Call, Kind, RetryPolicy, classify, to_error


class RpcFailure(grpc.RpcError):  # type: ignore[misc]
    """As gRPC raises it: `code` and `details` are methods."""

    def __init__(self, code: grpc.StatusCode, details: str = "") -> None:
        super().__init__()
        self._code = code
        self._details = details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


REFUSED_CONNECTION = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused"


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (1, "service not ready[standalone]", Kind.UNAVAILABLE),
        (1, "wait for flush timeout, collection: c, flusht_ts: 1", Kind.OUTCOME_UNKNOWN),
        (1, "matmul: Input operand 1 has a mismatch in its core dimension 0", Kind.REFUSED),
        (1, "Unexpected error, message=<'x'>", Kind.UNEXPECTED),
        (2, "Fail connecting to server on 127.0.0.1:1", Kind.UNAVAILABLE),
        (3, "memory limit exceeded", Kind.QUOTA),
        (6, "VARCHAR field 'text' value length 101 exceeds max_length=100", Kind.REFUSED),
        (8, "request is rejected by grpc RateLimiter middleware: rate limit exceeded[rate=0.1]", Kind.RATE_LIMITED),
        (9, "quota exceeded", Kind.QUOTA),
        (100, "can't find collection", Kind.NOT_FOUND),
        (101, "failed to query: collection not loaded[collection=4706]", Kind.NOT_LOADED),
        (101, "Collection 'c' is in state 'released'; call load() before search/get/query", Kind.NOT_LOADED),
        (101, "unexpected character '=' at column 5", Kind.REFUSED),
        (106, "collection on recovering", Kind.UNAVAILABLE),
        (200, "partition not found[partition=d20260102]", Kind.NOT_FOUND),
        (503, "channel not available", Kind.UNAVAILABLE),
        (904, "node not match", Kind.UNAVAILABLE),
        (1100, "the length (101) of 0th string exceeds max length (100): invalid parameter", Kind.REFUSED),
        (1401, "privilege not permitted", Kind.DENIED),
        (65535, "partition name nope not found", Kind.NOT_FOUND),
        (65535, "fail to Query, reason=partition not loaded[partition=[4]]", Kind.RELEASED),
        (65535, "value 'NaN' is not a number or infinity", Kind.REFUSED),
        (65535, "the length(7) of float data should divide the dim(8)", Kind.REFUSED),
        (65535, "cannot parse expression: n === 3", Kind.REFUSED),
        (65535, "topk [20000] is invalid, top k should be in range [1, 16384], but got 20000", Kind.REFUSED),
        (65535, "partition number (10) exceeds max configuration (10), collection: rl", Kind.TOO_MANY_PARTITIONS),
        (65535, "something new", Kind.UNEXPECTED),
        (grpc.StatusCode.UNAVAILABLE, "Retry timeout: 3s, Socket closed", Kind.OUTCOME_UNKNOWN),
        (grpc.StatusCode.UNAVAILABLE, REFUSED_CONNECTION, Kind.UNAVAILABLE),
    ],
)
def test_codes_and_words_of_milvus(code: int, message: str, kind: Kind) -> None:
    assert classify(MilvusException(code=code, message=message)) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RpcFailure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"), Kind.OUTCOME_UNKNOWN),
        (RpcFailure(grpc.StatusCode.UNAVAILABLE, "Socket closed"), Kind.OUTCOME_UNKNOWN),
        (RpcFailure(grpc.StatusCode.UNAVAILABLE, REFUSED_CONNECTION), Kind.UNAVAILABLE),
        (
            RpcFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, "received message larger than max (7 vs. 6)"),
            Kind.TOO_LARGE,
        ),
        (RpcFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many pings"), Kind.RATE_LIMITED),
        (RpcFailure(grpc.StatusCode.UNIMPLEMENTED, "unknown method HybridSearch"), Kind.UNSUPPORTED),
        (RpcFailure(grpc.StatusCode.UNAUTHENTICATED), Kind.DENIED),
        (DataNotMatchException(message="Insert missed an field `text`"), Kind.REFUSED),
        (ParamError(message="`limit` value 0 is illegal"), Kind.REFUSED),
        (RuntimeError("a bug"), Kind.UNEXPECTED),
    ],
)
def test_errors_of_grpc_and_of_the_client(error: Exception, kind: Kind) -> None:
    assert classify(error) is kind


def lost_under_a_call(first: RpcFailure) -> MilvusException:
    """As pymilvus does: the call's error is only the context of the failed reconnect's."""
    try:
        try:
            raise first
        except RpcFailure:
            raise MilvusException(code=2, message="Fail connecting to server on 127.0.0.1:1") from RpcFailure(
                grpc.StatusCode.UNAVAILABLE, REFUSED_CONNECTION
            )
    except MilvusException as error:
        return error


def test_a_connection_that_broke_under_a_call_leaves_its_outcome_open() -> None:
    assert classify(lost_under_a_call(RpcFailure(grpc.StatusCode.UNAVAILABLE, "Socket closed"))) is Kind.OUTCOME_UNKNOWN


def test_a_connection_that_never_was_leaves_nothing_open() -> None:
    assert classify(lost_under_a_call(RpcFailure(grpc.StatusCode.UNAVAILABLE, REFUSED_CONNECTION))) is Kind.UNAVAILABLE


@pytest.mark.parametrize(
    ("kind", "effect", "error"),
    [
        (Kind.UNAVAILABLE, "rows", errors.Unavailable),
        (Kind.OUTCOME_UNKNOWN, "rows", errors.OutcomeUnknown),
        (Kind.OUTCOME_UNKNOWN, "schema", errors.OutcomeUnknown),
        (Kind.OUTCOME_UNKNOWN, "read", errors.Unavailable),
        (Kind.RATE_LIMITED, "rows", errors.RateLimited),
        (Kind.QUOTA, "rows", errors.RateLimited),
        (Kind.NOT_LOADED, "read", errors.NotLoaded),
        (Kind.RELEASED, "read", errors.NotLoaded),
        (Kind.NOT_FOUND, "rows", errors.NotFound),
        (Kind.TOO_LARGE, "rows", errors.RequestTooLarge),
        (Kind.REFUSED, "rows", errors.RowsRefused),
        (Kind.REFUSED, "read", errors.RequestRefused),
        (Kind.DENIED, "rows", errors.UsageError),
        (Kind.UNSUPPORTED, "read", errors.UsageError),
        (Kind.TOO_MANY_PARTITIONS, "schema", errors.RecordRejected),
        # An answer nobody has seen before must not condemn rows, and a failed change of the schema is no outage.
        (Kind.UNEXPECTED, "rows", errors.Unavailable),
        (Kind.UNEXPECTED, "read", errors.Unavailable),
        (Kind.UNEXPECTED, "schema", errors.MilvusStreamError),
    ],
)
def test_every_kind_has_its_error(kind: Kind, effect: str, error: type[errors.MilvusStreamError]) -> None:
    raised = to_error(kind, Call("upsert", "documents", effect), "the words")  # type: ignore[arg-type]
    assert type(raised) is error
    assert "upsert of collection 'documents'" in str(raised)
    assert "the words" in str(raised)


POLICY = RetryPolicy(first_s=0.1, longest_s=3.0, total_s=12.0, rate_limit_s=1.0, not_loaded_s=90.0)


def test_waits_double_up_to_the_longest() -> None:
    waits = [POLICY.wait(Kind.UNAVAILABLE, attempt, 0.0, jitter=1.0) for attempt in range(1, 9)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0, 3.0])
    assert POLICY.wait(Kind.UNAVAILABLE, 10_000, 0.0, jitter=1.0) == 3.0


def test_jitter_spreads_over_the_upper_half() -> None:
    assert POLICY.wait(Kind.UNAVAILABLE, 4, 0.0, jitter=0.0) == pytest.approx(0.4)
    assert POLICY.wait(Kind.UNAVAILABLE, 4, 0.0, jitter=1.0) == pytest.approx(0.8)


@pytest.mark.parametrize("kind", [Kind.UNAVAILABLE, Kind.OUTCOME_UNKNOWN, Kind.RATE_LIMITED])
def test_no_attempt_begins_after_the_total(kind: Kind) -> None:
    assert POLICY.wait(kind, 1, 11.0, jitter=0.0) is not None
    assert POLICY.wait(kind, 1, 12.0, jitter=0.0) is None


def test_a_rate_limit_is_waited_out() -> None:
    assert POLICY.wait(Kind.RATE_LIMITED, 1, 0.0, jitter=0.0) == 1.0


def test_not_loaded_is_waited_for_only_where_it_was_loaded() -> None:
    assert POLICY.wait(Kind.NOT_LOADED, 9, 60.0, jitter=0.5, was_loaded=True) is not None
    assert POLICY.wait(Kind.NOT_LOADED, 9, 90.0, jitter=0.5, was_loaded=True) is None
    assert POLICY.wait(Kind.NOT_LOADED, 1, 0.0, jitter=0.5, was_loaded=False) is None


@pytest.mark.parametrize(
    "kind",
    [kind for kind in Kind if kind not in (Kind.UNAVAILABLE, Kind.OUTCOME_UNKNOWN, Kind.RATE_LIMITED, Kind.NOT_LOADED)],
)
def test_what_will_not_get_better_is_not_repeated(kind: Kind) -> None:
    assert POLICY.wait(kind, 1, 0.0, jitter=0.5, was_loaded=True) is None
