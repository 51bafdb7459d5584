"""The settings: their names, types, defaults and limits."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from consumers.config.access import AuthSection, ClientSection
from consumers.config.record import RecordSection
from consumers.config.registry import RegistrySection
from consumers.config.rerank import RerankSection
from consumers.config.section import Section as _Section
from consumers.config.units import Bytes, Duration, Origins, Parameters, Secret
from pipeline.timestamps import format_duration

_LEAST_KEY_CHARS = 16
_UNITS = ("day", "week", "month", "year")


class KafkaSection(_Section):
    """Where documents come from. Every further option of the kafka-python consumer (TLS, SASL …) is passed through."""

    model_config = ConfigDict(extra="allow", frozen=True)

    bootstrap_servers: str = Field("localhost:9092", description="host:port, several separated by commas")
    topics: tuple[str, ...] = Field(("documents",), min_length=1, description="topics read by this group")
    group_id: str = Field("milvus-stream", min_length=1, description="consumer group; one group fills one collection")
    start_from: str = Field(
        "earliest", description="earliest | latest | an RFC 3339 time; acts on a group's very first start only"
    )
    dead_letter_topic: str = Field(
        "documents.dlq", min_length=1, description="takes records that can never be stored; none of `topics`"
    )
    create_dead_letter_topic: bool = Field(True, description="create it at the start where it is missing")
    session_timeout: Duration = Field(
        timedelta(seconds=45), description="Kafka reassigns a dead worker's partitions after this time"
    )
    max_record_bytes: Bytes = Field(2**20, gt=0, description="a larger record is dead-lettered")
    assignor: Literal["cooperative-sticky", "range", "roundrobin"] = Field(
        "cooperative-sticky", description="how Kafka partitions are shared out; the same in all workers of a group"
    )

    @field_validator("topics", mode="before")
    @classmethod
    def _one_topic_is_a_list_of_one(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _dead_letters_leave_the_sources(self) -> Self:
        if self.dead_letter_topic in self.topics:
            raise ValueError(f"dead_letter_topic {self.dead_letter_topic!r} is also read as a source: a loop")
        return self

    @property
    def client_options(self) -> dict[str, Any]:
        """The options passed through to the Kafka client; secrets are plain text here."""
        return dict(self.model_extra or {})


class DeadLettersSection(_Section):
    """When too many records of a Kafka partition are rejected, the worker stops with an error; null: never."""

    max_ratio: float | None = Field(0.5, gt=0, lt=1, description="more of the last `window` records stop the worker")
    window: int = Field(2_000, ge=1, le=1_000_000, description="records of one Kafka partition")
    max_consecutive: int | None = Field(1_000, ge=1, description="more in a row stop the worker")


class IndexSection(_Section):
    """The index of the field `vector`; checked before anything connects."""

    type: str = Field(
        "HNSW",
        description="HNSW, FLAT, IVF_FLAT, IVF_SQ8, AUTOINDEX, SCANN, DISKANN, GPU_IVF_FLAT or GPU_CAGRA",
    )
    metric: str = Field("COSINE", description="COSINE, IP or L2")
    params: Parameters = Field(
        default_factory=lambda: {"M": 16, "efConstruction": 200},
        description="build parameters of the index type; another type than HNSW begins with none",
    )

    @model_validator(mode="before")
    @classmethod
    def _params_belong_to_their_type(cls, value: Any) -> Any:
        """Another index type does not inherit HNSW's default parameters."""
        if isinstance(value, dict) and str(value.get("type", "HNSW")).upper() != "HNSW":
            return {"params": {}, **value}
        return value


