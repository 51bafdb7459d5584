"""Fixtures for the tests of access."""

from tests.support.rigs.search import library, milvus

__all__ = ["library", "milvus"]
