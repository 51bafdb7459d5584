"""The frozen values that flow, in the order they come into being.

SourceRecord -> Operation (Put | Delete | Rejected) -> Chunk -> EmbeddedPut -> Receipt
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:  # numpy takes a fifth of a second, and the configuration, which needs this module, has no arrays
    import numpy as np
    from numpy.typing import NDArray

JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"

MAX_DOC_ID_BYTES = 1024
"""Limit of the `doc_id` field in UTF-8 bytes: Milvus counts VARCHAR in bytes."""
MAX_TEXT_BYTES = 65_535
"""Limit of the `text` field of one row in UTF-8 bytes: the largest VARCHAR Milvus has."""
MAX_METADATA_BYTES = 65_536
"""Limit of one row's metadata as JSON, in bytes: Milvus's limit of a dynamic field."""
MAX_INT64 = 2**63 - 1
MIN_INT64 = -(2**63)
"""Bounds of the integers that Milvus stores."""

ROW_FIELDS = ("id", "doc_id", "chunk", "text", "event_time", "kafka_topic", "kafka_partition", "kafka_offset")
"""Declared columns of a document's row, the vectors apart; `pipeline.store` declares their types."""
VECTOR_FIELD = "vector"
"""The column of the embedding."""
SPARSE_FIELD = "sparse"
"""The column that a server with BM25 fills from `text`."""
TENANT_FIELD = "tenant"
"""A key of the dynamic field, present only in rows of documents with a tenant."""
METADATA_FIELD = "$meta"
"""Milvus's name of the dynamic field: all keys of a row that are not declared."""
NODE_FIELDS = ("_node_content", "_node_type")
"""Keys of the dynamic field that LlamaIndex reads, in rows written with `milvus.compat: [llamaindex]`."""
NOT_METADATA = frozenset({METADATA_FIELD, *NODE_FIELDS})
"""What a row holds beside its columns and is no metadata of its document."""
RESERVED_NAMES = frozenset({*ROW_FIELDS, VECTOR_FIELD, SPARSE_FIELD, TENANT_FIELD, METADATA_FIELD, *NODE_FIELDS})
"""Names that metadata cannot have; metadata of such a name is kept as `meta_<name>`.

`tenant`, `sparse` and the node fields are reserved always, not only where they are in use: searches tell documents
apart by `tenant`, and a collection that moves to a newer server must not give other names to the same records.
"""

CANARY_PREFIX = "milvus-stream:canary:"
"""What the ids of canaries begin with; searches show no such document."""

KafkaPartition: TypeAlias = tuple[str, int]
"""Topic and Kafka partition number; the first two fields of a `Position`."""


class Position(NamedTuple):
    """Where a record stands in Kafka."""

    topic: str
    partition: int
    offset: int


class Rank(NamedTuple):
    """What decides which of two records of a document is newer; the rule is in `pipeline.order`."""

    position: Position
    topic_id: str
    time_ms: int
    """Kafka's timestamp; the greatest of the records of one log and version up to this one. Negative: none."""
    version: int | None
    """From `record.version_field`; None: the record has none."""
    reset_offset: int = -1
    """Offset of the newest record without version in the same log, this one included; -1: none is known."""
    reset_ms: int = -1
    """Greatest timestamp of a record without version that is known, this one included; -1: none is known."""
    floor: int | None = None
    """The highest version that such a record has replaced."""

    @property
    def highest_version(self) -> int | None:
        """The version that records of other logs must exceed."""
        if self.version is None or self.floor is None:
            return self.floor if self.version is None else self.version
        return max(self.version, self.floor)


@dataclass(frozen=True, slots=True)
class Defect:
    """Why a record is not, or not wholly, what is in Kafka: it can only be dead-lettered."""

    reason: str
    message: str
    notes: tuple[tuple[str, str], ...] = ()
    """What its dead letter has to say of the original, as names and values."""


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One Kafka record as it was read: raw bytes, nothing decoded."""

    position: Position
    timestamp_ms: int
    """Kafka's record timestamp, epoch milliseconds."""
    key: bytes | None
    value: bytes | None
    """None is a tombstone; b"" is an empty value and not the same."""
    headers: tuple[tuple[str, bytes | None], ...] = ()
    topic_id: str = ""
    """Kafka's id of the topic, another one after the topic was recreated; "" where it is not known."""
    defect: Defect | None = None

    @property
    def size(self) -> int:
        """Bytes of key, value and header values: what the byte budgets count."""
        size = len(self.key or b"") + len(self.value or b"")
        if self.headers:
            size += sum(len(name) + len(value or b"") for name, value in self.headers)
        return size