class MilvusSection(_Section):
    """Where documents go."""

    uri: str = Field("http://localhost:19530", description="address, or a path ending in .db for Milvus Lite")
    token: Secret | None = Field(None, description="user:password or an API key")
    collection: str = Field(
        "documents", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,200}$", description="created at the start where it is missing"
    )
    durability: Literal["flush", "ack"] = Field(
        "flush", description="when an offset may be committed: after a flush, or after the server's answer"
    )
    flush_interval: Duration = Field(
        timedelta(seconds=30), description="least time between two flushes; offsets wait for a flush"
    )
    timeout: Duration = Field(timedelta(seconds=10), description="of one call to Milvus")
    tombstone_retention: Duration | None = Field(
        timedelta(days=7), description="how long a delete is kept, so that no older record undoes it; null: for ever"
    )
    index: IndexSection = IndexSection()
    search_params: Parameters = Field(
        default_factory=dict,
        description="parameters of searches in this type of index (`ef`, `nprobe` …), unless a request gives its own",
    )
    sparse: Literal["auto", "off"] = Field(
        "auto", description="keyword index of a new collection; auto: where the server fills one"
    )
    analyzer: str | dict[str, Any] = Field(
        "standard",
        description="what cuts the texts of a new collection into words: standard, english, chinese, or a mapping as "
        "Milvus's analyzer_params (Milvus 2.5; Lite: standard, or a mapping with tokenizer standard or jieba)",
    )
    enable_match: bool = Field(
        False, description="filters of type match in a new collection (Milvus 2.5 or newer, or Lite)"
    )

    compat: tuple[Literal["llamaindex"], ...] = Field(
        (),
        description="programs that open the collection by themselves and need fields of their own in its rows; "
        "llamaindex: node and metadata, some 250 bytes a row and the metadata again",
    )

    @field_validator("compat", mode="before")
    @classmethod
    def _names_are_a_list(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("sparse", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        """YAML reads `off` without quotes as false."""
        return "off" if value is False else value


class TierSection(_Section):
    """A coarser granularity for event times that lie far before their record."""

    older_than: Duration = Field(description="least distance from the event time to the record's Kafka timestamp")
    by: Literal["day", "week", "month", "year"] = Field(description="what one Milvus partition holds then")


class PartitioningSection(_Section):
    """Time partitions in Milvus, in UTC."""

    by: Literal["hour", "day", "week", "month", "year", "none"] = Field(
        "day", description="what one Milvus partition holds"
    )
    tiers: tuple[TierSection, ...] = Field(
        (
            TierSection(older_than=timedelta(days=60), by="month"),
            TierSection(older_than=timedelta(days=730), by="year"),
        ),
        description="coarser Milvus partitions for event times far before their record, so that wrong dates do not "
        "use them up; one that is not coarser than `by` has no effect",
    )
    future_skew: Duration = Field(timedelta(minutes=10), description="an event time further ahead is dead-lettered")
    max_event_age: Duration | None = Field(
        None, description="an event time longer ago is dead-lettered; null: any age; removes nothing that is stored"
    )
    hot: Literal["all"] = Field("all", description="which partitions stay loaded")
    max_partitions: int = Field(
        1000,
        ge=1,
        le=4096,
        description="Milvus partitions of the collection; a tenth (at most 100) is kept for event times near their "
        "record, for which ingest waits at the limit; other records beyond it are dead-lettered",
    )

    @model_validator(mode="after")
    def _tiers_rise(self) -> Self:
        for before, tier in pairwise(self.tiers):
            if tier.older_than <= before.older_than or _UNITS.index(tier.by) <= _UNITS.index(before.by):
                raise ValueError(
                    f"tiers must rise: {format_duration(tier.older_than)} by {tier.by} follows "
                    f"{format_duration(before.older_than)} by {before.by}; write an older one with a coarser `by`"
                )
        if self.tiers and self.tiers[0].older_than <= timedelta(0):
            raise ValueError("tiers: older_than must be more than 0")
        return self


class ChunkingSection(_Section):
    """How long texts are cut."""

    max_tokens: int | None = Field(None, ge=8, description="null: what the model takes")
    overlap: int = Field(32, ge=0, description="tokens a chunk repeats of the one before")


class EmbeddingSection(_Section):
    """The model."""

    model: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2",
        description="a folder, a hub id whose files are here already, or hash:DIMENSION (no model, for tests)",
    )
    dimensions: int | None = Field(
        None,
        ge=2,
        le=32_768,
        description="Matryoshka: keep so many components of each vector, for models trained for it; null: all",
    )
    device: str = Field("auto", description="auto | cpu | cuda | cuda:N")
    engine: Literal["auto", "torch", "openvino"] = Field(
        "auto",
        description="what runs the model; auto: torch on a GPU, OpenVINO on a CPU, and torch there for a model that "
        "OpenVINO does not run",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        "auto",
        description="precision of the model; auto: 16 bits where they are faster on this machine, else float32; int8: "
        "half as long again as fast on a CPU, with other vectors (extra `int8`)",
    )
    token_budget: int | Literal["auto"] = Field(
        "auto", description="tokens in one forward pass, padding included; auto: measured at the start"
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="CPU cores to use; null: those of the process, shared by `ingest --workers`"
    )
    cache_folder: Path = Field(
        Path("~/.cache/milvus-stream"),
        description="keeps models prepared for OpenVINO, and what was measured on this machine",
    )
    calibration: Path | None = Field(
        None,
        description="file of texts, one a line, that an int8 model is calibrated on; null: Python's documentation",
    )

    @field_validator("token_budget")
    @classmethod
    def _budget_holds_a_text(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 16:
            raise ValueError("must be at least 16 tokens, or auto")
        return value


class BatchSection(_Section):
    """When a micro-batch closes, and how many bytes may be under way."""

    max_records: int = Field(1000, ge=1, le=100_000, description="a batch with so many records closes")
    max_bytes: Bytes = Field(8 * 2**20, gt=0, description="a batch of so many bytes closes")
    max_wait: Duration = Field(
        timedelta(milliseconds=500), description="a batch closes when its first record has waited so long"
    )
    buffer_bytes: Bytes = Field(
        64 * 2**20,
        gt=0,
        description="records read but not yet written; beyond it Kafka is paused. Sizes of fetches follow from it",
    )


class QuerySection(_Section):
    """The query worker."""

    host: str = Field("127.0.0.1", description="address it listens on; `::` is IPv6 and IPv4")
    port: int = Field(8080, ge=0, le=65535, description="0: any free port, logged at the start")
    max_limit: int = Field(1000, ge=1, le=4096, description="most results of a search, all its texts together")
    concurrency: int = Field(32, ge=1, description="searches at a time; more are answered 429")
    cursor_key: Secret | None = Field(
        None,
        description="signs cursors, at least 16 characters; the same for all query workers of a collection, so that "
        "each takes the cursors of the others; none: a random one at every start",
    )
    page: bool = Field(True, description="serve the page for browsers at `/`")
    telemetry_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="further port for probes and metrics, on telemetry.host and without keys; null: none",
    )
    audit_text: bool = Field(False, description="write the texts of searches into the audit log")
    auth: AuthSection = AuthSection()
    cors_origins: Origins = Field(
        (),
        description="web sites whose scripts may use the API and read its answers (CORS), such as "
        "https://app.example.com; `*`: all",
    )
    rerank: RerankSection = RerankSection()

    canary: Duration | None = Field(
        None,
        ge=timedelta(seconds=10),
        description="interval at which a document is published, found and deleted, to measure how fresh searches are; "
        "null or off: never. Needs Write on the first of kafka.topics, and mode upsert",
    )

    @field_validator("cursor_key")
    @classmethod
    def _check_key(cls, key: Secret | None) -> Secret | None:
        if key is not None and len(key.get_secret_value()) < _LEAST_KEY_CHARS:
            raise ValueError(f"needs at least {_LEAST_KEY_CHARS} random characters, or leave it out")
        return key

    @field_validator("canary", mode="before")
    @classmethod
    def _off_is_null(cls, value: Any) -> Any:
        """In YAML `off` is false."""
        return None if value is False or value == "off" else value


class TelemetrySection(_Section):
    """Metrics and probes of the ingest worker, and logs."""

    host: str = Field("127.0.0.1", description="address of metrics and probes; `::` is IPv6 and IPv4")
    port: int = Field(9464, ge=0, le=65535, description="0: any free port, logged at the start")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, else JSON")


class Settings(_Section):
    """The whole configuration."""

    kafka: KafkaSection = KafkaSection()
    dead_letters: DeadLettersSection = DeadLettersSection()
    record: RecordSection = RecordSection()
    registry: RegistrySection = RegistrySection()
    mode: Literal["upsert", "append"] = Field(
        "upsert", description="upsert: one current version per key; append: every record is its own document"
    )
    milvus: MilvusSection = MilvusSection()
    partitioning: PartitioningSection = PartitioningSection()
    chunking: ChunkingSection = ChunkingSection()
    embedding: EmbeddingSection = EmbeddingSection()
    batch: BatchSection = BatchSection()
    query: QuerySection = QuerySection()
    client: ClientSection = ClientSection()
    telemetry: TelemetrySection = TelemetrySection()
    shutdown_timeout: Duration = Field(timedelta(seconds=30), description="to finish the records under way at SIGTERM")
