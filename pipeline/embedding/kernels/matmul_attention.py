"""CPU attention by plain matrix products: in bfloat16 two to three times as fast as torch's fused kernel."""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from pipeline.embedding.kernels.device import SHAPE_STEP

_MIN_TOKENS = 48
"""With fewer tokens the many calls take longer than torch's kernel."""
_MIN_HEAD_SIZE = 8
"""In narrower heads rounded scores put a result off by up to 5 % (size 1; 1.2 % with 8, 0.9 % with 32)."""
_MAX_SCORES = 2**19
"""Scores computed at a time: more do not fit a core's cache."""
_MAX_BUFFER = 2**21
"""Numbers of the largest buffer that is kept: the memory of a single long text is released."""
_MIN_SUM, _MAX_SUM = 2.0**-100, 2.0**126
"""Bounds of a sum of exponentials: below, small terms are zero; above, the weighted values may overflow."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbouring texts that have the same length when padded to a multiple of `SHAPE_STEP`."""

    texts: int
    length: int | None
    """Length of every text; None where they differ."""
    padded: int
    filled: torch.Tensor
    """1 where a text has a token, 0 in its padding; shape (texts, 1, padded)."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """The order in which the kernel processes each head's part of each token: by group, then head, then text.

    In the row, parts are numbered token by token and head by head.
    """

    groups: list[_Group]
    parts: torch.Tensor
    """Part in each place of the kernel's order; a text's padding repeats its last token."""
    places: torch.Tensor
    """Place of each part in the kernel's order."""


