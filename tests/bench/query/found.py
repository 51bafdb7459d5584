"""What the modes find: known items on a Milvus that fills a keyword index."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import Embedder
from pipeline.query import Searcher, parse_request
from pipeline.records import Document, EmbeddedPut, Position, Put
from pipeline.store import IndexSettings, connect
from pipeline.store.collection.opening import open_collection, open_ledger
from pipeline.store.partition_names import Partitioning
from pipeline.store.partitions import MilvusPartitions
from pipeline.store.writing.append_writer import AppendWriter
from tests.bench.query.labelled import KINDS, LabelledTexts
from tests.bench.report import Target, say
from tests.support.names import unique

DEPTH = 10
MODES: Mapping[str, Mapping[str, Any]] = {
    "dense": {"mode": "dense"},
    "keyword": {"mode": "keyword"},
    "equal weights": {"mode": "hybrid", "fusion": {"dense": 1, "keyword": 1}},
    "hybrid": {"mode": "hybrid"},
}
_WANTED_GAIN = 0.2
_BATCH = 200
_TIME_MS = 1_795_348_800_000


def measure(uri: str, model: Embedder, labelled: LabelledTexts) -> dict[str, Any]:
    """Share of the queries of each kind whose text is the first, and among the first `DEPTH`, by mode."""
    with filled(uri, model, labelled.texts) as collection, closing(connect(uri)) as api:
        searcher = Searcher(api, collection, one_version=lambda _: False)
        return {mode: _of_mode(searcher, model, labelled, body) for mode, body in MODES.items()}


@contextmanager
def filled(uri: str, model: Embedder, texts: Sequence[str]) -> Iterator[str]:
    """The name of a collection that holds these texts; dropped with the block."""
    collection = unique("found")
    with closing(connect(uri)) as api:
        index = IndexSettings("FLAT")
        open_collection(api, collection, asdict(model.stamp), model.stamp.dimension, index, create=True)
        open_ledger(api, collection)
        try:
            _fill(api, collection, model, texts)
            api.flush(collection)
            yield collection
        finally:
            for name in (collection, f"{collection}__ledger"):
                api.drop_collection(name)


def _fill(api: Any, collection: str, model: Embedder, texts: Sequence[str]) -> None:
    chunker = Chunker(model.tokenizer, ChunkingPolicy())
    by_day = Partitioning("day")
    writer = AppendWriter(api, collection, MilvusPartitions(api, collection), by_day)
    for start in range(0, len(texts), _BATCH):
        part = texts[start : start + _BATCH]
        puts = [
            Put(Position("bench", 0, number), _TIME_MS, Document(str(number), text, _TIME_MS, {}, None), None, "")
            for number, text in enumerate(part, start)
        ]
        chunks = chunker.chunk(part)
        vectors = model.embed([chunk for each in chunks for chunk in each])
        ends = np.cumsum([len(each) for each in chunks])
        embedded = [
            EmbeddedPut(put, each, vectors[end - len(each) : end])
            for put, each, end in zip(puts, chunks, ends, strict=True)
        ]
        writer.apply(writer.plan(puts), embedded)
        say(f"stored {start + len(part)} of {len(texts)} texts")


def _of_mode(
    searcher: Searcher, model: Embedder, labelled: LabelledTexts, body: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    ranks: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for query in labelled.queries:
        request = parse_request({"query": query.text, "limit": DEPTH, **body})
        vectors = None if request.mode == "keyword" else model.embed_queries([query.text])
        (found,) = searcher.search(request, vectors, 60.0, now_ms=0).results
        ids = [result.doc_id for result in found]
        ranks[query.kind].append(ids.index(str(query.answer)) if str(query.answer) in ids else DEPTH)
    return {
        kind: {"first": sum(rank == 0 for rank in of_kind) / len(of_kind), "recall": recall(of_kind)}
        for kind, of_kind in ranks.items()
        if of_kind
    }


def recall(ranks: Sequence[int]) -> float:
    """Share of the queries whose text is among the first `DEPTH`."""
    return sum(rank < DEPTH for rank in ranks) / len(ranks)


def targets(corpus: str, found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Target]:
    """Over all queries hybrid finds at least what either order does, and of codes and names far more than vectors."""

    def of(mode: str, kinds: Sequence[str]) -> float:
        there = [found[mode][kind]["recall"] for kind in kinds if kind in found[mode]]
        return sum(there) / max(len(there), 1)

    words = ("code", "name")
    best = max(of("dense", KINDS), of("keyword", KINDS))
    return [
        Target(
            f"{corpus}: recall@{DEPTH} of hybrid, above the better of dense and keyword", of("hybrid", KINDS) - best, 0
        ),
        Target(
            f"{corpus}: recall@{DEPTH} of codes and names, hybrid above dense",
            of("hybrid", words) - of("dense", words),
            _WANTED_GAIN,
        ),
    ]
