"""Which reranker the configuration makes."""

import pytest

from consumers.config import load_settings
from consumers.wiring.reranking import reranking
from pipeline.errors import UsageError
from pipeline.query import RerankFailed


def test_without_a_setting_there_is_none() -> None:
    with reranking(load_settings(None, {}, [])) as made:
        assert made is None


def test_what_is_not_wanted_is_not_loaded() -> None:
    with reranking(load_settings(None, {}, ["query.rerank.model=/no/such/model"]), wanted=False) as made:
        assert made is None


def test_a_model_that_is_not_here_stops_the_start() -> None:
    settings = load_settings(None, {}, ["query.rerank.model=/no/such/model"])
    with pytest.raises(UsageError, match=r"query\.rerank\.model"), reranking(settings):
        pass


def test_an_address_makes_an_endpoint_which_is_asked_at_the_first_search() -> None:
    sets = ["query.rerank.url=http://127.0.0.1:1", "query.rerank.default=true"]
    with reranking(load_settings(None, {}, sets)) as made:
        assert made is not None
        assert made.default
        with pytest.raises(RerankFailed):
            made.scores("q", ["a"], made.clock() + 30)
