"""Faster ways to run a model, each taken only where the vectors stay the same."""

from collections.abc import Callable, Sequence

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from pipeline.embedding.engine.batching import SpecialTokens
from pipeline.embedding.engine.device_transfer import Transfer
from pipeline.embedding.engine.forward_pass import Forward
from pipeline.embedding.engine.tokenizer import ModelTokenizer
from pipeline.embedding.engine.transformer_embedder import around

_WORDS = "The quick brown fox jumps over the lazy dog; why it does so, nobody has ever found out."
_LENGTHS = (1, 3, 17, 57, 60)
"""Tokens of the texts tried; the attention takes together two of one length, and the two longest."""
_BEYOND = 40
"""How much longer than a sliding window one text is, so that the window shows."""
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.06, torch.float16: 0.02}
"""Largest distance of two vectors, as a share of their length: what rounding alone does stays well below."""

log = structlog.get_logger(__name__)


def enable_fast_paths(
    forward: Forward, transfer: Transfer, tokenizer: ModelTokenizer, *, limit: int, name: str, pack: bool
) -> None:
    """Have the model run flat batches and, with `pack`, packed weights, if vectors change by no more than rounding.

    If they do, the log says so. `limit` is what the model reads at once, in tokens; `name` is for the log.
    """
    arounds = [around(tokenizer, query=query) for query in (False, True)]
    words = tokenizer.tokenize([_WORDS])[0].ids
    longest = limit - max(item.tokens for item in arounds)
    lengths = {min(length, longest) for length in (*_LENGTHS, *(window + _BEYOND for window in forward.windows()))}
    texts = [np.resize(np.roll(words, -at), length) for at, length in enumerate([*sorted(lengths), min(lengths)])]

    def vectors() -> NDArray[np.float32]:
        return np.concatenate([_vectors(forward, transfer, texts, item) for item in arounds])

    plain = vectors()

    def try_fast_path(way: Callable[[], Callable[[], None]]) -> str | None:
        """Why the way is not taken; None where it is, and stays so."""
        leave: Callable[[], None] | None = None
        try:
            leave = way()
            distance = np.linalg.norm(vectors() - plain, axis=1) / np.linalg.norm(plain, axis=1)
        # Foreign code that is tried out: whatever it raises means no.
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            if float(distance.max()) <= _TOLERANCE[forward.dtype]:  # NaN is more than anything
                return None
            reason = f"vectors differ by {float(distance.max()):.1e} of their length"
        if leave is not None:
            leave()
        return reason

    if (reason := try_fast_path(forward.use_flat_batches)) is not None:
        log.info("model.padded", model=name, reason=reason, what="batches are padded, which is slower")
    if pack and (reason := try_fast_path(forward.pack_weights)) is not None:
        log.info("model.unpacked", model=name, reason=reason, what="weights stay as they are, which is slower")


def _vectors(
    forward: Forward, transfer: Transfer, texts: Sequence[NDArray[np.int32]], item: SpecialTokens
) -> NDArray[np.float32]:
    inputs = forward.inputs(texts, item)
    tensors = transfer.upload(inputs.arrays)
    return transfer.download(forward(inputs, tensors), tensors).wait()
