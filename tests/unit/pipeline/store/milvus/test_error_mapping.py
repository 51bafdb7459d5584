"""Errors as pymilvus and gRPC were seen to raise them, and what they mean."""

import grpc  # type: ignore[import-untyped]
import pytest
from pymilvus.exceptions import DataNotMatchException, MilvusException, ParamError

from pipeline import errors
from pipeline.backoff import Backoff
from pipeline.store.milvus.error_mapping import Call, FailureKind, RetryPolicy, classify, to_error


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
        (1, "service not ready[standalone]", FailureKind.UNAVAILABLE),
        (1, "wait for flush timeout, collection: c, flusht_ts: 1", FailureKind.OUTCOME_UNKNOWN),
        (1, "matmul: Input operand 1 has a mismatch in its core dimension 0", FailureKind.REFUSED),
        (1, "Unexpected error, message=<'x'>", FailureKind.UNEXPECTED),
        (2, "Fail connecting to server on 127.0.0.1:1", FailureKind.UNAVAILABLE),
        (3, "memory limit exceeded", FailureKind.QUOTA),
        (6, "VARCHAR field 'text' value length 101 exceeds max_length=100", FailureKind.REFUSED),
        (
            8,
            "request is rejected by grpc RateLimiter middleware: rate limit exceeded[rate=0.1]",
            FailureKind.RATE_LIMITED,
        ),
        (9, "quota exceeded", FailureKind.QUOTA),
        (100, "can't find collection", FailureKind.NOT_FOUND),
        (101, "failed to query: collection not loaded[collection=4706]", FailureKind.NOT_LOADED),
        (101, "Collection 'c' is in state 'released'; call load() before search/get/query", FailureKind.NOT_LOADED),
        (101, "unexpected character '=' at column 5", FailureKind.REFUSED),
        (106, "collection on recovering", FailureKind.RECOVERING),
        # As the table of Milvus 2.4 to 3.0 has them.
        (11, "time tick long delay: quota exceeded", FailureKind.QUOTA),
        (109, "collection schema mismatch[collection=docs]", FailureKind.UNAVAILABLE),
        (1003, "IO failed[key=files/delta_log/1]", FailureKind.UNAVAILABLE),
        (1102, "parameter too large", FailureKind.TOO_LARGE),
        (1807, "request rate limited", FailureKind.RATE_LIMITED),
        (2200, "inconsistent requery result", FailureKind.UNAVAILABLE),
        (10000, "context canceled", FailureKind.OUTCOME_UNKNOWN),
        (10001, "context deadline exceeded", FailureKind.OUTCOME_UNKNOWN),
        (65535, "query results exceed the maxOutputSize Limit 104857600", FailureKind.TOO_LARGE),
        (1702, "field name invalid: dynamic key", FailureKind.UNEXPECTED),
        (200, "partition not found[partition=d20260102]", FailureKind.NOT_FOUND),
        (503, "channel not available", FailureKind.UNAVAILABLE),
        (904, "node not match", FailureKind.UNAVAILABLE),
        (1100, "the length (101) of 0th string exceeds max length (100): invalid parameter", FailureKind.REFUSED),
        (1401, "privilege not permitted", FailureKind.DENIED),
        (65535, "partition name nope not found", FailureKind.NOT_FOUND),
        (65535, "fail to Query, reason=partition not loaded[partition=[4]]", FailureKind.RELEASED),
        (65535, "value 'NaN' is not a number or infinity", FailureKind.REFUSED),
        (65535, "the length(7) of float data should divide the dim(8)", FailureKind.REFUSED),
        (65535, "cannot parse expression: n === 3", FailureKind.REFUSED),
        (65535, "topk [20000] is invalid, top k should be in range [1, 16384], but got 20000", FailureKind.REFUSED),
        (
            65535,
            "partition number (10) exceeds max configuration (10), collection: rl",
            FailureKind.TOO_MANY_PARTITIONS,
        ),
        (65535, "something new", FailureKind.UNEXPECTED),
        (grpc.StatusCode.UNAVAILABLE, "Retry timeout: 3s, Socket closed", FailureKind.OUTCOME_UNKNOWN),
        (grpc.StatusCode.UNAVAILABLE, REFUSED_CONNECTION, FailureKind.UNAVAILABLE),
    ],
)
def test_codes_and_words_of_milvus(code: int, message: str, kind: FailureKind) -> None:
    assert classify(MilvusException(code=code, message=message)) is kind


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (2099, "a code of some later version", FailureKind.UNAVAILABLE),
        (65535, "words of some later version", FailureKind.UNAVAILABLE),
        (1100, "invalid parameter", FailureKind.REFUSED),
        (200, "partition not found", FailureKind.NOT_FOUND),
    ],
)
def test_the_servers_own_flag_decides_what_no_table_lists(code: int, message: str, kind: FailureKind) -> None:
    assert classify(MilvusException(code=code, message=message, retriable=True)) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RpcFailure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"), FailureKind.OUTCOME_UNKNOWN),
        (RpcFailure(grpc.StatusCode.UNAVAILABLE, "Socket closed"), FailureKind.OUTCOME_UNKNOWN),
        (RpcFailure(grpc.StatusCode.UNAVAILABLE, REFUSED_CONNECTION), FailureKind.UNAVAILABLE),
        (
            RpcFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, "received message larger than max (7 vs. 6)"),
            FailureKind.TOO_LARGE,
        ),
        (RpcFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many pings"), FailureKind.RATE_LIMITED),
        (RpcFailure(grpc.StatusCode.UNIMPLEMENTED, "unknown method HybridSearch"), FailureKind.UNSUPPORTED),
        (RpcFailure(grpc.StatusCode.UNAUTHENTICATED), FailureKind.DENIED),
        (DataNotMatchException(message="Insert missed an field `text`"), FailureKind.REFUSED),
        (ParamError(message="`limit` value 0 is illegal"), FailureKind.REFUSED),
        (RuntimeError("a bug"), FailureKind.UNEXPECTED),
    ],
)
def test_errors_of_grpc_and_of_the_client(error: Exception, kind: FailureKind) -> None:
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
    assert (
        classify(lost_under_a_call(RpcFailure(grpc.StatusCode.UNAVAILABLE, "Socket closed")))
        is FailureKind.OUTCOME_UNKNOWN
    )


