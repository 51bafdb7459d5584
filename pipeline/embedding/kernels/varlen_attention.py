"""Attention over documents of different lengths that are concatenated into one unpadded row."""

import inspect
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

FLAT_ATTENTION = "milvus_stream_flat"
"""The name under which transformers finds `attend` after `register`."""
_UNSUPPORTED_ARGUMENTS = ("softcap", "position_bias", "s_aux", "head_mask")
"""Arguments with which some models change the scores: ignoring one would give vectors that are slightly wrong."""
_WINDOW_BLOCK = 256
"""Queries of a long document that are processed at a time where a window limits what they see."""
_CACHED_MASKS = 64
"""Masks kept for later layers and documents; most blocks of long documents share one."""


@dataclass(frozen=True, slots=True)
class AttentionSpan:
    """The tokens of its document that a token attends to, and the scale of the scores."""

    scale: float | None
    """None: 1 / sqrt(head size)."""
    window: int | None
    """Tokens at a distance below it are seen; None: all."""
    causal: bool
    """A token sees only itself and the tokens before it."""


def register() -> None:
    """Register `attend` with transformers. Without a mask function beside it transformers builds no mask."""
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
    """Self-attention of each document, with the signature of transformers' attention functions.

    Query, key and value have the shape (1, heads, tokens, head size); key and value may have fewer heads. The result
    has the shape (1, tokens, heads, head size). `host_offsets` holds the start of each document and the end of the last
    one in host memory, `cu_seq_lens_q` the same on the device. A token sees those at a distance below `sliding_window`.
    Raises `NotImplementedError` for arguments that flat batches do not support.
    """
    for name in _UNSUPPORTED_ARGUMENTS:
        if others.get(name) is not None:
            raise NotImplementedError(f"attention with {name}")
    if attention_mask is not None or query.shape[0] != 1:
        raise NotImplementedError("attention over more than one row")
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    span = AttentionSpan(scaling, sliding_window, causal)
    return _attention((q, k, v), host_offsets, cu_seq_lens_q, span)[None], None


def varlen_options(parameters: Container[str], span: AttentionSpan, head_size: int) -> dict[str, Any]:
    """Keyword arguments for a `varlen_attn` with these parameters; raises `NotImplementedError` where they lack one.

    torch 2.11 has `is_causal` and neither `scale` nor `window_size`; later versions have these two instead.
    """
    if "window_size" in parameters:
        reach = -1 if span.window is None else span.window - 1
        return {"scale": span.scale, "window_size": (reach, 0 if span.causal else reach)}
    if span.window is not None:
        raise NotImplementedError("a sliding window, which varlen_attn of this torch does not support")
    if span.scale is not None and abs(span.scale * head_size**0.5 - 1) > 1e-6:
        raise NotImplementedError("a scale other than the default, which varlen_attn of this torch does not support")
    return {"is_causal": span.causal}


def _attention(
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    host_offsets: torch.Tensor,
    offsets: torch.Tensor,
    span: AttentionSpan,
) -> torch.Tensor:
    """Self-attention of each document; query, key, value and result as (tokens, heads, head size).

    1. On a GPU torch's fused kernel for variable lengths takes all documents.
    2. On a CPU torch's attention is called once for each run of documents of one length.
    """
    lengths = host_offsets.diff().tolist()
    if tensors[0].is_cuda:
        return _fused_attention(tensors, max(lengths), offsets, span)
    return _attention_by_runs(tensors, runs(lengths), span)


def runs(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """Neighbours of equal length as (first token, length, count): one attention call serves each run."""
    equal_lengths, start = [], 0
    for length, neighbours in groupby(lengths):
        count = len(list(neighbours))
        equal_lengths.append((start, length, count))
        start += length * count
    return equal_lengths


@lru_cache(_CACHED_MASKS)
def _mask(queries: int, keys: int, shift: int, span: AttentionSpan) -> torch.Tensor:
    """Which keys each query sees, shape (queries, keys); the first query is at the position of key `shift`."""
    assert span.window is not None  # noqa: S101 - without a window there is no mask
    distance = torch.arange(shift, shift + queries)[:, None] - torch.arange(keys)
    nearest = 0 if span.causal else 1 - span.window
    return (distance < span.window) & (distance >= nearest)


def _attention_by_runs(
    tensors: Sequence[torch.Tensor], document_runs: Iterable[tuple[int, int, int]], span: AttentionSpan
) -> torch.Tensor:
    """Attention with torch's kernel; documents longer than the window go through it block by block of queries."""
    query, key, value = tensors
    result = query.new_empty((*query.shape[:2], value.shape[-1]))
    grouped = query.shape[1] != key.shape[1]
    for start, length, count in document_runs:
        # Views of the row, (count, heads, length, head size): nothing is copied.
        shape = (count, length, -1, query.shape[-1])
        run = slice(start, start + length * count)
        q, k, v = (tensor[run].view(*shape[:3], tensor.shape[-1]).transpose(1, 2) for tensor in tensors)
        target = result[run].view(count, length, *result.shape[1:]).transpose(1, 2)
        if span.window is None or length <= span.window:
            target.copy_(
                scaled_dot_product_attention(q, k, v, is_causal=span.causal, scale=span.scale, enable_gqa=grouped)
            )
            continue
        for first in range(0, length, _WINDOW_BLOCK):
            last = min(first + _WINDOW_BLOCK, length)
            low, high = max(0, first - span.window + 1), last if span.causal else min(length, last + span.window - 1)
            mask = _mask(last - first, high - low, first - low, span)
            target[:, :, first:last].copy_(
                scaled_dot_product_attention(
                    q[:, :, first:last], k[:, :, low:high], v[:, :, low:high], mask,
                    scale=span.scale, enable_gqa=grouped,
                )
            )  # fmt: skip
    return result


def _fused_attention(
    tensors: Sequence[torch.Tensor], longest: int, offsets: torch.Tensor, span: AttentionSpan
) -> torch.Tensor:
    """Attention with the fused CUDA kernel of torch >= 2.11."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 - only where there is CUDA to run it

    query, key, value = tensors
    options = varlen_options(inspect.signature(varlen_attn).parameters, span, query.shape[-1])
    if (groups := query.shape[1] // key.shape[1]) > 1:
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    result = varlen_attn(query, key, value, offsets, offsets, longest, longest, **options)
    assert isinstance(result, torch.Tensor)  # noqa: S101 - a pair is returned only with return_aux
    return result
