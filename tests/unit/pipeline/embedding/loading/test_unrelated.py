"""How similar unrelated texts are to a model: measured once, remembered, and enough to tell nonsense from a query."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from consumers.local.sample_documents import stdlib_documents
from pipeline.embedding import (
    Embedder,
    EmbeddingSettings,
    HashEmbedder,
    embed_documents,
    load_embedder,
    unrelated_similarity,
)
from pipeline.embedding.loading.unrelated import summarized
from pipeline.query import RelevanceScale
from tests.unit.pipeline.embedding.loaded_models import prepared_settings
from tests.unit.pipeline.embedding.tiny_models import minilm

CORPUS = (
    "The refund failed twice because the card of the customer had expired.",
    "To reset a password, open the account page and follow the link in the mail.",
    "The quick brown fox jumps over the lazy dog.",
    "Parcels to Norway take four days and need a customs form.",
    "The kitchen of the office is cleaned every Friday afternoon.",
    "A partition of a topic has exactly one leader, which takes all writes.",
    "Vectors of similar texts have a high cosine.",
    "Boil the pasta for nine minutes and keep some of the water.",
)
NONSENSE = ("qzx vbnm plorf", "asdf jkl qwerty", "blorp", "xxxxxxxx zzzz", "@@@ ### $$$", "flumox grindle wamp")
QUERIES = {
    "why was my refund not paid": 0,
    "I forgot my password": 1,
    "how long does shipping to Norway take": 3,
    "who receives the writes of a Kafka partition": 5,
    "how to cook spaghetti": 7,
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSettings:
    return prepared_settings(minilm())


@pytest.fixture(scope="module")
def model(settings: EmbeddingSettings) -> Iterator[Embedder]:
    model = load_embedder(settings)
    yield model
    model.close()


def relevances(model: Embedder, scale: RelevanceScale, query: str) -> list[float]:
    texts = embed_documents(model, CORPUS)
    return [scale.of(float(cosine)) for cosine in texts @ model.embed_queries([query])[0]]


@pytest.fixture(scope="module")
def scale(model: Embedder, settings: EmbeddingSettings) -> RelevanceScale:
    known = unrelated_similarity(model, settings)
    assert known is not None
    return RelevanceScale(known)


@pytest.mark.parametrize("query", NONSENSE)
def test_nonsense_is_relevant_to_nothing(model: Embedder, scale: RelevanceScale, query: str) -> None:
    assert max(relevances(model, scale, query)) < 0.5


@pytest.mark.parametrize("query", QUERIES)
def test_the_text_that_answers_a_query_is_relevant(model: Embedder, scale: RelevanceScale, query: str) -> None:
    found = relevances(model, scale, query)
    assert int(np.argmax(found)) == QUERIES[query]
    assert max(found) >= 0.5


@pytest.fixture(scope="module")
def modules(model: Embedder) -> tuple[list[str], NDArray[np.float32]]:
    """A real corpus: the modules of the standard library by their documentation; names and vectors."""
    found = [document for document in stdlib_documents() if document.kind == "module"][:250]
    return [document.id for document in found], embed_documents(model, [document.text for document in found])


@pytest.mark.parametrize("query", NONSENSE)
def test_nonsense_is_relevant_to_nothing_of_a_real_corpus(
    model: Embedder, scale: RelevanceScale, modules: tuple[list[str], NDArray[np.float32]], query: str
) -> None:
    cosines = modules[1] @ model.embed_queries([query])[0]
    assert scale.of(float(cosines.max())) < 0.5


@pytest.mark.parametrize(
    "query", ["temporary files and folders", "read and write CSV files", "parse command line options"]
)
def test_a_query_has_a_relevant_result_in_a_real_corpus(
    model: Embedder, scale: RelevanceScale, modules: tuple[list[str], NDArray[np.float32]], query: str
) -> None:
    cosines = modules[1] @ model.embed_queries([query])[0]
    assert scale.of(float(cosines.max())) >= 0.5, modules[0][int(cosines.argmax())]


class Quick(HashEmbedder):
    """A model that takes no time, and counts how often it is run on queries."""

    runs = 0
    engine = "quick"

    def __init__(self) -> None:
        super().__init__("hash:16")

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.runs += 1
        return super().embed_queries(texts)


def test_it_is_measured_once(tmp_path: Path) -> None:
    settings, model = EmbeddingSettings("none", cache_folder=tmp_path), Quick()
    first = unrelated_similarity(model, settings)
    assert first is not None
    runs = model.runs
    assert runs > 0
    assert unrelated_similarity(model, settings) == first
    assert model.runs == runs


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"usual": 0.5, "rare": 0.1}', '{"usual": "0", "rare": 1}', '{"usual": NaN, "rare": 0.5}'],
)
def test_a_damaged_measurement_is_made_again(tmp_path: Path, content: str) -> None:
    settings = EmbeddingSettings("none", cache_folder=tmp_path)
    first = unrelated_similarity(Quick(), settings)
    (path,) = tmp_path.rglob("*.json")
    written = path.read_text()
    path.write_text(content)
    assert unrelated_similarity(Quick(), settings) == first
    assert path.read_text() == written


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "similarity").write_text("a file")
    assert unrelated_similarity(Quick(), EmbeddingSettings("none", cache_folder=tmp_path)) is not None


def test_without_a_model_it_is_not_known(tmp_path: Path) -> None:
    settings = EmbeddingSettings("hash:8", cache_folder=tmp_path)
    assert unrelated_similarity(HashEmbedder("hash:8"), settings) is None


@pytest.mark.parametrize("cosines", [[], [np.nan], [0.5, 0.5, 0.5]])
def test_cosines_that_say_nothing(cosines: list[float]) -> None:
    assert summarized(np.array(cosines, np.float32)) is None


def test_what_is_no_number_does_not_count() -> None:
    known = summarized(np.array([np.nan, np.inf, *np.linspace(0, 1, 201)], np.float32))
    assert known is not None
    assert (known.usual, known.rare) == pytest.approx((0.5, 0.995))
