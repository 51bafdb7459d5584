"""Forward passes of a sentence-transformers model with torch, on a GPU or a CPU."""

import torch
from typing_extensions import override

from pipeline.embedding.engine.batching import SpecialTokens
from pipeline.embedding.engine.device_transfer import Transfer
from pipeline.embedding.engine.forward_pass import Forward
from pipeline.embedding.engine.passes import Ids, Passes, VectorsFuture


class TorchPasses(Passes):
    """Runs a `Forward`, with its inputs and outputs copied by a `Transfer`."""

    def __init__(self, forward: Forward, transfer: Transfer) -> None:
        """Owns the forward pass: `close` closes it."""
        self._forward = forward
        self._transfer = transfer

    @property
    @override
    def flat(self) -> bool:
        return self._forward.flat

    @override
    def run(self, ids: Ids, special_tokens: SpecialTokens) -> VectorsFuture | None:
        try:
            inputs = self._forward.inputs(ids, special_tokens)
            tensors = self._transfer.upload(inputs.arrays)
            return self._transfer.download(self._forward(inputs, tensors), tensors)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        # Not inside the handler: there the exception would still hold the tensors of the failed pass.
        self._transfer.recover()
        return None

    @override
    def start_thread(self, threads: int) -> None:
        torch.set_num_threads(threads)

    @override
    def close(self) -> None:
        self._forward.close()


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
