"""What several files of integration tests use."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from pipeline.store import MilvusServerApi, connect


@pytest.fixture(scope="module", params=["milvus_uri", "milvus_lite_uri"])
def api(request: pytest.FixtureRequest) -> Iterator[MilvusServerApi]:
    """A connection to a real Milvus server, then one to Milvus Lite."""
    with closing(connect(request.getfixturevalue(request.param))) as connected:
        yield connected
