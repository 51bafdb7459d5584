"""Fixtures for the tests of documents: a fake Milvus, and a collection in each mode."""

import pytest

from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.documents import Documents
from tests.support.stores import make_store


@pytest.fixture
def api() -> FakeMilvus:
    return FakeMilvus()


@pytest.fixture
def documents(api: FakeMilvus) -> Documents:
    return Documents(make_store(api, "documents"))


@pytest.fixture
def records(api: FakeMilvus) -> Documents:
    """In append mode."""
    return Documents(make_store(api, "records"), append=True)
