"""The engine on a GPU, with models of known shapes and random weights: no weights are needed to measure a speed."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.bench.children import contender
from tests.bench.contender import Go, arguments, contend
from tests.bench.embedding import texts
from tests.bench.embedding.place import Place
from tests.bench.embedding.rows import Row
from tests.bench.report import middle, say

SHAPES: Mapping[str, Mapping[str, int]] = {
    "bge-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "MiniLM": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
}
TOKENS = 128
_VOCABULARY = 30_522
_DISTINCT = 8192
"""Texts that differ; the same ones are embedded again and again."""
_AT_ONCE = 4096
_TIMES = {"bge-base": 8, "MiniLM": 24}
_PEAK_S = 2.0
_WANTED_SHARE = 0.40


def build(folder: Path, shape: Mapping[str, Any], documents: Sequence[str]) -> Path:
    """Save a BERT of this shape with random weights, mean pooling, and a vocabulary of these documents."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import BertWordPieceTokenizer, Tokenizer
    from tokenizers.processors import BertProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    made = BertWordPieceTokenizer(lowercase=True)
    made.train_from_iterator(documents, vocab_size=_VOCABULARY, show_progress=False)
    made.save(str(folder / "trained.json"))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast: Any = PreTrainedTokenizerFast  # its constructor has no types
    whole = Tokenizer.from_file(str(folder / "trained.json"))
    end, begin = ((name, whole.token_to_id(name) or 0) for name in ("[SEP]", "[CLS]"))
    whole.post_processor = BertProcessing(end, begin)
    tokenizer = fast(tokenizer_object=whole, model_max_length=512, **special)
    torch.manual_seed(1)
    BertModel(BertConfig(vocab_size=_VOCABULARY, **shape)).save_pretrained(folder / "parts")
    tokenizer.save_pretrained(folder / "parts")
    modules = [
        Transformer(str(folder / "parts"), max_seq_length=512),
        Pooling(shape["hidden_size"], "mean"),
        Normalize(),
    ]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def main() -> None:
    """In a process of its own: build, load, embed."""
    import numpy as np

    from pipeline.chunking import Chunker, ChunkingPolicy
    from pipeline.embedding import EmbeddingSettings, load_embedder
    from pipeline.embedding.kernels.roofline import forward_cost, matmul_peak
    from pipeline.records import Chunk
    from pipeline.telemetry import configure_logging

    given = arguments()
    configure_logging("warning", "json")
    documents = texts.documents()
    folder = build(Path(given["folder"]), SHAPES[given["shape"]], documents)
    engine = load_embedder(EmbeddingSettings(str(folder), device=given["device"]))
    chunker = Chunker(engine.tokenizer, ChunkingPolicy(max_tokens=TOKENS - 2, overlap=0))
    found = texts.of_length(engine.tokenizer, given["distinct"], TOKENS - 2)
    chunks = [chunk for each in chunker.chunk(found) for chunk in each][: len(found)]
    lengths = np.array([len(chunk.token_ids) for chunk in chunks], dtype=np.int64) + 2
    flops = forward_cost(folder).flops(lengths)
    engine.embed(chunks[:_AT_ONCE])

    def windows() -> Iterator[slice]:
        for _ in range(given["times"]):
            yield from (slice(start, start + _AT_ONCE) for start in range(0, len(chunks), _AT_ONCE))

    def tokenized(window: slice) -> list[Chunk]:
        return [chunk for each in chunker.chunk(found[window]) for chunk in each]

    def prepare(_: dict[str, Any]) -> Go:
        def go() -> dict[str, Any]:
            run = engine.execution
            how = {"workers": run.workers, "threads": max(1, run.threads)}
            peak = matmul_peak(engine.dtype, engine.device, seconds=_PEAK_S, **how)
            began = time.perf_counter()
            for window in windows():
                engine.embed(chunks[window])
            alone_s = time.perf_counter() - began
            began = time.perf_counter()
            with ThreadPoolExecutor(1) as ahead:  # as in ingest: one batch is tokenized while another is embedded
                for made in ahead.map(tokenized, windows()):
                    engine.embed(made)
            with_tokenizer_s = time.perf_counter() - began
            total = given["times"] * len(chunks)
            return {
                "documents_per_s": total / alone_s,
                "documents_per_s_with_tokenizer": total / with_tokenizer_s,
                "tokens_per_document": float(lengths.mean()),
                "share_of_peak": given["times"] * flops / alone_s / peak,
                "peak_flops_per_s": peak,
                "dtype": engine.dtype,
                "layout": run.layout,
                "token_budget": run.token_budget,
            }

        return go

    contend(prepare)


def measure(place: Place, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Each shape once a round; nothing where there is no GPU."""
    if place.machine["gpu"] is None:
        return {}
    found: dict[str, list[dict[str, Any]]] = {}
    for shape in SHAPES:
        given = {
            "shape": shape,
            "folder": str(place.folder / shape),
            "device": "cuda",
            "distinct": _DISTINCT,
            "times": _TIMES[shape],
        }
        with contender("embedding.gpu", given, place.folder) as process:
            found[shape] = []
            for number in range(rounds):
                process.prepare({})
                found[shape].append(process.go())
                say(f"GPU, {shape}, round {number + 1}/{rounds}: {json.dumps(found[shape][-1])}")
    return found


def rows(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Row]:
    """The share of the peak for a model that a GPU is busy with, and rates for one that its tokenizer holds back."""
    if not found:
        absent = "there is no CUDA device"
        return [
            Row("gpu", f"share of the bf16 peak, bge-base shape, {TOKENS} tokens", None, _WANTED_SHARE, note=absent),
            Row("gpu", "MiniLM shape, documents/s, tokenizer excluded and included", None, note=absent),
        ]
    base, mini = found["bge-base"], found["MiniLM"]
    share = middle([one["share_of_peak"] for one in base])
    how = f"{base[0]['dtype']}, {base[0]['layout']}, {base[0]['token_budget']} tokens a pass"
    made = [
        Row(
            "gpu",
            f"share of the {base[0]['dtype']} peak, bge-base shape, {TOKENS} tokens",
            share,
            _WANTED_SHARE,
            note=how,
        )
    ]
    for shape, rounds in (("bge-base", base), ("MiniLM", mini)):
        for name, field in (("excluded", "documents_per_s"), ("included", "documents_per_s_with_tokenizer")):
            rate = middle([one[field] for one in rounds])
            made.append(Row("gpu", f"{shape} shape, documents/s, tokenizer {name}", rate))
    return made


if __name__ == "__main__":
    main()
