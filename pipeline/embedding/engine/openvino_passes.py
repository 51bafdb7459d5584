"""Forward passes of a prepared model with OpenVINO on a CPU."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from pipeline.embedding.engine.batching import SpecialTokens, pad
from pipeline.embedding.engine.passes import Ids, Passes, ReadyVectors, VectorsFuture

if TYPE_CHECKING:
    import openvino

_MOST_STEP = 16
_LEAST_NORM = 1e-12
"""As in torch's `normalize`: a vector of zeros stays one."""
_FIRST_PASS = threading.Lock()
_OUT_OF_MEMORY = ("bad_alloc", "can't allocate", "could not allocate", "out of memory")


class OpenVinoPasses(Passes):
    """Runs a compiled model, with one inference request for each thread that calls `run`.

    The model's inputs are `input_ids` and `attention_mask`, and `pooling_mask` where pooling leaves the prompt out.
    """

    flat = False

    def __init__(
        self,
        compiled: "openvino.CompiledModel",
        *,
        padding_id: int,
        limit: int,
        masks_prompt: bool,
        dimension: int,
        unit_length: bool,
    ) -> None:
        """`limit`: the model's input limit in tokens, special tokens included.

        `dimension`: leading components kept of each vector; with `unit_length` these are scaled to length 1, in float32
        whatever the precision of the model.
        """
        self._compiled: openvino.CompiledModel | None = compiled
        self._padding_id = padding_id
        self._limit = limit
        self._masks_prompt = masks_prompt
        self._dimension = dimension
        self._unit_length = unit_length
        self._thread = threading.local()
        inputs = ["input_ids", "attention_mask", *(["pooling_mask"] if masks_prompt else [])]
        pass_once(compiled, inputs, padding_id)

    @override
    def run(self, ids: Ids, special_tokens: SpecialTokens) -> VectorsFuture | None:
        longest = max(map(len, ids)) + special_tokens.count
        rows, mask = pad(ids, self._padding_id, special_tokens, step=shape_step(longest), limit=self._limit)
        inputs = {"input_ids": rows, "attention_mask": mask}
        if self._masks_prompt:
            inputs["pooling_mask"] = pooled = mask.copy()
            pooled[:, : special_tokens.prompt_tokens] = 0
        request = self._request()
        try:
            request.infer(inputs, share_inputs=True)
        except RuntimeError as error:
            if any(word in str(error).lower() for word in _OUT_OF_MEMORY):
                return None
            raise
        # A copy: the request overwrites its output in its next pass.
        vectors = np.array(request.get_output_tensor(0).data[:, : self._dimension], dtype=np.float32)
        if self._unit_length:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _LEAST_NORM)
        return ReadyVectors(vectors)

    @override
    def start_thread(self, threads: int) -> None:
        self._request()

    @override
    def close(self) -> None:
        self._compiled = None
        self._thread = threading.local()

    def _request(self) -> "openvino.InferRequest":
        request: openvino.InferRequest | None = getattr(self._thread, "request", None)
        if request is None:
            assert self._compiled is not None  # noqa: S101 - `close` comes after the last pass
            request = self._thread.request = self._compiled.create_infer_request()
        return request


def pass_once(compiled: "openvino.CompiledModel", inputs: Sequence[str], padding_id: int) -> None:
    """Make one pass before there are threads; `inputs`: the names of the model's.

    OpenVINO makes its tables of types in the first pass of a process. It then waits for Python's lock while it
    holds the lock of the table: two threads that both make their first pass wait for each other for ever, and with
    them the process (2026.4.1: 15 of 60 processes that tried).
    """
    row = np.full((1, 1), padding_id, np.int64)
    values = {"input_ids": row, "token_type_ids": np.zeros_like(row)}
    with _FIRST_PASS:
        request = compiled.create_infer_request()
        request.infer({name: values.get(name, np.ones_like(row)) for name in inputs}, share_inputs=True)
        np.array(request.get_output_tensor(0).data)


def shape_step(longest: int) -> int:
    """Rows are padded up to a multiple of it: OpenVINO sets every new shape up once, which costs as much as a pass.

    An eighth to a sixteenth of the length, so that short texts are not padded by half.
    """
    return min(_MOST_STEP, max(1, 1 << longest.bit_length() >> 4))
