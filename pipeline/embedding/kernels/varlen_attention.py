"""Attention over documents that stand one behind the other in a single unpadded row."""

import inspect
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from pipeline.embedding.kernels.device import multiplied_by_onednn
from pipeline.embedding.kernels.matmul_attention import matmul_attention

FLAT_ATTENTION = "milvus_stream_flat"
"""The name under which transformers finds `attend`, once `register` was called."""
_REFUSED = ("softcap", "position_bias", "s_aux", "head_mask")
"""Arguments with which some models change the scores: leaving one out would give vectors that are slightly wrong."""
_WINDOW_BLOCK = 256
"""Queries of a long document taken together where a window limits what they see."""
_MASKS = 64
"""Kept for the layers and documents to come; most blocks of long documents have the same one."""


@dataclass(frozen=True, slots=True)
class AttentionSpan:
    """Which tokens of its document a token sees, and how scores are scaled."""

    scale: float | None
    """None: by the root of the head size."""
    window: int | None
    """Tokens at a distance below it are seen; None: all."""
    causal: bool
    """Only itself and what stands before it."""

    def sees_all_of(self, length: int) -> bool:
        """Whether each token of a document of this length sees every other."""
        return not self.causal and (self.window is None or length <= self.window)


def register() -> None:
    """Make `attend` known to transformers. No mask function goes with it: then transformers makes no mask."""
    AttentionInterface.register(FLAT_ATTENTION, attend)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    host_offsets: torch.Tensor,
    cu_seq_lens_q: torch.Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Each document attends to itself; as transformers' attention functions, result (1, tokens, heads, head size).

    Query, key and value have the shape (1, heads, tokens, head size); key and value may have fewer heads. Where
    each document begins and the last one ends is known in the host's memory (`host_offsets`) and on the device
    (`cu_seq_lens_q`). A token sees those at a distance below `sliding_window`. Raises `NotImplementedError` for what
    cannot be done flat.
    """
    for name in _REFUSED:
        if others.get(name) is not None:
            raise NotImplementedError(f"attention with {name}")
    if attention_mask is not None or query.shape[0] != 1:
        raise NotImplementedError("attention over more than one row")
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    by_document = _opaque if torch.compiler.is_compiling() else _by_document
    return by_document(q, k, v, host_offsets, cu_seq_lens_q, scaling, sliding_window, causal)[None], None


def varlen_options(known: Container[str], sight: AttentionSpan, head_size: int) -> dict[str, Any]:
    """Keyword arguments for a `varlen_attn` with the parameters `known`; raises where it cannot do what is asked.

    torch 2.11 has `is_causal` and neither `scale` nor `window_size`; later versions have these two instead.
    """
    if "window_size" in known:
        reach = -1 if sight.window is None else sight.window - 1
        return {"scale": sight.scale, "window_size": (reach, 0 if sight.causal else reach)}
    if sight.window is not None:
        raise NotImplementedError("a sliding window, which varlen_attn of this torch has not")
    if sight.scale is not None and abs(sight.scale * head_size**0.5 - 1) > 1e-6:
        raise NotImplementedError("a scale other than the usual one, which varlen_attn of this torch has not")
    return {"is_causal": sight.causal}


def _by_document(  # noqa: PLR0917 - torch's operators take numbers and tensors, one by one
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    host_offsets: torch.Tensor,
    offsets: torch.Tensor,
    scale: float | None,
    window: int | None,
    causal: bool,
) -> torch.Tensor:
    """Query, key and value as (tokens, heads, head size)."""
    sight = AttentionSpan(scale, window, causal)
    lengths = host_offsets.diff().tolist()
    if query.is_cuda:
        return _varlen((query, key, value), max(lengths), offsets, sight)

    def in_runs(rows: Sequence[torch.Tensor], lengths: Sequence[int]) -> torch.Tensor:
        return _by_runs(rows, runs(lengths), sight)

    if multiplied_by_onednn(query.dtype) and sight.sees_all_of(max(lengths)) and query.shape[1] == key.shape[1]:
        return matmul_attention((query, key, value), lengths, sight.scale, in_runs)
    return in_runs((query, key, value), lengths)


# torch's compiler cannot look into what depends on the documents' lengths; to it this is one operation.
_opaque = torch.library.custom_op("milvus_stream::attend", _by_document, mutates_args=())


@_opaque.register_fake
def _(query: torch.Tensor, _key: torch.Tensor, value: torch.Tensor, *_others: object) -> torch.Tensor:
    return query.new_empty((*query.shape[:2], value.shape[-1]))


def runs(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """Neighbours of one length as (first token, length, count): one call of the attention for all of them."""
    found, start = [], 0
    for length, equal in groupby(lengths):
        count = len(list(equal))
        found.append((start, length, count))
        start += length * count
    return found


@lru_cache(_MASKS)
def _mask(queries: int, keys: int, shift: int, sight: AttentionSpan) -> torch.Tensor:
    """What each query sees of the keys, shape (queries, keys); the first query stands where key `shift` stands."""
    assert sight.window is not None  # noqa: S101 - without a window there is no mask
    distance = torch.arange(shift, shift + queries)[:, None] - torch.arange(keys)
    nearest = 0 if sight.causal else 1 - sight.window
    return (distance < sight.window) & (distance >= nearest)


def _by_runs(
    rows: Sequence[torch.Tensor], documents: Iterable[tuple[int, int, int]], sight: AttentionSpan
) -> torch.Tensor:
    query, key, value = rows
    result = query.new_empty((*query.shape[:2], value.shape[-1]))
    grouped = query.shape[1] != key.shape[1]
    for start, length, count in documents:
        # Views of the row, (count, heads, length, head size): nothing is copied.
        shape = (count, length, -1, query.shape[-1])
        q, k, v = (row[start : start + length * count].view(*shape[:3], row.shape[-1]).transpose(1, 2) for row in rows)
        target = result[start : start + length * count].view(count, length, *result.shape[1:]).transpose(1, 2)
        if sight.window is None or length <= sight.window:
            target.copy_(
                scaled_dot_product_attention(q, k, v, is_causal=sight.causal, scale=sight.scale, enable_gqa=grouped)
            )
            continue
        for first in range(0, length, _WINDOW_BLOCK):
            last = min(first + _WINDOW_BLOCK, length)
            low, high = max(0, first - sight.window + 1), last if sight.causal else min(length, last + sight.window - 1)
            mask = _mask(last - first, high - low, first - low, sight)
            target[:, :, first:last].copy_(
                scaled_dot_product_attention(
                    q[:, :, first:last], k[:, :, low:high], v[:, :, low:high], mask,
                    scale=sight.scale, enable_gqa=grouped,
                )
            )  # fmt: skip
    return result


def _varlen(rows: Sequence[torch.Tensor], longest: int, offsets: torch.Tensor, sight: AttentionSpan) -> torch.Tensor:
    """The fused kernel of torch >= 2.11, with what its version offers."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - only where there is CUDA to run it

    query, key, value = rows
    options = varlen_options(inspect.signature(varlen_attn).parameters, sight, query.shape[-1])
    if (groups := query.shape[1] // key.shape[1]) > 1:
        key, value = (row.repeat_interleave(groups, dim=1) for row in (key, value))
    result = varlen_attn(query, key, value, offsets, offsets, longest, longest, **options)
    assert isinstance(result, torch.Tensor)  # noqa: S101 - a pair only where the scores' sums are asked for too
    return result
