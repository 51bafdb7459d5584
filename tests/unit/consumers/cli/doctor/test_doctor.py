from collections.abc import Iterable
from contextlib import nullcontext

import pytest

from consumers.cli.doctor.findings import Finding, Findings
from consumers.cli.doctor.milvus import examine_milvus
from consumers.cli.doctor.run import examine, exit_code, show
from consumers.config import Settings, load_settings
from consumers.wiring import connections
from consumers.wiring.collection import open_configured
from consumers.wiring.stamp import own_stamp
from pipeline.embedding import EmbeddingSettings, load_embedder
from pipeline.errors import Unavailable, UsageError
from pipeline.store import IndexSettings, open_collection, open_ledger
from pipeline.store.milvus.api import ServerInfo
from tests.support.documents import NOON_MS, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.stores import Store, write

MODEL = load_embedder(EmbeddingSettings("hash:8"))
CROWDED, MIXED = [f"d2026100{day}" for day in range(1, 10)], [f"h202611220{hour}" for hour in range(3)]
INDEX = IndexSettings("HNSW", "COSINE", {"M": 16, "efConstruction": 200})


def _settings(*sets: str) -> Settings:
    base = ["milvus.collection=news", "embedding.model=hash:8", "kafka.bootstrap_servers=kafka.invalid:9092"]
    return load_settings(None, {}, [*base, "kafka.bootstrap_timeout_ms=200", *sets])


def _make(milvus: FakeMilvus, *days: str, model: str = "hash:8", index: IndexSettings = INDEX) -> None:
    stamp = load_embedder(EmbeddingSettings(model)).stamp
    about = {name: getattr(stamp, name) for name in ("name", "digest", "dimension", "pooling", "max_tokens")}
    open_collection(milvus, "news", about, stamp.dimension, index, create=True)
    open_ledger(milvus, "news")
    for day in days:
        milvus.create_partition("news", day)


def _found(settings: Settings) -> Findings:
    found = Findings()
    examine_milvus(settings, own_stamp(settings, MODEL), found, NOON_MS)
    return found


def _bad(found: Iterable[Finding]) -> list[tuple[str, str]]:
    return [(finding.check, finding.level) for finding in found if finding.level != "ok"]


def test_a_sound_collection_has_no_finding(milvus: FakeMilvus) -> None:
    _make(milvus, "d20261121", "d20261122")
    found = _found(_settings("partitioning.max_event_age=30d"))
    assert _bad(found) == []
    assert {one.check for one in found} == {
        "milvus.reachable",
        "clock.milvus",
        "milvus.collection",
        "milvus.stamp",
        "milvus.ledger",
        "milvus.index",
        "milvus.partitions",
        "milvus.retention",
    }


def test_a_collection_that_is_not_there_yet_is_fine(milvus: FakeMilvus) -> None:
    assert _bad(_found(_settings())) == []


def test_a_ledger_without_its_collection_is_a_problem(milvus: FakeMilvus) -> None:
    open_ledger(milvus, "news")
    assert _bad(_found(_settings())) == [("milvus.collection", "problem")]


def test_a_collection_without_its_ledger_is_a_problem(milvus: FakeMilvus) -> None:
    _make(milvus)
    milvus.drop_collection("news__ledger")
    assert _bad(_found(_settings())) == [("milvus.ledger", "problem")]
    assert _bad(_found(_settings("mode=append"))) == []


@pytest.mark.parametrize(("filled", "configured"), [("upsert", "append"), ("append", "upsert")])
def test_the_mode_must_be_the_one_the_collection_is_filled_in(milvus: FakeMilvus, filled: str, configured: str) -> None:
    settings = _settings(f"mode={filled}")
    open_configured(settings, milvus, MODEL)
    assert _bad(_found(settings)) == []
    found = _found(_settings(f"mode={configured}"))
    assert ("milvus.stamp", "problem") in _bad(found)
    assert f"mode is '{filled}' there and '{configured}' here" in " ".join(one.seen for one in found)


def test_the_mode_of_a_collection_of_a_former_version_is_seen_in_its_data(milvus: FakeMilvus) -> None:
    _make(milvus)
    write(Store(milvus, "news").upsert_writer(), [put("a", "one", 0)])
    assert _bad(_found(_settings())) == []
    assert _bad(_found(_settings("mode=append"))) == [("milvus.stamp", "problem")]


def test_an_append_collection_has_no_finding_about_a_ledger(milvus: FakeMilvus) -> None:
    """A worker of mode upsert may have left an empty one."""
    settings = _settings("mode=append")
    open_configured(settings, milvus, MODEL)
    open_ledger(milvus, "news")
    assert "milvus.ledger" not in {one.check for one in _found(settings)}