def test_a_connection_that_never_was_leaves_nothing_open() -> None:
    assert (
        classify(lost_under_a_call(RpcFailure(grpc.StatusCode.UNAVAILABLE, REFUSED_CONNECTION)))
        is FailureKind.UNAVAILABLE
    )


@pytest.mark.parametrize(
    ("kind", "effect", "error"),
    [
        (FailureKind.UNAVAILABLE, "rows", errors.Unavailable),
        (FailureKind.OUTCOME_UNKNOWN, "rows", errors.OutcomeUnknown),
        (FailureKind.OUTCOME_UNKNOWN, "schema", errors.OutcomeUnknown),
        (FailureKind.OUTCOME_UNKNOWN, "read", errors.Unavailable),
        (FailureKind.RATE_LIMITED, "rows", errors.RateLimited),
        (FailureKind.QUOTA, "rows", errors.RateLimited),
        (FailureKind.NOT_LOADED, "read", errors.NotLoaded),
        (FailureKind.RELEASED, "read", errors.NotLoaded),
        (FailureKind.NOT_FOUND, "rows", errors.NotFound),
        (FailureKind.TOO_LARGE, "rows", errors.RequestTooLarge),
        (FailureKind.REFUSED, "rows", errors.RowsRefused),
        (FailureKind.REFUSED, "read", errors.RequestRefused),
        (FailureKind.DENIED, "rows", errors.UsageError),
        (FailureKind.UNSUPPORTED, "read", errors.UsageError),
        (FailureKind.TOO_MANY_PARTITIONS, "schema", errors.RecordRejected),
        # An answer nobody has seen before must condemn neither rows nor the worker.
        (FailureKind.UNEXPECTED, "rows", errors.UnlistedAnswer),
        (FailureKind.UNEXPECTED, "read", errors.UnlistedAnswer),
        (FailureKind.RECOVERING, "rows", errors.Unavailable),
        (FailureKind.UNEXPECTED, "schema", errors.UnlistedAnswer),
    ],
)
def test_every_kind_has_its_error(kind: FailureKind, effect: str, error: type[errors.MilvusStreamError]) -> None:
    raised = to_error(kind, Call("upsert", "documents", effect), "the words")  # type: ignore[arg-type]
    assert type(raised) is error
    assert "upsert of collection 'documents'" in str(raised)
    assert "the words" in str(raised)


