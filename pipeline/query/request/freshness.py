"""How fresh an answer must be, as a request gives it."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.query.request.filters import StrictModel
from pipeline.query.request.value_types import Between, Expected
from pipeline.records import MAX_INT64

MAX_AWAITED = 64
MAX_TOPIC_CHARS = 249
"""Kafka's own limit."""
_MAX_PARTITION = 2**31 - 1
_MAX_WAIT_MS = 60_000


class AwaitedOffset(StrictModel):
    """A record that must have been processed before the search."""

    topic: Annotated[str, Field(min_length=1, max_length=MAX_TOPIC_CHARS)]
    partition: Annotated[int, Between(0, _MAX_PARTITION)]
    """The Kafka partition."""
    offset: Annotated[int, Between(0, MAX_INT64 - 1)]
    """Offset of the record itself, as the producer gets it."""


class FreshnessOptions(StrictModel):
    """How fresh the answer must be."""

    level: Annotated[Literal["bounded", "strong"], Expected("must be bounded or strong")] = "bounded"
    """What is searched: what was visible some 0.2 s ago at the latest, or everything acknowledged before the search."""
    wait_for: list[AwaitedOffset] = Field([], max_length=MAX_AWAITED)
    """Wait until the consumer group has committed these records; the search is then strong."""
    timeout_ms: Annotated[int, Between(1, _MAX_WAIT_MS)] | None = None
    """Most milliseconds to wait for them; null: what the time of the request allows."""

    @property
    def strong(self) -> bool:
        """Whether the search must see every write that Milvus has acknowledged."""
        return self.level == "strong" or bool(self.wait_for)
