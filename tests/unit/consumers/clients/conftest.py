"""Fixtures for the tests of the clients."""

from tests.support.rigs.search import library, milvus

__all__ = ["library", "milvus"]
