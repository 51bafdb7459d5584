"""What precision costs in search: neighbours kept and known items found, against `encode` in float32."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.bench.children import contender
from tests.bench.contender import Go, arguments, contend
from tests.bench.embedding import texts
from tests.bench.embedding.place import Place
from tests.bench.embedding.rows import Row
from tests.bench.report import say

NEIGHBOURS = 10
_WANTED_KEPT, _WANTED_DRIFT = 0.99, 0.005
_Vectors = NDArray[np.float32]


def main() -> None:
    """In a process of its own: embed the same texts by `encode` and by the engine, compare the rankings."""
    from sentence_transformers import SentenceTransformer

    from pipeline.chunking import Chunker, ChunkingPolicy
    from pipeline.embedding import EmbeddingSettings, load_embedder
    from pipeline.telemetry import configure_logging

    given = arguments()
    configure_logging("warning", "json")

    def prepare(job: dict[str, Any]) -> Go:
        return lambda: compare(job["count"], job["devices"])

    def compare(count: int, devices: Mapping[str, str]) -> dict[str, Any]:
        reference = SentenceTransformer(given["model_folder"], device=devices["float32"])
        real: list[str] = []
        items: list[texts.KnownItem] = []
        truth: tuple[_Vectors, _Vectors, _Vectors] | None = None
        found: dict[str, Any] = {}
        for dtype, device in devices.items():
            engine = load_embedder(EmbeddingSettings(given["model"], device=device, dtype=dtype))
            chunker = Chunker(engine.tokenizer, ChunkingPolicy())
            if truth is None:
                real = [text for text, chunks in _chunked(chunker, texts.documents()) if len(chunks) == 1][:count]
                pairs = texts.known_items(2 * count)
                fitting = _chunked(chunker, [rest for _, rest in pairs])
                items = [pair for pair, (_, chunks) in zip(pairs, fitting, strict=True) if len(chunks) == 1][:count]
                truth = (
                    _unit(reference.encode_document(real, show_progress_bar=False)),
                    _unit(reference.encode_query([asked for asked, _ in items], show_progress_bar=False)),
                    _unit(reference.encode_document([rest for _, rest in items], show_progress_bar=False)),
                )
            vectors = _unit(engine.embed([chunks[0] for _, chunks in _chunked(chunker, real)]))
            asked = _unit(engine.embed_queries([first for first, _ in items]))
            rest = _unit(engine.embed([chunks[0] for _, chunks in _chunked(chunker, [text for _, text in items])]))
            found[dtype] = {
                "kept": kept(truth[0], vectors, NEIGHBOURS),
                "cosine_least": float(np.min(np.sum(truth[0] * vectors, axis=1))),
                **{f"recall_{depth}": recall(asked, rest, depth) for depth in (1, NEIGHBOURS)},
            }
            engine.close()
        assert truth is not None
        base = {f"recall_{depth}": recall(truth[1], truth[2], depth) for depth in (1, NEIGHBOURS)}
        return {"texts": len(real), "items": len(items), "encode": base, "engine": found}

    contend(prepare)


def _chunked(chunker: Any, found: Sequence[str]) -> list[tuple[str, Any]]:
    return list(zip(found, chunker.chunk(found), strict=True))


def _unit(vectors: Any) -> _Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def kept(truth: _Vectors, found: _Vectors, neighbours: int) -> float:
    """Share of each vector's nearest others (unit vectors, by cosine) that stay among its nearest."""
    before, after = (_nearest_others(vectors, neighbours) for vectors in (truth, found))
    shared = [len(set(left) & set(right)) for left, right in zip(before.tolist(), after.tolist(), strict=True)]
    return float(np.mean(shared)) / neighbours


def recall(asked: _Vectors, texts_of: _Vectors, depth: int) -> float:
    """Share of queries whose own text, of the same number, is among the first `depth`."""
    scores = asked @ texts_of.T
    own = np.diagonal(scores)[:, None]
    return float(np.mean((scores > own).sum(axis=1) < depth))


def _nearest_others(vectors: _Vectors, neighbours: int) -> NDArray[np.int64]:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :neighbours]


def measure(place: Place, count: int) -> dict[str, Any]:
    """With the engine in each precision that `devices` names."""
    where = devices(place.machine, int8=bool(place.prepared and find_spec("nncf")))
    with contender("embedding.quality", place.arguments(), place.folder) as process:
        process.prepare({"count": count, "devices": where})
        figures = process.go()
    for dtype, found in figures["engine"].items():
        say(
            f"quality, {dtype} on {where[dtype]}: {found['kept']:.2%} of the neighbours kept, "
            f"cosine at least {found['cosine_least']:.5f}"
        )
    return figures


def devices(machine: Mapping[str, Any], *, int8: bool) -> dict[str, str]:
    """Each precision that the engine runs on this machine, and where: on the GPU if there is one, int8 on the CPU."""
    place, cpu_has_bf16 = ("cpu" if machine["gpu"] is None else "cuda"), machine["native_bf16"]
    half = ["bfloat16", "float16"] if place == "cuda" else ["bfloat16"] * cpu_has_bf16
    return dict.fromkeys(["float32", *half], place) | ({"int8": "cpu"} if int8 else {})


def rows(figures: Mapping[str, Any]) -> list[Row]:
    """Neighbours kept and the change of recall for each precision; int8 has no targets, it is a choice of the user."""
    engines = figures["engine"]
    recalls = {"encode": figures["encode"], **engines}
    made = []
    for dtype, found in engines.items():
        kept_wanted, drift_wanted = (None, None) if dtype == "int8" else (_WANTED_KEPT, _WANTED_DRIFT)
        note = f"{figures['texts']} texts; cosine at least {found['cosine_least']:.5f}"
        what = f"top {NEIGHBOURS} neighbours kept, {dtype}"
        made.append(Row("quality", what, found["kept"], kept_wanted, note=note))
        drift = max(abs(found[name] - base) for name, base in figures["encode"].items())
        note = f"{figures['items']} known items: {_side_by_side(recalls, figures['encode'])}"
        made.append(Row("quality", f"recall, change to encode, {dtype}", drift, drift_wanted, at_most=True, note=note))
    if "int8" not in engines:
        note = "the extra int8 is not installed, or OpenVINO does not run this model"
        made.append(Row("quality", f"top {NEIGHBOURS} neighbours kept, int8", None, note=note))
    return made


def _side_by_side(recalls: Mapping[str, Mapping[str, float]], names: Iterable[str]) -> str:
    """Each recall of every precision."""
    parts = (
        f"{name.replace('_', '@')} " + ", ".join(f"{dtype} {found[name]:.3f}" for dtype, found in recalls.items())
        for name in names
    )
    return "; ".join(parts)


if __name__ == "__main__":
    main()