@dataclass(frozen=True, slots=True)
class Document:
    """What a record says about one document."""

    doc_id: str
    text: str
    event_time: int
    """Epoch milliseconds; decides the Milvus partition."""
    metadata: Mapping[str, JsonValue] = field(default_factory=dict)
    """Every other field of the record, by the names the rows will carry (collisions are already renamed)."""
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """Store this document as the current version of its key."""

    position: Position
    timestamp_ms: int
    document: Document
    version: int | None = None
    """From `record.version_field`; None: the Kafka position is the version."""
    topic_id: str = ""
    """As in SourceRecord: offsets of topics with different ids cannot be compared."""
    rank: Rank | None = None
    """With what is known of the records folded into it; None: there are none."""

    @property
    def key(self) -> tuple[str | None, str]:
        """Tenant and doc_id: what identifies the document."""
        return self.document.tenant, self.document.doc_id


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the document with this key."""

    position: Position
    timestamp_ms: int
    doc_id: str
    tenant: str | None = None
    version: int | None = None
    topic_id: str = ""
    rank: Rank | None = None
    """As in Put."""

    @property
    def key(self) -> tuple[str | None, str]:
        """Tenant and doc_id: what identifies the document."""
        return self.tenant, self.doc_id


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that can never be stored; it goes to the dead-letter topic with what is said here."""

    record: SourceRecord
    stage: str
    """decode | validate | embed | write."""
    reason: str
    """A stable snake_case word, for metrics and `dlq list --reason`."""
    message: str
    """One sentence: what is wrong, with which field, and what would be right. Never holds document text."""
    error_class: str = "pipeline.errors.RecordRejected"
    batch: int = 0
    """As in Receipt."""

    @property
    def position(self) -> Position:
        """Where the record stands in Kafka."""
        return self.record.position


Operation: TypeAlias = Put | Delete | Rejected


class Tokens(NamedTuple):
    """One text as the model's tokenizer reads it, without special tokens; three arrays of one length."""

    ids: "NDArray[np.int32]"
    starts: "NDArray[np.int32]"
    """Characters [start, end) of the text that each token stands for."""
    ends: "NDArray[np.int32]"


class Tokenizer(Protocol):
    """What chunking asks of a model's tokenizer; the embedding room provides it."""

    @property
    def max_tokens(self) -> int:
        """Tokens one chunk may have: the model's limit less special tokens and document prompt."""

    def tokenize(self, texts: Sequence[str], fits: int = 0) -> list[Tokens]:
        """Tokens of each text, nothing truncated.

        Of a text with at most `fits` tokens `starts` and `ends` may be left empty: it will not be cut.
        """


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one document's text, as the model will read it."""

    index: int
    """Counts from 0 without a gap within the document."""
    start: int
    end: int
    """Characters [start, end) of the document's text. Neighbours touch or overlap, so all chunks cover the text."""
    text: str
    token_ids: "NDArray[np.int32]"
    """The model's token ids of this chunk, shape (n,), without special tokens or prompt."""


@dataclass(frozen=True, slots=True)
class EmbeddedPut:
    """A document ready to be stored."""

    put: Put
    chunks: Sequence[Chunk]
    vectors: "NDArray[np.float32]"
    """Shape (len(chunks), dimension), finite."""


class Reached(NamedTuple):
    """How far a Kafka partition was acknowledged in one assignment of it."""

    offset: int
    """Every record below it is stored, superseded, deleted or rejected."""
    assignment: int
    """Number of the assignment; a position of a former one counts no more."""


@dataclass(frozen=True, slots=True)
class WrittenPositions:
    """Positions that the store has acknowledged. They become durable as rows do, by a flush that begins after that."""

    positions: Mapping[KafkaPartition, Reached]


@dataclass(frozen=True, slots=True)
class Receipt:
    """These records are finished: durable in Milvus, resolved by a later record, or confirmed in the dead-letter topic.

    Only now may an offset at or above them be committed.
    """

    positions: Sequence[Position]
    batch: int = 0
    """Number of the batch in which they were read, 0 for none. It finishes no record of a Kafka partition that was
    assigned again after that batch: the record has been read again since."""


Finished: TypeAlias = Receipt | WrittenPositions
"""What becomes durable: records, and the positions up to which they are remembered."""
