"""Fixtures for the tests of the query worker."""

from tests.support.rigs.search import clock, library, make_searcher, milvus, searcher

__all__ = ["clock", "library", "make_searcher", "milvus", "searcher"]
