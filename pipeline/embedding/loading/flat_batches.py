"""Flat batches of a model, enabled only where its vectors stay the same."""

from collections.abc import Callable, Sequence

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from pipeline.embedding.engine.batching import SpecialTokens
from pipeline.embedding.engine.device_transfer import Transfer
from pipeline.embedding.engine.forward_pass import Forward
from pipeline.embedding.engine.tokenizer import ModelTokenizer
from pipeline.embedding.loading.probes import probe_sequences

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.06, torch.float16: 0.02}
"""Largest distance of two vectors relative to their length; rounding alone stays well below."""

log = structlog.get_logger(__name__)


def enable_flat_batches(
    forward: Forward, transfer: Transfer, tokenizer: ModelTokenizer, *, limit: int, name: str
) -> None:
    """Enable flat batches if vectors change by no more than rounding.

    `limit`: the model's input limit in tokens; `name`: the model's name in the log, which reports that they are not.
    """
    special_tokens = [tokenizer.special_tokens(query=query) for query in (False, True)]
    longest = limit - max(tokens.count for tokens in special_tokens)
    probes = probe_sequences(tokenizer, longest, forward.windows())

    def vectors() -> NDArray[np.float32]:
        return np.concatenate([_vectors(forward, transfer, probes, tokens) for tokens in special_tokens])

    reference = vectors()
    undo: Callable[[], None] | None = None
    try:
        undo = forward.use_flat_batches()
        distances = np.linalg.norm(vectors() - reference, axis=1) / np.linalg.norm(reference, axis=1)
    # The model's code is foreign: any of these means that it does not support them.
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    else:
        if float(distances.max()) <= _TOLERANCE[forward.dtype]:  # false for NaN
            return
        reason = f"vectors differ by {float(distances.max()):.1e} of their length"
    if undo is not None:
        undo()
    log.info("model.padded", model=name, reason=reason, what="batches are padded, which is slower")


def _vectors(
    forward: Forward, transfer: Transfer, texts: Sequence[NDArray[np.int32]], special_tokens: SpecialTokens
) -> NDArray[np.float32]:
    inputs = forward.inputs(texts, special_tokens)
    tensors = transfer.upload(inputs.arrays)
    return transfer.download(forward(inputs, tensors), tensors).wait()
