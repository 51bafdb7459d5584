"""What follows from the version and the kind of a server."""

import pytest

from pipeline.store.milvus.api import ServerInfo
from pipeline.store.milvus.capabilities import Version

UNKNOWN = ServerInfo("built today", (0, 0, 0), lite=False)
LITE = ServerInfo("milvus_lite-3.2.2", (3, 2, 2), lite=True)


def server(number: Version) -> ServerInfo:
    return ServerInfo("v" + ".".join(map(str, number)), number, lite=False)


@pytest.mark.parametrize(
    ("capability", "since"),
    [("bm25", (2, 5, 0)), ("text_match", (2, 5, 0)), ("cagra_index", (2, 4, 0)), ("limits_flushes", (2, 4, 0))],
)
def test_a_capability_begins_with_a_version(capability: str, since: Version) -> None:
    before = (since[0], since[1] - 1, 9)
    assert getattr(server(since).capabilities, capability)
    assert not getattr(server(before).capabilities, capability)


def test_a_server_of_unknown_version_is_treated_with_care() -> None:
    known = UNKNOWN.capabilities
    assert (known.bm25, known.cagra_index, known.limits_flushes) == (False, False, True)
    assert known.needs_load


def test_the_version_of_lite_decides_nothing() -> None:
    old = ServerInfo("milvus_lite-2.0.0", (2, 0, 0), lite=True)
    assert old.capabilities == LITE.capabilities
    assert LITE.capabilities.bm25
    assert not LITE.capabilities.needs_load
    assert not LITE.capabilities.limits_flushes