class ScratchBuffers(threading.local):
    """Buffers that each thread reuses: new ones of this size would come from the operating system on every pass."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}
        self._layout: tuple[tuple[tuple[int, ...], int], _Layout] | None = None

    def get(self, use: str, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """An uninitialised tensor of this shape, valid until the next `get` for the same use."""
        size = math.prod(shape)
        if size > _MAX_BUFFER:
            return torch.empty(shape, dtype=dtype)
        buffer = self._buffers.get(use)
        if buffer is None or buffer.numel() < size or buffer.dtype != dtype:
            with torch.inference_mode(mode=False):  # an inference tensor could not be written outside of that mode
                buffer = self._buffers[use] = torch.empty(size, dtype=dtype)
        return buffer[:size].view(shape)

    def layout(self, lengths: tuple[int, ...], heads: int) -> _Layout:
        """The layout for these texts, shared by all layers of one pass."""
        key = lengths, heads
        if self._layout is None or self._layout[0] != key:
            self._layout = key, _layout(lengths, heads)
        return self._layout[1]


_BUFFERS = ScratchBuffers()
_Attention = Callable[[Sequence[torch.Tensor], Sequence[int]], torch.Tensor]


def matmul_attention(
    rows: Sequence[torch.Tensor], lengths: Sequence[int], scale: float | None, fallback: _Attention
) -> torch.Tensor:
    """Self-attention per text by two matrix products; `rows` are query, key, value as (tokens, heads, head size).

    Softmax is computed without subtracting the maximum, because finding it costs more than both products. If the
    exponentials overflow or underflow, and for few tokens or narrow heads, `fallback` is called with rows and lengths.
    """
    tokens, heads, size = rows[0].shape
    if tokens >= _MIN_TOKENS and size >= _MIN_HEAD_SIZE:
        scale = size**-0.5 if scale is None else scale
        result = _attention(rows, _BUFFERS.layout(tuple(lengths), heads), scale * math.log2(math.e))
        if result is not None:
            return result
    return fallback(rows, lengths)


def _layout(lengths: tuple[int, ...], heads: int) -> _Layout:
    groups: list[_Group] = []
    parts, places = [], []
    token = place = 0
    for padded, neighbours in groupby(lengths, lambda length: -(-length // SHAPE_STEP) * SHAPE_STEP):
        run = tuple(neighbours)
        max_texts = max(1, _MAX_SCORES // (heads * padded * padded))
        for first in range(0, len(run), max_texts):
            members = run[first : first + max_texts]
            sizes = torch.tensor(members)
            filled = torch.arange(padded) < sizes[:, None]
            starts = token + (sizes.cumsum(0) - sizes)[:, None]
            tokens = starts + torch.minimum(torch.arange(padded), sizes[:, None] - 1)
            parts.append((tokens * heads + torch.arange(heads)[:, None, None]).flatten())
            places.append(place + filled.flatten().nonzero() + torch.arange(heads) * filled.numel())
            equal = members[0] if len(set(members)) == 1 else None
            groups.append(_Group(len(members), equal, padded, filled[:, None].float()))
            token += sum(members)
            place += len(parts[-1])
    return _Layout(groups, torch.cat(parts).int(), torch.cat(places).flatten().int())


def _attention(rows: Sequence[torch.Tensor], layout: _Layout, factor: float) -> torch.Tensor | None:
    """Values of each text weighted by softmax with base 2 of factor * score; None on overflow or underflow."""
    heads = rows[0].shape[1]
    lowest, highest = torch.aminmax(rows[2])
    query, key, value = (_gather(use, row, layout) for use, row in zip(("query", "key", "value"), rows, strict=True))
    result = _BUFFERS.get("result", value.dtype, *value.shape)
    sums = _BUFFERS.get("sums", value.dtype, len(value))
    place = 0
    for group in layout.groups:
        shape = heads, group.texts, group.padded
        places = slice(place, place + math.prod(shape))
        q, k, v, out = (part[places].view(*shape, -1) for part in (query, key, value, result))
        _weighted_values(q, k, v, group, factor, out, sums[places].view(shape))
        place = places.stop
    min_sum, max_sum = torch.aminmax(sums)
    # aminmax returns NaN if there is one, and NaN fails both comparisons.
    if not (min_sum.item() > _MIN_SUM and max_sum.item() * max(-lowest.item(), highest.item(), 1.0) < _MAX_SUM):
        return None
    result.div_(sums[:, None])
    return result.index_select(0, layout.places).view(*rows[0].shape[:2], -1)


def _gather(use: str, row: torch.Tensor, layout: _Layout) -> torch.Tensor:
    """The row's parts in the kernel's order, shape (places, size)."""
    buffer = _BUFFERS.get(use, row.dtype, len(layout.parts), row.shape[2])
    return torch.index_select(row.reshape(-1, row.shape[2]), 0, layout.parts, out=buffer)


def _weighted_values(  # noqa: PLR0917 - three tensors in, two out
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    group: _Group,
    factor: float,
    result: torch.Tensor,
    sums: torch.Tensor,
) -> None:
    """Write values weighted by 2^(factor * score), shape (heads, texts, padded, size), and the sums of the weights."""
    heads, texts, padded, _ = query.shape
    # Shifting all keys of a text by one vector does not change its softmax, but small scores are rounded less.
    key -= key.mean(2, keepdim=True)
    no_bias = query.new_empty(1, 1, 1)
    heads_at_once = max(1, _MAX_SCORES // (texts * padded * padded))
    rows_at_once = max(1, min(padded, _MAX_SCORES // padded))
    for first_head in range(0, heads, heads_at_once):
        some_heads = slice(first_head, first_head + heads_at_once)
        keys, values = key[some_heads].flatten(0, 1).transpose(1, 2), value[some_heads].flatten(0, 1)
        for first_row in range(0, padded, rows_at_once):
            rows = slice(first_row, first_row + rows_at_once)
            queries = query[some_heads, :, rows].flatten(0, 1)
            scores = _BUFFERS.get("scores", value.dtype, *queries.shape[:2], padded)
            torch.baddbmm(no_bias, queries, keys, beta=0, alpha=factor, out=scores).exp2_()
            if group.length is None:
                scores.view(-1, texts, queries.shape[1], padded).mul_(group.filled.to(scores.dtype))
            elif group.length < padded:
                scores[:, :, group.length :].zero_()
            torch.bmm(scores, values, out=result[some_heads, :, rows].flatten(0, 1))
            torch.sum(scores, -1, out=sums[some_heads, :, rows].flatten(0, 1))
