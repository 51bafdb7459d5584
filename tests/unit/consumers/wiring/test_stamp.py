"""Which settings a collection is bound to, and what a worker of other settings does."""

import numpy as np
import pytest

from consumers.config import Settings, load_settings
from consumers.wiring.collection import new_writer, open_configured, open_existing
from consumers.wiring.stamp import own_stamp
from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import HashEmbedder
from pipeline.errors import Mismatch, UsageError
from pipeline.records import EmbeddedPut, Put
from pipeline.store import CollectionStamp, IndexSettings, MilvusPartitions, Writer, open_collection
from tests.support.documents import put
from tests.support.fakes.milvus import FakeMilvus

MODEL = HashEmbedder("hash:8")
LONG = " ".join(f"word{number}" for number in range(40))


def settings(*sets: str) -> Settings:
    return load_settings(None, {}, ["embedding.model=hash:8", "milvus.index.type=FLAT", *sets])


def rules(*sets: str) -> object:
    return own_stamp(settings(*sets), MODEL).rules


def write(api: FakeMilvus, configured: Settings, operation: Put) -> None:
    """What a worker of these settings does with a record: it opens the collection, cuts the text and writes."""
    stamp = open_configured(configured, api, MODEL)
    writer: Writer = new_writer(configured, api, MODEL, MilvusPartitions(api, "documents"), append_ids=stamp.append_ids)
    policy = ChunkingPolicy(configured.chunking.max_tokens, configured.chunking.overlap)
    plan = writer.plan([operation])
    for each in plan.to_embed:
        chunks = Chunker(MODEL.tokenizer, policy).chunk([each.document.text])[0]
        writer.apply(plan, [EmbeddedPut(each, chunks, np.ones((len(chunks), 8), dtype=np.float32))])


def texts(api: FakeMilvus) -> list[str]:
    return sorted(row["text"] for rows in api.stored("documents").values() for row in rows.values())


@pytest.mark.parametrize(
    "change",
    [
        "mode=append",
        "record.id_field=other",
        "record.tenant_field=tenant",
        "record.version_field=version",
        "record.format=text",
        "record.format=debezium",
        "record.fields.id=$.after.id",
    ],
)
def test_what_decides_the_rows_of_a_document_cannot_change(change: str) -> None:
    api = FakeMilvus()
    write(api, settings(), put("d", "first", 1))
    stored = {name: api.stored(name) for name in api.collections()}
    with pytest.raises(Mismatch, match=r"there and .* here.*kafka\.group_id"):
        write(api, settings(change), put("d", "second", 2, tenant="acme" if "tenant" in change else None))
    with pytest.raises(Mismatch, match=r"there and .* here"):
        open_existing(settings(change), api, MODEL)
    assert {name: api.stored(name) for name in api.collections()} == stored


@pytest.mark.parametrize(
    "change",
    [
        "chunking.max_tokens=10",
        "chunking.overlap=1",
        "partitioning.by=month",
        "partitioning.tiers=[]",
        "record.time_field=at",
        "record.text_field=body",
        "record.fields.text=$.after.body",
        "record.fields.event_time=$.ts_ms",
        "record.text_template={title}",
    ],
)
def test_in_append_mode_a_redo_after_a_changed_setting_is_no_second_copy(change: str) -> None:
    """In upsert mode the same change is fine: all rows of the old version go."""
    base = ("chunking.max_tokens=32", "chunking.overlap=0")
    api, record = FakeMilvus(), put("d", LONG, 7, topic_id="id")
    write(api, settings("mode=append", *base), record)
    stored = texts(api)
    section, name, *_ = change.partition("=")[0].split(".")
    with pytest.raises(Mismatch, match=f"{section}.{name}"):
        write(api, settings("mode=append", *base, change), record)
    write(api, settings("mode=append", *base), record)
    assert texts(api) == stored

    api = FakeMilvus()
    write(api, settings(*base), put("d", LONG, 7))
    write(api, settings(*base, change), put("d", "short", 8))
    assert texts(api) == ["short"]


