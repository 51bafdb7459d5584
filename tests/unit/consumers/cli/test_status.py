from typing import Any

import pytest

from consumers.cli.status import collect, exit_code, show
from consumers.config import Settings
from pipeline.errors import Unavailable
from tests.support.documents import put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.stores import make_store, write


def test_milvus_is_reported_while_kafka_is_away(
    milvus: FakeMilvus, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(milvus, "news")
    write(store.upsert_writer(), [put("a", "one two", 1), put("b", "three", 2, day=1)])
    report = collect(settings)
    assert report["kafka"]["error"]["exit_code"] == 3
    assert report["kafka"]["lag"] is None
    assert report["dead_letters"]["count"] is None
    assert (report["milvus"]["rows"], report["milvus"]["documents"], report["milvus"]["exists"]) == (3, 2, True)
    assert exit_code(report) == 3
    show(report)
    printed = capsys.readouterr().out
    assert "kafka.invalid:9092" in printed
    assert "Unable to bootstrap" in printed
    assert "3 rows of 2 documents in 2 Milvus partitions" in printed


def test_milvus_away_is_reported(milvus: FakeMilvus, settings: Settings) -> None:
    milvus.fail_next("describe", Unavailable("milvus is away"))
    report = collect(settings)
    assert report["milvus"]["error"] == {"message": "milvus is away", "exit_code": 3}
    assert report["milvus"]["exists"] is None


def test_hash_vectors_are_a_loud_warning(
    milvus: FakeMilvus, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    report = collect(settings)
    assert report["model"] == {"configured": "hash:8", "stored": None, "hash": True}
    show(report)
    assert "! NO MODEL: vectors of hash:8" in capsys.readouterr().out.splitlines()[0]


def _report(*codes: int | None) -> dict[str, Any]:
    parts = ("kafka", "milvus", "dead_letters")
    errors = [None if code is None else {"message": "", "exit_code": code} for code in codes]
    return {part: {"error": error} for part, error in zip(parts, errors, strict=True)}


@pytest.mark.parametrize(
    ("codes", "code"), [((None, None, None), 0), ((2, None, None), 2), ((2, 3, None), 3), ((None, 4, 2), 4)]
)
def test_exit_codes(codes: tuple[int | None, ...], code: int) -> None:
    assert exit_code(_report(*codes)) == code