POLICY = RetryPolicy(Backoff(first_s=0.1, cap_s=3.0), total_s=12.0, rate_limit_s=1.0, not_loaded_s=90.0)


def test_waits_double_up_to_the_longest() -> None:
    waits = [POLICY.wait(FailureKind.UNAVAILABLE, attempt, 0.0, jitter=1.0) for attempt in range(1, 9)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0, 3.0])
    assert POLICY.wait(FailureKind.UNAVAILABLE, 10_000, 0.0, jitter=1.0) == 3.0


def test_jitter_spreads_over_the_upper_half() -> None:
    assert POLICY.wait(FailureKind.UNAVAILABLE, 4, 0.0, jitter=0.0) == pytest.approx(0.4)
    assert POLICY.wait(FailureKind.UNAVAILABLE, 4, 0.0, jitter=1.0) == pytest.approx(0.8)


@pytest.mark.parametrize("kind", [FailureKind.UNAVAILABLE, FailureKind.OUTCOME_UNKNOWN, FailureKind.RATE_LIMITED])
def test_no_attempt_begins_after_the_total(kind: FailureKind) -> None:
    assert POLICY.wait(kind, 1, 11.0, jitter=0.0) is not None
    assert POLICY.wait(kind, 1, 12.0, jitter=0.0) is None


def test_a_shard_that_recovers_is_waited_for_longer_where_the_policy_says_so() -> None:
    assert POLICY.wait(FailureKind.RECOVERING, 9, 12.0, jitter=0.5) is None
    long = RetryPolicy(POLICY.backoff, total_s=12.0, recovering_s=600.0)
    assert long.wait(FailureKind.RECOVERING, 9, 500.0, jitter=0.5) is not None
    assert long.wait(FailureKind.RECOVERING, 9, 600.0, jitter=0.5) is None
    assert long.wait(FailureKind.UNAVAILABLE, 9, 13.0, jitter=0.5) is None


def test_a_rate_limit_is_waited_out() -> None:
    assert POLICY.wait(FailureKind.RATE_LIMITED, 1, 0.0, jitter=0.0) == 1.0


def test_not_loaded_is_waited_for_only_where_it_was_loaded() -> None:
    assert POLICY.wait(FailureKind.NOT_LOADED, 9, 60.0, jitter=0.5, was_loaded=True) is not None
    assert POLICY.wait(FailureKind.NOT_LOADED, 9, 90.0, jitter=0.5, was_loaded=True) is None
    assert POLICY.wait(FailureKind.NOT_LOADED, 1, 0.0, jitter=0.5, was_loaded=False) is None


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in FailureKind
        if kind
        not in (
            FailureKind.UNAVAILABLE,
            FailureKind.OUTCOME_UNKNOWN,
            FailureKind.RATE_LIMITED,
            FailureKind.NOT_LOADED,
            FailureKind.RECOVERING,
        )
    ],
)
def test_what_will_not_get_better_is_not_repeated(kind: FailureKind) -> None:
    assert POLICY.wait(kind, 1, 0.0, jitter=0.5, was_loaded=True) is None
