"""Which tests one worker runs in a row."""

import pytest

from tests.support.scheduling import group_of


@pytest.mark.parametrize(
    ("nodeid", "group"),
    [
        ("tests/unit/test_a.py::test_one", "tests/unit/test_a.py"),
        ("tests/unit/test_a.py::test_one[3-x]", "tests/unit/test_a.py"),
        ("tests/contract/test_milvus_api.py::test_one[lite]", "tests/contract/test_milvus_api.py/lite"),
        ("tests/contract/test_milvus_api.py::test_one[5-server]", "tests/contract/test_milvus_api.py/server"),
        ("tests/recovery/test_crash_points.py::test_one[0-milvus_uri]",) * 2,
    ],
)
def test_a_group_shares_the_fixtures_of_a_module(nodeid: str, group: str) -> None:
    assert group_of(nodeid) == group