def test_settings_that_act_alike_are_the_same() -> None:
    own = f"chunking.max_tokens={MODEL.tokenizer.max_tokens}"
    assert rules("mode=append") == rules("mode=append", own)
    assert rules("mode=append", "partitioning.by=year") == rules(
        "mode=append", "partitioning.by=year", "partitioning.tiers=[]"
    )
    assert rules("record.format=json") == rules()
    assert rules("record.format=text") != rules()


def test_the_records_of_a_recreated_topic_overwrite_no_row() -> None:
    """Kafka deletes the commits with a topic, so its successor is read from 0, also into the same Milvus partition."""
    api, append = FakeMilvus(), settings("mode=append")
    write(api, append, put("documents/0/0", "one", 0, topic_id="old"))
    write(api, append, put("documents/0/0", "other", 0, topic_id="new"))
    write(api, append, put("documents/0/0", "later", 0, topic_id="newest", day=1))
    assert texts(api) == ["later", "one", "other"]
    identifiers = [identifier for rows in api.stored("documents").values() for identifier in rows]
    assert len(set(identifiers)) == len(identifiers)
    write(api, append, put("documents/0/0", "other", 0, topic_id="new"))
    assert texts(api) == ["later", "one", "other"]


def test_without_a_topic_id_a_redo_still_finds_its_rows() -> None:
    api, append = FakeMilvus(), settings("mode=append")
    for _ in range(2):
        write(api, append, put("a", "one", 0))
    assert texts(api) == ["one"]


def test_a_redo_after_an_upgrade_finds_the_rows_of_the_former_version() -> None:
    api = FakeMilvus()
    open_collection(api, "documents", own_stamp(settings(), MODEL).model, 8, IndexSettings("FLAT"), create=True)
    former = settings("mode=append", "partitioning.tiers=[]")
    record = put("a", "one", 0, topic_id="id")
    _write_as_former_version(api, former, record)
    write(api, former, record)
    assert texts(api) == ["one"]
    write(api, former, put("b", "two", 1, topic_id="id"))
    write(api, former, put("b", "two", 1, topic_id="id"))
    assert texts(api) == ["one", "two"]


def _write_as_former_version(api: FakeMilvus, configured: Settings, record: Put) -> None:
    partitions = MilvusPartitions(api, "documents")
    writer = new_writer(configured, api, MODEL, partitions, append_ids="topic-name")
    plan = writer.plan([record])
    chunks = Chunker(MODEL.tokenizer, ChunkingPolicy()).chunk([record.document.text])[0]
    writer.apply(plan, [EmbeddedPut(record, chunks, np.ones((len(chunks), 8), dtype=np.float32))])


def test_the_own_group_fills_the_collection_with_its_topics() -> None:
    own: CollectionStamp = own_stamp(settings("kafka.topics=a,b", "kafka.group_id=g"), MODEL)
    assert own.fillers == {"g": frozenset({"a", "b"})}


@pytest.mark.parametrize("mode", ["upsert", "append"])
def test_rows_have_the_fields_of_the_programs_that_are_configured(mode: str) -> None:
    api = FakeMilvus()
    for offset, sets in enumerate([[], ["milvus.compat=llamaindex"], ["milvus.compat=[]"]]):
        write(api, settings(f"mode={mode}", *sets), put(str(offset), "text", offset))
    rows = {row["doc_id"]: row for rows in api.stored("documents").values() for row in rows.values()}
    assert [doc_id for doc_id in rows if "_node_type" in rows[doc_id]] == ["1"]
    assert len(rows) == 3


@pytest.mark.parametrize("value", ["llamaindex", " llamaindex ,", "[llamaindex]"])
def test_programs_are_named_in_a_list_or_a_text(value: str) -> None:
    assert settings(f"milvus.compat={value}").milvus.compat == ("llamaindex",)
    for wrong in ("langchain", "[llamaindex, x]"):
        with pytest.raises(UsageError, match=r"milvus\.compat"):
            settings(f"milvus.compat={wrong}")
