"""The settings of the reranker: combinations that could not work, or would show the key, are refused."""

import pytest

from consumers.config import load_settings, masked_values
from pipeline.errors import UsageError

KEY = "sesame-0123456789"
URL = "query.rerank.url=https://rerank.example"


def sets(*names: str) -> list[str]:
    return [name if name.startswith("query.") else f"query.rerank.{name}" for name in names]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (sets("url=rerank.example"), "http"),
        (sets("url=ftp://rerank.example"), "http"),
        (sets("url=http://"), "http"),
        (sets("url=http://[x"), "url"),
        (sets("url=http://tei:99999"), "url"),
        (sets("url=http://tei:0"), "http"),
        (sets(f"url=https://u:{KEY}@rerank.example"), "no user"),
        (sets(f"url=https://rerank.example/?key={KEY}"), "no user"),
        (sets("url=http://rerank.example", f"key={KEY}"), "https"),
        (sets("url=http://localhost.example", f"key={KEY}"), "https"),
        (sets(URL, f"key={KEY} x"), "no key or token has"),
        (sets(URL, f"key={KEY}é"), "no key or token has"),
        (sets(f"key={KEY}"), "url is missing"),
        (sets("shape=cohere"), "url is missing"),
        (sets(URL, "shape=cohere"), "model is missing"),
        (sets(URL, "shape=jina"), "shape"),
        (sets("default=true"), "model or url"),
        (sets("models=x"), "model"),
    ],
)
def test_what_cannot_work_is_refused_without_the_key(given: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        load_settings(None, {}, given)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        [],
        sets("model=/models/reranker", "default=true"),
        sets(URL, f"key={KEY}"),
        sets("url=http://tei:8080"),
        sets("url=http://127.0.0.1:8080", f"key={KEY}"),
        sets(URL, "shape=cohere", "model=rerank-v3.5", f"key={KEY}"),
    ],
)
def test_what_works_is_taken_and_the_key_is_never_shown(given: list[str]) -> None:
    settings = load_settings(None, {}, given)
    assert KEY not in repr(settings)
    assert KEY not in str(masked_values(settings))


def test_a_key_comes_from_the_environment_as_written() -> None:
    settings = load_settings(None, {"KEY": "0123"}, sets(URL, "key=${KEY}"))
    assert settings.query.rerank.key is not None
    assert settings.query.rerank.key.get_secret_value() == "0123"
