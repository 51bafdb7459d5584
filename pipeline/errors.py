"""Exceptions named for what the caller must do.

MilvusStreamError                      exit code of a command that ends with it
├── UsageError            fix the setting or argument named              2
│   └── RequestRefused    ask for something else: Milvus takes no such read 2
├── Unavailable           back off and try again; nothing happened       3
│   ├── RateLimited       the same, after a longer wait                  3
│   ├── NotLoaded         load it, or skip it in a search                3
│   ├── MilvusAway        wait until Milvus is back: until then no call is sent 3
│   ├── LeaseExpired      wait: this worker may own its records no more  3
│   ├── UnlistedAnswer    the same call again; a refusal, if it goes on  3
│   └── OutcomeUnknown    the same call again: it may have happened      3
├── Mismatch              another schema, model or version is there      4
├── NotFound              the collection or Milvus partition is not there 1
├── RequestTooLarge       send the same rows in smaller requests         1
├── RowsRefused           bisect: at least one row of these is bad       1
├── RecordRejected        dead-letter this record                        1
├── TooManyRejected       stop: the mapping or the producer is wrong     1
├── OffsetsLost           stop: records are gone, in Kafka or in Milvus  4
├── MembershipLost        stop writing: another worker owns these        1
└── Stopped               a stage ended early; the cause is chained      1
"""


class MilvusStreamError(Exception):
    """Base of every error raised on purpose; `exit_code` is what a command ends with."""

    exit_code = 1


class UsageError(MilvusStreamError):
    """A setting or argument is wrong; the message names it and says what to write instead."""

    exit_code = 2


class RequestRefused(UsageError):
    """Milvus refused a read for what it asks: an expression or parameter. The message may repeat values of it."""


class Unavailable(MilvusStreamError):
    """Kafka, Milvus or the model cannot be used at the moment; the call had no effect and may be repeated later."""

    exit_code = 3


class RateLimited(Unavailable):
    """The server asks for fewer requests; repeat later."""


class NotLoaded(Unavailable):
    """The collection or Milvus partition exists but is not in memory; load it, or wait while the server recovers."""


class MilvusAway(Unavailable):
    """Milvus does not answer at all: no connection can be made, or it takes calls and answers none."""

    def __init__(self, message: str, away_s: float = 0.0) -> None:
        """`away_s`: seconds since that was found out."""
        super().__init__(message)
        self.away_s = away_s


class LeaseExpired(Unavailable):
    """A write was not sent: before it ended, another worker might own the documents."""


class OutcomeUnknown(Unavailable):
    """No answer came in time: the call may have had its effect. Only idempotent calls may be repeated."""


class UnlistedAnswer(Unavailable):
    """Milvus answered with an error that no table lists: an outage, or a refusal in words not seen before.

    A refusal once it goes on while other calls succeed. The message may repeat values of the request.
    """


class Mismatch(MilvusStreamError):
    """What is stored was made with another schema, model or version than the one configured."""

    exit_code = 4


class NotFound(MilvusStreamError):
    """The collection or Milvus partition named does not exist."""


class RequestTooLarge(MilvusStreamError):
    """The request is over the server's message limit; split it."""


class RowsRefused(MilvusStreamError):
    """Milvus refused the whole request because of the content of at least one row."""


class RecordRejected(MilvusStreamError):
    """This record can never be stored; `reason` is a stable word for metrics and filters, the message the detail."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TooManyRejected(MilvusStreamError):
    """More records are rejected than can be bad luck; the message gives where, how many, and what to do."""


class OffsetsLost(MilvusStreamError):
    """Records that Kafka counts as read or holds no more are not stored; the message gives how many and what to do."""

    exit_code = 4


class MembershipLost(MilvusStreamError):
    """This worker no longer owns its Kafka partitions (or was fenced); it must not write for them any more."""


class JobMembershipLost(MembershipLost):
    """A job was no member of its group any more, as after an outage of Kafka; started again, it goes on."""

    exit_code = 3


class Stopped(MilvusStreamError):
    """A stage of the flow has ended; `__cause__` is the reason."""
