"""Attention on a CPU as plain matrix products: in bfloat16 two to three times as fast as torch's fused kernel."""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import torch

from pipeline.embedding.device import SHAPE_STEP

_LEAST_TOKENS = 48
"""With fewer, these many calls take longer than those of the kernel."""
_SCORES = 2**19
"""Scores at a time: more leave the cache of a core."""
_KEPT = 2**21
"""Numbers in a room that is kept: what one long text needs is given back."""
_LEAST, _MOST = 2.0**-100, 2.0**126
"""Of a sum of exponentials: below it small ones have become zero. And of what the values then can add up to."""
_LAYOUTS = 64
"""Remembered for the layers of a model, of each pass that is under way."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbours in the row that have one length when padded to a multiple of `SHAPE_STEP`."""

    row: slice
    """Their tokens."""
    lengths: tuple[int, ...]
    length: int | None
    """Of every text; None where they differ."""
    padded: int
    tokens: torch.Tensor
    """For each place of the padded texts: which token of the group stands there; behind a text its last one again."""
    places: torch.Tensor
    """For each token: its place."""
    filled: torch.Tensor
    """1 where a text has a token, 0 behind it; shape (texts, 1, padded)."""


class _Memory(threading.local):
    """Room that a thread uses again and again: new memory of this size would be fetched from the kernel each time."""

    def __init__(self) -> None:
        self._rooms: dict[str, torch.Tensor] = {}

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


_MEMORY = _Memory()
_Attention = Callable[[Sequence[torch.Tensor], Sequence[int]], torch.Tensor]


def by_products(
    rows: Sequence[torch.Tensor], lengths: Sequence[int], scale: float | None, otherwise: _Attention
) -> torch.Tensor:
    """What each text's tokens make of all its tokens; query, key, value and result as (tokens, heads, head size).

    Exponentials are taken of the scores as they are, not of their distance to the largest one, which would cost more
    than both products. Where they leave what the precision holds, and for few tokens, `otherwise` is called with the
    rows and lengths of some texts.
    """
    heads, size = rows[0].shape[1:]
    scale = size**-0.5 if scale is None else scale
    result = rows[2].new_empty(rows[2].shape)  # one row behind the other, also where the value's are not
    for group in _groups(tuple(lengths), heads):
        parts = [row[group.row] for row in rows]
        if len(group.places) < _LEAST_TOKENS or not _weighed(parts, group, scale, result[group.row]):
            result[group.row].copy_(otherwise(parts, group.lengths))
    return result


@lru_cache(_LAYOUTS)
def _groups(lengths: tuple[int, ...], heads: int) -> list[_Group]:
    found: list[_Group] = []
    start = 0
    for padded, neighbours in groupby(lengths, lambda length: -(-length // SHAPE_STEP) * SHAPE_STEP):
        alike = tuple(neighbours)
        most = max(1, _SCORES // (heads * padded * padded))
        for first in range(0, len(alike), most):
            found.append(_group(start, alike[first : first + most], padded))
            start = found[-1].row.stop
    return found


def _group(start: int, lengths: tuple[int, ...], padded: int) -> _Group:
    each = torch.tensor(lengths)
    ends = each.cumsum(0)
    filled = torch.arange(padded) < each[:, None]
    tokens = (ends - each)[:, None] + torch.minimum(torch.arange(padded), each[:, None] - 1)
    return _Group(
        slice(start, start + sum(lengths)),
        lengths,
        lengths[0] if len(set(lengths)) == 1 else None,
        padded,
        tokens=tokens.flatten(),
        places=filled.flatten().nonzero().flatten(),
        filled=filled[:, None].float(),
    )


def _weighed(rows: Sequence[torch.Tensor], group: _Group, scale: float, target: torch.Tensor) -> bool:
    """Write what the tokens make of each other into `target`; False where it cannot be had in this way."""
    query, key, value = (_padded(use, row, group) for use, row in zip(("query", "key", "value"), rows, strict=True))
    # One vector taken from all keys of a text changes nothing but the size of the scores, and with it their rounding.
    key -= key.mean(2, keepdim=True)
    results, sums = _sum_up(query, key, value, group, scale * math.log2(math.e))
    if not _holds(sums, value):
        return False
    heads, texts, padded, size = results.shape
    room = _MEMORY.room("padded", results.dtype, texts * padded, heads, size)
    torch.div(results, sums[..., None], out=room.view(texts, padded, heads, size).permute(2, 0, 1, 3))
    torch.index_select(room.flatten(1), 0, group.places, out=target.flatten(1))
    return True


def _holds(sums: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether nothing has become zero, infinite or NaN that should not."""
    least, most = torch.aminmax(sums)
    lowest, highest = torch.aminmax(value)
    # NaN first: it stays, and is less than nothing.
    return least.item() > _LEAST and most.item() * max(-lowest.item(), highest.item(), 1.0) < _MOST


def _padded(use: str, row: torch.Tensor, group: _Group) -> torch.Tensor:
    """The group's tokens as (heads, texts, padded, size)."""
    _, heads, size = row.shape
    places = len(group.tokens)
    padded = _MEMORY.room("padded", row.dtype, places, heads * size)
    torch.index_select(row.flatten(1), 0, group.tokens, out=padded)
    room = _MEMORY.room(use, row.dtype, heads, places, size)
    room.copy_(padded.view(places, heads, size).transpose(0, 1))
    return room.view(heads, -1, group.padded, size)


def _sum_up(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, group: _Group, factor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values weighed by 2^(factor * score), shape (heads, texts, padded, size), and the sums of their weights."""
    heads, texts, padded, _ = query.shape
    nothing = query.new_empty(1, 1, 1)
    result = _MEMORY.room("result", value.dtype, *value.shape)
    sums = _MEMORY.room("sums", value.dtype, heads, texts, padded)
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
    return result, sums
