"""Fast paths of a model, each enabled only where the vectors stay the same."""

from collections.abc import Callable, Sequence

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from pipeline.embedding.engine.batching import SpecialTokens
from pipeline.embedding.engine.device_transfer import Transfer
from pipeline.embedding.engine.forward_pass import Forward
from pipeline.embedding.engine.tokenizer import ModelTokenizer

_PROBE_TEXT = "The quick brown fox jumps over the lazy dog; why it does so, nobody has ever found out."
_PROBE_LENGTHS = (1, 3, 17, 57, 60)
"""Tokens of the probes; the two longest have one padded length, so attention processes them as one group."""
_BEYOND_WINDOW = 40
"""Tokens by which one probe is longer than each sliding window, so that a wrong window changes its vector."""
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.06, torch.float16: 0.02}
"""Largest distance of two vectors relative to their length; rounding alone stays well below."""

log = structlog.get_logger(__name__)


def enable_fast_paths(
    forward: Forward, transfer: Transfer, tokenizer: ModelTokenizer, *, limit: int, name: str, pack: bool
) -> None:
    """Enable flat batches and, with `pack`, packed weights, each if vectors change by no more than rounding.

    `limit`: the model's input limit in tokens; `name`: the model's name in the log, which reports a path left disabled.
    """
    special_tokens = [tokenizer.special_tokens(query=query) for query in (False, True)]
    probes = _probes(forward, tokenizer, limit - max(tokens.count for tokens in special_tokens))

    def vectors() -> NDArray[np.float32]:
        return np.concatenate([_vectors(forward, transfer, probes, tokens) for tokens in special_tokens])

    reference = vectors()

    def try_fast_path(enable: Callable[[], Callable[[], None]]) -> str | None:
        """Enable a fast path; return None if the vectors stay within tolerance, else undo it and return the reason."""
        undo: Callable[[], None] | None = None
        try:
            undo = enable()
            distances = np.linalg.norm(vectors() - reference, axis=1) / np.linalg.norm(reference, axis=1)
        # The model's code is foreign: any of these means that it does not support the path.
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        else:
            if float(distances.max()) <= _TOLERANCE[forward.dtype]:  # false for NaN
                return None
            reason = f"vectors differ by {float(distances.max()):.1e} of their length"
        if undo is not None:
            undo()
        return reason

    if (reason := try_fast_path(forward.use_flat_batches)) is not None:
        log.info("model.padded", model=name, reason=reason, what="batches are padded, which is slower")
    if pack and (reason := try_fast_path(forward.pack_weights)) is not None:
        log.info("model.unpacked", model=name, reason=reason, what="weights stay as they are, which is slower")


def _probes(forward: Forward, tokenizer: ModelTokenizer, longest: int) -> list[NDArray[np.int32]]:
    """Token ids of the probe texts: different texts, none above `longest` tokens, two of one length."""
    words = tokenizer.tokenize([_PROBE_TEXT])[0].ids
    beyond_windows = (window + _BEYOND_WINDOW for window in forward.windows())
    lengths = {min(length, longest) for length in (*_PROBE_LENGTHS, *beyond_windows)}
    return [np.resize(np.roll(words, -shift), length) for shift, length in enumerate([*sorted(lengths), min(lengths)])]


def _vectors(
    forward: Forward, transfer: Transfer, texts: Sequence[NDArray[np.int32]], special_tokens: SpecialTokens
) -> NDArray[np.float32]:
    inputs = forward.inputs(texts, special_tokens)
    tensors = transfer.upload(inputs.arrays)
    return transfer.download(forward(inputs, tensors), tensors).wait()
