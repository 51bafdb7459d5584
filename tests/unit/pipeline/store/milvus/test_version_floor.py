"""Which servers are known to lose rows silently."""

import pytest

from pipeline.store.milvus.api import ServerInfo
from pipeline.store.milvus.conversion import server_info
from pipeline.store.milvus.version_floor import FLOORS, LOSSES, version_warning


@pytest.mark.parametrize(
    ("version", "below"),
    [
        ("v2.3.5-lite", "2.5.27"),
        ("v2.3.21", "2.5.27"),
        ("2.4.23", "2.5.27"),
        ("2.5.26", "2.5.27"),
        ("2.5.27", None),
        ("2.6.0", "2.6.16"),
        ("v2.6.15", "2.6.16"),
        ("2.6.16", None),
        ("2.6.24", None),
        ("2.7.0", None),
        ("3.0.0", "3.0.1"),
        ("v3.0.1-gpu", None),
        ("3.1.0", None),
        ("milvus_lite-3.2.2", None),
    ],
)
def test_the_floor_of_each_line(version: str, below: str | None) -> None:
    warning = version_warning(server_info(version))
    assert (warning is None) == (below is None)
    if warning is not None:
        assert f"is below {below}, the first version without a known silent loss: " in warning.seen
        assert "(#" in warning.seen
        assert "2.5.27, 2.6.16, 3.0.1 or newer" in warning.do


def test_what_was_measured_on_the_tested_server_is_named_first() -> None:
    warning = version_warning(server_info("v2.3.5-lite"))
    assert warning is not None
    assert "deletes that arrive while a segment is loaded are missed (#35261), compaction loses deletes" in warning.seen


def test_a_server_that_does_not_say_its_version_is_named_so() -> None:
    warning = version_warning(ServerInfo("built today", (0, 0, 0), lite=False))
    assert warning is not None
    assert "'built today' does not say which version it is" in warning.seen


def test_no_floor_has_a_known_loss_and_every_version_below_has_one() -> None:
    assert not [loss for loss in LOSSES for floor in FLOORS if loss.affects(floor)]
    for major, minor, patch in FLOORS:
        assert any(loss.affects((major, minor, patch - 1)) for loss in LOSSES)
