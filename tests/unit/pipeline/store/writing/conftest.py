"""A collection with its ledger in memory."""

import pytest

from tests.support.fakes.milvus import FakeMilvus
from tests.support.stores import Store, make_store


@pytest.fixture
def fake() -> FakeMilvus:
    """The Milvus of `store`."""
    return FakeMilvus()


@pytest.fixture
def store(fake: FakeMilvus) -> Store:
    """Empty."""
    return make_store(fake, "docs")