def test_another_group_is_a_problem(milvus: FakeMilvus) -> None:
    open_configured(_settings(), milvus, MODEL)
    assert _bad(_found(_settings("kafka.group_id=other"))) == [("milvus.stamp", "problem")]


def test_another_model_is_a_problem(milvus: FakeMilvus) -> None:
    _make(milvus, model="hash:16")
    found = _found(_settings())
    assert _bad(found) == [("milvus.collection", "problem")]
    assert "hash:16" in found[2].seen


@pytest.mark.parametrize(
    ("days", "sets", "bad"),
    [
        (["d20261121", "d20261122"], ["partitioning.max_partitions=2"], [("milvus.partitions", "problem")]),
        (CROWDED, ["partitioning.max_partitions=10"], [("milvus.partitions", "warning")]),
        (MIXED, [], [("milvus.partitions", "warning")]),
        (["d20261001", "d20261122"], ["partitioning.max_event_age=7d"], [("milvus.retention", "warning")]),
        (["d20261115"], ["partitioning.max_event_age=7d"], []),  # it ends 6.5 days before noon of the 22nd
    ],
)
def test_milvus_partitions(milvus: FakeMilvus, days: list[str], sets: list[str], bad: list[tuple[str, str]]) -> None:
    _make(milvus, *days)
    assert _bad(_found(_settings(*sets))) == bad


def test_more_than_128_partitions_and_released_ones_are_reported(milvus: FakeMilvus) -> None:
    names = [f"d2026{month:02}{day:02}" for month in range(1, 6) for day in range(1, 28)]
    _make(milvus, *names)
    milvus.release_partitions("news", names[:3])
    found = [one for one in _found(_settings()) if one.level == "warning"]
    assert ["get slow" in found[0].seen, "3 of 135" in found[1].seen] == [True, True]


@pytest.mark.parametrize(
    ("number", "says"),
    [((2, 2, 9), "never tested"), ((2, 3, 5), "compaction loses deletes (#33980)"), ((2, 6, 15), "is below 2.6.16")],
)
def test_an_old_server_is_reported(monkeypatch: pytest.MonkeyPatch, number: tuple[int, int, int], says: str) -> None:
    old = FakeMilvus(server=ServerInfo("v" + ".".join(map(str, number)), number, lite=False))
    monkeypatch.setattr(connections, "milvus", lambda _: nullcontext(old))
    _make(old)
    found = [one for one in _found(_settings()) if one.level != "ok"]
    assert [(one.check, one.level) for one in found] == [("milvus.version", "warning")]
    assert says in found[0].seen


def test_another_index_type_is_reported(milvus: FakeMilvus) -> None:
    _make(milvus, index=IndexSettings("IVF_FLAT", "COSINE", {}))
    assert ("milvus.index", "warning") in _bad(_found(_settings()))


def test_a_server_that_goes_away_half_way_is_one_finding_a_check(milvus: FakeMilvus) -> None:
    _make(milvus)
    milvus.fail_next("list_partitions", Unavailable("gone"))
    found = _found(_settings())
    assert _bad(found) == [("milvus.partitions", "problem")]
    assert exit_code(found) == 3


def test_everything_else_is_examined_while_kafka_is_away(
    milvus: FakeMilvus, capsys: pytest.CaptureFixture[str]
) -> None:
    _make(milvus)
    found = examine(_settings())
    assert _bad(found) == [("kafka.reachable", "problem"), ("model", "warning")]
    assert "milvus.partitions" in {one.check for one in found}
    assert exit_code(found) == 3
    show(found)
    printed = capsys.readouterr().out
    assert "PROBLEM  kafka.reachable" in printed
    assert "1 problems, 1 warnings" in printed


def test_a_model_that_cannot_be_loaded_is_a_problem_and_milvus_is_examined(milvus: FakeMilvus) -> None:
    _make(milvus)
    found = examine(_settings("embedding.model=hash:1"))
    assert ("model", "problem") in _bad(found)
    assert ("milvus.collection", "warning") in _bad(found)


def test_a_wrong_configuration_is_an_error_and_no_finding() -> None:
    with pytest.raises(UsageError, match="efConstruction"):
        examine(_settings("milvus.index.params={M: 16, efConstruction: -1}"))


def test_other_keyword_settings_are_a_warning(milvus: FakeMilvus) -> None:
    _make(milvus)
    assert _bad(_found(_settings("milvus.analyzer=english"))) == [("milvus.keywords", "warning")]


def test_keyword_settings_that_the_server_cannot_have_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    old = FakeMilvus(server=ServerInfo("v2.4.9", (2, 4, 9), lite=False))
    monkeypatch.setattr(connections, "milvus", lambda _: nullcontext(old))
    assert ("milvus.keywords", "problem") in _bad(_found(_settings("milvus.enable_match=true")))
