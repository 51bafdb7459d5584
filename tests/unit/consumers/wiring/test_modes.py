"""What differs between the modes."""

import pytest

from consumers.config import load_settings
from consumers.wiring.modes import WriteTarget, mode_of
from pipeline.ingest import APPEND, UPSERT, WriteMode
from pipeline.store import AppendWriter, MilvusPartitions, Partitioning, UpsertWriter
from tests.support.fakes.milvus import FakeMilvus


@pytest.mark.parametrize(
    ("name", "collections", "flow", "writer"),
    [
        ("upsert", ("news", "news__ledger", "news__marks"), UPSERT, UpsertWriter),
        ("append", ("news", "news__marks"), APPEND, AppendWriter),
    ],
)
def test_a_mode_names_its_collections_and_builds_its_writer(
    name: str, collections: tuple[str, ...], flow: WriteMode, writer: type
) -> None:
    mode = mode_of(load_settings(None, {}, [f"mode={name}"]))
    assert mode.collections("news") == collections
    assert mode.flow is flow
    assert mode.one_version == ("news__ledger" in collections)
    milvus = FakeMilvus()
    target = WriteTarget(
        milvus, "news", MilvusPartitions(milvus, "news"), Partitioning("day"), "fingerprint", "topic-id"
    )
    assert type(mode.new_writer(target, None)) is writer
