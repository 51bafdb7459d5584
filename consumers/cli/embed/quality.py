"""`milvus-stream bench embed --quality`: what each precision of a model costs in the results of a search."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumers.cli.common.output import stdout, table
from consumers.cli.embed.bench import say
from consumers.cli.embed.pairs import LabelledPairs
from consumers.config import Settings
from consumers.wiring import documents
from pipeline.embedding import Embedder, HashEmbedder
from pipeline.errors import UsageError
from pipeline.records import Chunk

DEPTH = 10
_BLOCK = 256
"""Queries compared with all texts at a time, which bounds the memory."""
_Vectors = NDArray[np.float32]
_Ranking = NDArray[np.int64]


def measure(settings: Settings, pairs: LabelledPairs) -> dict[str, Any]:
    """Embed the pairs in each precision and compare it with float32.

    Raises UsageError for `hash:`, a model that cannot be loaded, or too few texts.
    """
    if HashEmbedder.is_hash_model(settings.embedding.model):
        raise UsageError(f"embedding.model is {settings.embedding.model}: there is no model to measure, set one")
    if len(pairs.texts) <= DEPTH:
        raise UsageError(
            f"{pairs.source} has {len(pairs.texts)} different texts: more than {DEPTH} are needed, of which a search "
            f"finds the first {DEPTH}"
        )
    precisions: list[dict[str, Any]] = []
    with _loaded(settings, "float32") as model:
        facts = {"model": model.stamp.name, "engine": model.engine, "device": model.device}
        texts = documents.chunker(settings, model).chunk(pairs.texts)
        reference = _Embedded(model, pairs.queries, texts)
        precisions.append(_figures("float32", reference, reference, pairs))
    with _loaded(settings, "auto") as model:
        if model.dtype != "float32":
            embedded = _Embedded(model, pairs.queries, texts)
            precisions.append(_figures(model.dtype, embedded, reference, pairs))
    if (without_int8 := _without_int8(facts["engine"])) is None:
        with _loaded(settings, "int8") as model:
            precisions.append(_figures("int8", _Embedded(model, pairs.queries, texts), reference, pairs))
    return {
        **facts,
        "source": pairs.source,
        "queries": len(pairs.queries),
        "texts": len(pairs.texts),
        "chunks": sum(map(len, texts)),
        "precisions": precisions,
        "without_int8": without_int8,
    }


def _without_int8(engine: str) -> str | None:
    """Why int8 is not measured; None where it can be."""
    if engine != "openvino":
        return "int8 is not measured: only OpenVINO on a CPU runs it"
    if find_spec("nncf") is None:
        return "int8 is not measured: it needs the extra int8, pip install milvus-stream[int8]"
    return None


def _loaded(settings: Settings, dtype: str) -> AbstractContextManager[Embedder]:
    say(f"loading {settings.embedding.model}, {dtype}")
    embedding = settings.embedding.model_copy(update={"dtype": dtype})
    return documents.embedder(settings.model_copy(update={"embedding": embedding}))


class _Embedded:
    """Unit vectors of the queries and of all chunks, and the first texts of each query."""

    def __init__(self, model: Embedder, queries: Sequence[str], texts: Sequence[Sequence[Chunk]]) -> None:
        say(f"embedding {len(queries):,} queries and {len(texts):,} texts in {model.dtype}")
        self.queries = _unit(model.embed_queries(queries))
        self.chunks = _unit(model.embed([chunk for chunks in texts for chunk in chunks]))
        self.ranking = rank(self.queries, self.chunks, [len(chunks) for chunks in texts])


def _unit(vectors: _Vectors) -> _Vectors:
    """Vectors of length 1; zeros for those that are no numbers."""
    finite = np.where(np.isfinite(vectors).all(axis=1, keepdims=True), vectors, 0)
    lengths = np.linalg.norm(finite, axis=1, keepdims=True)
    return np.asarray(finite / np.where(lengths == 0, 1, lengths), dtype=np.float32)


def rank(queries: _Vectors, chunks: _Vectors, chunk_counts: Sequence[int]) -> _Ranking:
    """The nearest texts of each query, shape (queries, DEPTH): a text is as near as its nearest chunk.

    `chunks` are those of the first text, then those of the second, and so on.
    """
    starts = list(accumulate(chunk_counts[:-1], initial=0))

    def blocks() -> Iterator[_Ranking]:
        for start in range(0, len(queries), _BLOCK):
            scores = np.maximum.reduceat(queries[start : start + _BLOCK] @ chunks.T, starts, axis=1)
            yield np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]

    return np.concatenate(list(blocks()))


def _figures(dtype: str, embedded: _Embedded, reference: _Embedded, pairs: LabelledPairs) -> dict[str, Any]:
    shared = [len({*ours} & {*theirs}) for ours, theirs in _rows(embedded.ranking, reference.ranking)]
    return {
        "dtype": dtype,
        "neighbours_kept": round(float(np.mean(shared)) / DEPTH, 4),
        "cosine_least": round(
            min(
                _least_cosine(reference.queries, embedded.queries),
                _least_cosine(reference.chunks, embedded.chunks),
            ),
            5,
        ),
        **{f"recall_{depth}": round(recall(embedded.ranking, pairs.relevant, depth), 4) for depth in (1, DEPTH)},
        f"ndcg_{DEPTH}": round(ndcg(embedded.ranking, pairs.relevant), 4),
    }


def _rows(ours: _Ranking, theirs: _Ranking) -> Iterator[tuple[list[int], list[int]]]:
    return zip(ours.tolist(), theirs.tolist(), strict=True)


def _least_cosine(reference: _Vectors, vectors: _Vectors) -> float:
    """The smallest over all vectors, except those that float32 does not have either."""
    present = reference.any(axis=1)
    return float(np.sum(reference[present] * vectors[present], axis=1).min(initial=1.0))


def recall(ranking: _Ranking, relevant: Sequence[set[int]], depth: int) -> float:
    """Share of a query's texts that are among its first `depth`, the mean over the queries."""
    found = zip(ranking[:, :depth].tolist(), relevant, strict=True)
    return float(np.mean([len(wanted.intersection(row)) / len(wanted) for row, wanted in found]))


def ndcg(ranking: _Ranking, relevant: Sequence[set[int]]) -> float:
    """Normalised discounted cumulative gain of the ranking, the mean over the queries."""
    gains = 1 / np.log2(np.arange(2, ranking.shape[1] + 2))
    found = zip(ranking.tolist(), relevant, strict=True)
    return float(
        np.mean([gains[np.isin(row, list(wanted))].sum() / gains[: len(wanted)].sum() for row, wanted in found])
    )


def show(figures: Mapping[str, Any]) -> None:
    """The precisions side by side."""
    precisions = figures["precisions"]
    names = {
        "neighbours_kept": f"share of float32's first {DEPTH} kept",
        "cosine_least": "smallest cosine to float32",
        "recall_1": "recall@1",
        f"recall_{DEPTH}": f"recall@{DEPTH}",
        f"ndcg_{DEPTH}": f"nDCG@{DEPTH}",
    }
    rows = [(label, *(f"{precision[name]:.4f}" for precision in precisions)) for name, label in names.items()]
    title = (
        f"{figures['model']} ({figures['engine']}, {figures['device']}): {figures['queries']:,} queries, "
        f"{figures['texts']:,} texts in {figures['chunks']:,} chunks, from {figures['source']}"
    )
    stdout().print(table(("", *(precision["dtype"] for precision in precisions)), rows, title=title))
    if figures["without_int8"] is not None:
        stdout().print(figures["without_int8"])
