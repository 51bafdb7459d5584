"""Stored vectors of unchanged texts."""

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.errors import RequestTooLarge
from tests.support.documents import embed_all, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.stores import Store, write


def limited(query: Callable[..., list[dict[str, Any]]], most: int) -> Callable[..., list[dict[str, Any]]]:
    """The query of a server whose answers have a limit, here of rows with vectors."""

    def answer(collection: str, expression: str, fields: Any, **options: Any) -> list[dict[str, Any]]:
        rows = query(collection, expression, fields, **options)
        if "vector" in fields and len(rows) > most:
            raise RequestTooLarge("query results exceed the maxOutputSize Limit")
        return rows

    return answer


@pytest.mark.parametrize(("most", "reused"), [(100, 7), (2, 7), (1, 7), (0, 0)])
def test_an_answer_over_the_servers_limit_is_read_in_parts(
    fake: FakeMilvus, store: Store, monkeypatch: pytest.MonkeyPatch, most: int, reused: int
) -> None:
    writer = store.upsert_writer()
    write(writer, [put("k", "a b c d e f g", 1)])
    monkeypatch.setattr(fake, "query", limited(fake.query, most))
    plan = writer.plan([put("k", "a b c d e f g", 2, metadata={"new": 1})])
    [vectors] = writer.reusable(plan, [[chunk for item in embed_all(plan.to_embed) for chunk in item.chunks]])
    assert len(vectors) == reused
