import io
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from consumers.cli.collections import dropping, listing
from consumers.cli.common.inventory import own_collections, partition_rows
from consumers.config import Settings
from pipeline.errors import Mismatch, NotFound, UsageError
from pipeline.store import IndexSettings, open_collection, open_ledger, open_marks
from pipeline.store.milvus.api import CollectionSpec, FieldInfo, IndexInfo, ServerInfo
from tests.support.documents import put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.stores import Store, make_store, write

FOREIGN = CollectionSpec(
    "theirs",
    "somebody's vectors",
    (FieldInfo("id", "VARCHAR", primary=True, max_length=64), FieldInfo("vector", "FLOAT_VECTOR", dimension=4)),
    dynamic=False,
    indexes={"vector": IndexInfo("FLAT", "L2", {})},
)


def _fill(milvus: FakeMilvus, name: str = "news") -> Store:
    """Five chunks of three documents on two days, one more document deleted."""
    store = make_store(milvus, name)
    write(store.upsert_writer(), [put("a", "one two", 1), put("b", "three", 2, day=1), put("c", "four five", 3)])
    return store


def _named(rows: list[dict[str, Any]]) -> Mapping[str, dict[str, Any]]:
    return {row["name"]: row for row in rows}


def test_collections_are_listed_with_their_ledger_folded_in(milvus: FakeMilvus, settings: Settings) -> None:
    _fill(milvus)
    _fill(milvus, "old")
    milvus.create_collection(FOREIGN)
    open_ledger(milvus, "gone")
    rows = _named(listing.list_all(settings))
    assert list(rows) == ["gone", "news", "old"]
    assert rows["news"] == {
        "name": "news",
        "configured": True,
        "mode": "upsert",
        "rows": 5,
        "model": "model",
        "dimension": None,
        "partitions": 2,
        "ledger": "news__ledger",
        "note": None,
    }
    assert not rows["old"]["configured"]
    assert rows["gone"]["rows"] is None
    assert "collections drop gone" in rows["gone"]["note"]


def test_rows_by_milvus_partition_tell_what_is_not_loaded(milvus: FakeMilvus) -> None:
    _fill(milvus)
    milvus.create_partition("news", "d20261001")
    milvus.release_partitions("news", ["d20261123"])
    held = partition_rows(milvus, "news")
    # A server that is asked for the rows of a released one is waited for, as if it were recovering.
    assert [call for call, *_ in milvus.calls].count("count") == 3
    assert [one.as_dict() for one in held] == [
        {
            "name": "d20261001",
            "from": "2026-10-01T00:00:00Z",
            "to": "2026-10-02T00:00:00Z",
            "rows": 0,
            "loaded": True,
        },
        {
            "name": "d20261122",
            "from": "2026-11-22T00:00:00Z",
            "to": "2026-11-23T00:00:00Z",
            "rows": 4,
            "loaded": True,
        },
        {
            "name": "d20261123",
            "from": "2026-11-23T00:00:00Z",
            "to": "2026-11-24T00:00:00Z",
            "rows": None,
            "loaded": False,
        },
    ]


@pytest.mark.parametrize("lite", [False, True])
def test_without_time_partitions_the_default_one_is_shown(lite: bool) -> None:
    milvus = FakeMilvus(server=ServerInfo("x", (2, 3, 5), lite=lite))
    open_collection(milvus, "flat", {"name": "m"}, 4, IndexSettings("FLAT", "COSINE", {}), create=True)
    assert [one.as_dict() for one in partition_rows(milvus, "flat")] == [
        {"name": "_default", "from": None, "to": None, "rows": 0, "loaded": True}
    ]


