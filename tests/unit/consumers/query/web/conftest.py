"""Fixtures for the tests of the page."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.page import PageRig
from tests.support.rigs.search import library, milvus

__all__ = ["library", "make_page", "milvus", "rig"]


@pytest.fixture
def make_page(milvus: FakeMilvus) -> Iterator[Callable[..., PageRig]]:
    made: list[PageRig] = []

    def make(**options: Any) -> PageRig:
        made.append(PageRig(milvus, **options))
        return made[-1]

    yield make
    for page in made:
        page.close()


@pytest.fixture
def rig(make_page: Callable[..., PageRig]) -> PageRig:
    return make_page()
