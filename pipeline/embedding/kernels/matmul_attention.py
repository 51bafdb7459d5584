"""Attention on a CPU as plain matrix products: in bfloat16 two to three times as fast as torch's fused kernel."""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from pipeline.embedding.kernels.device import SHAPE_STEP

_LEAST_TOKENS = 48
"""With fewer, these many calls take longer than those of the kernel."""
_LEAST_SIZE = 8
"""With fewer numbers a head, rounded scores are up to 5 % of a result off (1 number; 1.2 % with 8, 0.9 % with 32)."""
_SCORES = 2**19
"""Scores at a time: more leave the cache of a core."""
_KEPT = 2**21
"""Numbers in a room that is kept: what one long text needs is given back."""
_LEAST, _MOST = 2.0**-100, 2.0**126
"""Of a sum of exponentials: below it small ones have become zero. And of what the values then can add up to."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbours in the row that have one length when padded to a multiple of `SHAPE_STEP`."""

    texts: int
    length: int | None
    """Of every text; None where they differ."""
    padded: int
    filled: torch.Tensor
    """1 where a text has a token, 0 behind it; shape (texts, 1, padded)."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Places for each head's part of each token: group by group, in it head by head, text by text.

    Parts are counted in the row token by token, head by head.
    """

    groups: list[_Group]
    parts: torch.Tensor
    """Which part stands in each place; behind a text its last token's again."""
    places: torch.Tensor
    """For each part: its place."""


class _Memory(threading.local):
    """Room that a thread uses again and again: new memory of this size would be fetched from the kernel each time."""

    def __init__(self) -> None:
        self._rooms: dict[str, torch.Tensor] = {}
        self._layout: tuple[tuple[tuple[int, ...], int], _Layout] | None = None

    def room(self, use: str, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """A tensor of this shape, holding anything."""
        size = math.prod(shape)
        if size > _KEPT:
            return torch.empty(shape, dtype=dtype)
        room = self._rooms.get(use)
        if room is None or room.numel() < size or room.dtype != dtype:
            with torch.inference_mode(mode=False):  # else it could not be written to outside of that mode
                room = self._rooms[use] = torch.empty(size, dtype=dtype)
        return room[:size].view(shape)

    def layout(self, lengths: tuple[int, ...], heads: int) -> _Layout:
        """That of the layer before, where this one belongs to the same pass."""
        key = lengths, heads
        if self._layout is None or self._layout[0] != key:
            self._layout = key, _layout(lengths, heads)
        return self._layout[1]


_MEMORY = _Memory()
_Attention = Callable[[Sequence[torch.Tensor], Sequence[int]], torch.Tensor]


def matmul_attention(
    rows: Sequence[torch.Tensor], lengths: Sequence[int], scale: float | None, otherwise: _Attention
) -> torch.Tensor:
    """What each text's tokens make of all its tokens; query, key, value and result as (tokens, heads, head size).

    Exponentials are taken of the scores as they are, not of their distance to the largest one, which would cost more
    than both products. Where they leave what the precision holds, for few tokens and for narrow heads, `otherwise` is
    called with the rows and lengths.
    """
    tokens, heads, size = rows[0].shape
    if tokens >= _LEAST_TOKENS and size >= _LEAST_SIZE:
        scale = size**-0.5 if scale is None else scale
        result = _weighed(rows, _MEMORY.layout(tuple(lengths), heads), scale * math.log2(math.e))
        if result is not None:
            return result
    return otherwise(rows, lengths)


def _layout(lengths: tuple[int, ...], heads: int) -> _Layout:
    groups: list[_Group] = []
    parts, places = [], []
    token = place = 0
    for padded, neighbours in groupby(lengths, lambda length: -(-length // SHAPE_STEP) * SHAPE_STEP):
        alike = tuple(neighbours)
        most = max(1, _SCORES // (heads * padded * padded))
        for first in range(0, len(alike), most):
            some = alike[first : first + most]
            each = torch.tensor(some)
            filled = torch.arange(padded) < each[:, None]
            tokens = token + (each.cumsum(0) - each)[:, None] + torch.minimum(torch.arange(padded), each[:, None] - 1)
            parts.append((tokens * heads + torch.arange(heads)[:, None, None]).flatten())
            places.append(place + filled.flatten().nonzero() + torch.arange(heads) * filled.numel())
            equal = some[0] if len(set(some)) == 1 else None
            groups.append(_Group(len(some), equal, padded, filled[:, None].float()))
            token += sum(some)
            place += len(parts[-1])
    return _Layout(groups, torch.cat(parts).int(), torch.cat(places).flatten().int())


def _weighed(rows: Sequence[torch.Tensor], layout: _Layout, factor: float) -> torch.Tensor | None:
    """The values of each text weighed by 2^(factor * score); None where that cannot be had in this way."""
    heads = rows[0].shape[1]
    lowest, highest = torch.aminmax(rows[2])
    query, key, value = (_placed(use, row, layout) for use, row in zip(("query", "key", "value"), rows, strict=True))
    result = _MEMORY.room("result", value.dtype, *value.shape)
    sums = _MEMORY.room("sums", value.dtype, len(value))
    place = 0
    for group in layout.groups:
        shape = heads, group.texts, group.padded
        here = slice(place, place + math.prod(shape))
        q, k, v, out = (part[here].view(*shape, -1) for part in (query, key, value, result))
        _sum_up(q, k, v, group, factor, out, sums[here].view(shape))
        place = here.stop
    least, most = torch.aminmax(sums)
    # NaN first: it stays, and is less than nothing.
    if not (least.item() > _LEAST and most.item() * max(-lowest.item(), highest.item(), 1.0) < _MOST):
        return None
    result.div_(sums[:, None])
    return result.index_select(0, layout.places).view(*rows[0].shape[:2], -1)


def _placed(use: str, row: torch.Tensor, layout: _Layout) -> torch.Tensor:
    """The row's parts in their places, shape (places, size)."""
    room = _MEMORY.room(use, row.dtype, len(layout.parts), row.shape[2])
    return torch.index_select(row.reshape(-1, row.shape[2]), 0, layout.parts, out=room)


def _sum_up(  # noqa: PLR0917 - tensors and what is done to them, one by one
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    group: _Group,
    factor: float,
    result: torch.Tensor,
    sums: torch.Tensor,
) -> None:
    """Write values weighed by 2^(factor * score), shape (heads, texts, padded, size), and the sums of their weights."""
    heads, texts, padded, _ = query.shape
    # One vector taken from all keys of a text changes nothing but the size of the scores, and with it their rounding.
    key -= key.mean(2, keepdim=True)
    nothing = query.new_empty(1, 1, 1)
    together = max(1, _SCORES // (texts * padded * padded))
    rows = max(1, min(padded, _SCORES // padded))
    for head in range(0, heads, together):
        some = slice(head, head + together)
        seen, values = key[some].flatten(0, 1).transpose(1, 2), value[some].flatten(0, 1)
        for row in range(0, padded, rows):
            part = slice(row, row + rows)
            asking = query[some, :, part].flatten(0, 1)
            scores = _MEMORY.room("scores", value.dtype, *asking.shape[:2], padded)
            torch.baddbmm(nothing, asking, seen, beta=0, alpha=factor, out=scores).exp2_()
            if group.length is None:
                scores.view(-1, texts, asking.shape[1], padded).mul_(group.filled.to(scores.dtype))
            elif group.length < padded:
                scores[:, :, group.length :].zero_()
            torch.bmm(scores, values, out=result[some, :, part].flatten(0, 1))
            torch.sum(scores, -1, out=sums[some, :, part].flatten(0, 1))
