"""OpenVINO as a good engineer uses it in 30 lines: sorted texts, batches of a fixed size, several at a time."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from tokenizers import Tokenizer


class PlainOpenVino:
    """The file that the engine itself runs, in bfloat16 where the processor has it."""

    def __init__(self, folder: Path, threads: int) -> None:
        """`folder` is that of the prepared model."""
        self._manifest = json.loads((folder / "manifest.json").read_text())
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self._manifest["max_tokens"])
        core = openvino.Core()
        bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        options = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": str(threads),
        }
        self._queue = openvino.AsyncInferQueue(core.compile_model(str(folder / "model.xml"), "CPU", options))

    @property
    def dimension(self) -> int:
        """Of the vectors."""
        return int(self._manifest["dimension"])

    def encode(self, texts: Sequence[str], batch: int) -> NDArray[np.float32]:
        """Vectors of the texts, cut off at what the model reads, in batches of so many texts; shape (n, dimension)."""
        encodings = self._tokenizer.encode_batch([self._manifest["document_prompt"] + text for text in texts])
        order = sorted(range(len(texts)), key=lambda index: -len(encodings[index]))
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)

        def keep(request: Any, rows: list[int]) -> None:
            vectors[rows] = request.get_output_tensor(0).data

        self._queue.set_callback(keep)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            longest = len(encodings[rows[0]])
            ids = np.full((len(rows), longest), self._manifest["padding_id"], dtype=np.int64)
            mask = np.zeros_like(ids)
            for row, index in enumerate(rows):
                found = encodings[index].ids
                ids[row, : len(found)], mask[row, : len(found)] = found, 1
            # A prompt is pooled with the text, which costs the same.
            pooling = {"pooling_mask": mask} if self._manifest["masks_prompt"] else {}
            self._queue.start_async({"input_ids": ids, "attention_mask": mask, **pooling}, rows)
        self._queue.wait_all()
        return vectors
