"""Fixtures for the tests of the query worker."""

from collections.abc import Iterator

import pytest

from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.query_app import QueryApp, query_app
from tests.support.rigs.search import clock, library, make_searcher, milvus, searcher

__all__ = ["clock", "library", "make_searcher", "milvus", "searcher"]


@pytest.fixture
def app(milvus: FakeMilvus) -> Iterator[QueryApp]:
    with query_app(milvus) as made:
        yield made