def test_info_of_a_collection(milvus: FakeMilvus, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    _fill(milvus)
    found = listing.info(settings, "news")
    assert (found["name"], found["rows"], found["documents"], found["ledger"]) == ("news", 5, 3, "news__ledger")
    assert found["model"] == {"name": "model"}
    assert {"name": "vector", "type": "FLOAT_VECTOR", "primary": False, "dimension": 8, "max_length": None} in found[
        "fields"
    ]
    assert found["indexes"]["vector"]["indexed_rows"] == 5
    assert [one["rows"] for one in found["partitions"]] == [4, 1]
    listing.show_info(found)
    printed = capsys.readouterr().out
    assert "5 rows, 3 documents" in printed
    assert "d20261122" in printed


def test_info_of_a_foreign_collection_says_so(milvus: FakeMilvus, settings: Settings) -> None:
    milvus.create_collection(FOREIGN)
    found = listing.info(settings, "theirs")
    assert (found["model"], found["ledger"], found["documents"]) == (None, None, None)


def _dropped(settings: Settings, name: str) -> None:
    dropping.drop(settings, name, dry_run=False, yes=True)


@pytest.mark.parametrize("act", [listing.info, _dropped])
@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("newz", (NotFound, "did you mean news")),
        ("completely_different", (NotFound, "collections list")),
        ("news__ledger", (UsageError, "is the ledger of 'news'")),
        ("news__marks", (UsageError, "holds the marks of 'news'")),
        ("../../etc", (UsageError, "letters, digits")),
    ],
)
def test_a_wrong_name_is_refused_and_nothing_changes(
    milvus: FakeMilvus,
    settings: Settings,
    act: Callable[[Settings, str], object],
    name: str,
    refusal: tuple[type[Exception], str],
) -> None:
    _fill(milvus)
    with pytest.raises(refusal[0], match=refusal[1]):
        act(settings, name)
    assert milvus.collections() == ["news", "news__ledger", "news__marks"]


def test_drop_removes_ledger_collection_and_marks_in_this_order(
    milvus: FakeMilvus, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    _fill(milvus)
    _fill(milvus, "other")
    dropping.drop(settings, "news", dry_run=False, yes=True)
    assert milvus.collections() == ["other", "other__ledger", "other__marks"]
    assert [name for call, name, _ in milvus.calls if call == "drop_collection"] == [
        "news__ledger",
        "news",
        "news__marks",
    ]
    captured = capsys.readouterr()
    # Where nothing has set up logging, structlog's lines are on stdout, too.
    dropped = [line for line in captured.out.splitlines() if line.startswith("dropped")]
    assert dropped == ["dropped news__ledger", "dropped news", "dropped news__marks"]
    assert "could not be asked" in captured.err  # no Kafka here; that must not keep anyone from dropping


@pytest.mark.parametrize(("open_rest", "rest"), [(open_ledger, "only the ledger"), (open_marks, "only the marks")])
def test_a_drop_cut_off_half_way_can_be_finished(
    milvus: FakeMilvus, settings: Settings, open_rest: Callable[[FakeMilvus, str], object], rest: str
) -> None:
    open_rest(milvus, "news")
    assert [one["name"] for one in listing.list_all(settings)] == ["news"]
    with pytest.raises(NotFound, match=rest):
        listing.info(settings, "news")
    dropping.drop(settings, "news", dry_run=False, yes=True)
    assert milvus.collections() == []


def test_a_dry_run_and_a_drop_that_nobody_confirms_change_nothing(
    milvus: FakeMilvus, settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(milvus)
    dropping.drop(settings, "news", dry_run=True, yes=True)
    assert "would drop collection news on http://localhost:19530: 5 rows in 2 partitions" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(UsageError, match="--yes"):
        dropping.drop(settings, "news", dry_run=False, yes=False)
    assert milvus.collections() == ["news", "news__ledger", "news__marks"]


def test_a_collection_of_somebody_else_is_not_dropped(milvus: FakeMilvus, settings: Settings) -> None:
    milvus.create_collection(FOREIGN)
    milvus.upsert("theirs", None, [{"id": "ab", "vector": np.ones(4, dtype=np.float32)}])
    with pytest.raises(Mismatch, match="not made by milvus-stream"):
        dropping.drop(settings, "theirs", dry_run=False, yes=True)
    assert milvus.count("theirs") == 1
    assert own_collections(milvus) == []
