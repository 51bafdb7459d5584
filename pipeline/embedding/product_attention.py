"""Attention in bfloat16 on a CPU as plain matrix products: two to three times as fast as torch's fused kernel."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

_STEP = 16
"""Texts are padded to a multiple of it: then many come together, and oneDNN, which makes code for each new length (half
a millisecond), knows the length already."""
_LEAST_TOKENS = 48
"""With fewer, these many calls take longer than those of the kernel."""
_SCORES = 2**19
"""Scores at a time: more leave the cache of a core."""
_LEAST, _MOST = 2.0**-100, 2.0**126
"""Of a sum of exponentials: below it small ones have become zero. And of what the values then can add up to."""
_NOTHING = torch.zeros(1, 1, 1, dtype=torch.bfloat16)
_LAYOUTS = 64
"""Remembered for the layers of a model, of each pass that is under way."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbours in the row that have one length when padded."""

    bounds: tuple[tuple[int, int], ...]
    """Where in the row each text begins and ends."""
    padded: int
    length: int | None
    """Of every text; None where they differ."""
    tokens: torch.Tensor
    """For each place of the padded texts: which token of the group stands there; behind a text its last one again."""
    places: torch.Tensor
    """For each token: its place."""
    filled: torch.Tensor
    """1 where a text has a token, 0 behind it; shape (texts, 1, padded)."""

    @property
    def row(self) -> slice:
        """The group's tokens in the row."""
        return slice(self.bounds[0][0], self.bounds[-1][1])


class _Memory(threading.local):
    """Room that a thread uses again and again: new memory of this size would be fetched from the kernel each time."""

    def __init__(self) -> None:
        self._rooms: dict[str, torch.Tensor] = {}

    def room(self, use: str, *shape: int) -> torch.Tensor:
        """Bfloat16 of this shape, holding anything."""
        size = math.prod(shape)
        if use not in self._rooms or self._rooms[use].numel() < size:
            with torch.inference_mode(mode=False):  # else it could not be written to outside of that mode
                self._rooms[use] = torch.empty(size, dtype=torch.bfloat16)
        return self._rooms[use][:size].view(shape)


_MEMORY = _Memory()


def by_products(rows: Sequence[torch.Tensor], lengths: Sequence[int], scale: float | None) -> torch.Tensor:
    """What each text's tokens make of all its tokens; query, key, value and result as (tokens, heads, head size).

    Exponentials are taken of the scores as they are, not of their distance to the largest one, which would cost more
    than both products. Where they leave what bfloat16 holds, torch's own kernel does it again.
    """
    heads, size = rows[0].shape[1:]
    scale = size**-0.5 if scale is None else scale
    result = torch.empty_like(rows[2])
    for group in _groups(tuple(lengths), heads):
        parts = [row[group.row] for row in rows]
        if len(group.places) < _LEAST_TOKENS or not _weighed(parts, group, scale, result[group.row]):
            for start, end in group.bounds:
                query, key, value = (row[start:end].transpose(0, 1) for row in rows)
                attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scale)
                result[start:end].copy_(attended.transpose(0, 1))
    return result


@lru_cache(_LAYOUTS)
def _groups(lengths: tuple[int, ...], heads: int) -> list[_Group]:
    found: list[_Group] = []
    start = first = 0
    for index, length in enumerate(lengths):
        padded = -(-length // _STEP) * _STEP
        most = max(1, _SCORES // (heads * padded * padded))
        end = index + 1
        if end == len(lengths) or -(-lengths[end] // _STEP) * _STEP != padded or end - first == most:
            found.append(_group(start, lengths[first:end], padded))
            start, first = found[-1].bounds[-1][1], end
    return found


def _group(start: int, lengths: tuple[int, ...], padded: int) -> _Group:
    each = torch.tensor(lengths)
    ends = each.cumsum(0)
    filled = torch.arange(padded) < each[:, None]
    tokens = (ends - each)[:, None] + torch.minimum(torch.arange(padded), each[:, None] - 1)
    bounds = tuple((start + end - length, start + end) for end, length in zip(ends.tolist(), lengths, strict=True))
    return _Group(
        bounds,
        padded,
        length=lengths[0] if len(set(lengths)) == 1 else None,
        tokens=tokens.flatten(),
        places=filled.flatten().nonzero().flatten(),
        filled=filled[:, None].bfloat16(),
    )


def _weighed(rows: Sequence[torch.Tensor], group: _Group, scale: float, target: torch.Tensor) -> bool:
    """Write what the tokens make of each other into `target`; False where it cannot be had in this way."""
    texts = len(group.bounds)
    query, key, value = (_padded(use, row, group) for use, row in zip(("query", "key", "value"), rows, strict=True))
    results, sums = _sum_up(query, key, value, group, scale * math.log2(math.e))
    if not _holds(sums, value):
        return False
    heads, _, _, size = results.shape
    room = _MEMORY.room("padded", texts * group.padded, heads, size)
    torch.div(results, sums[..., None], out=room.view(texts, group.padded, heads, size).permute(2, 0, 1, 3))
    torch.index_select(room.flatten(1), 0, group.places, out=target.flatten(1))
    return True


def _holds(sums: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether nothing has become zero, infinite or NaN that should not."""
    least, most = torch.aminmax(sums)
    lowest, highest = torch.aminmax(value)
    return least.item() > _LEAST and most.item() * max(1.0, -lowest.item(), highest.item()) < _MOST


def _padded(use: str, row: torch.Tensor, group: _Group) -> torch.Tensor:
    """The group's tokens as (heads, texts, padded, size)."""
    _, heads, size = row.shape
    places = len(group.tokens)
    padded = _MEMORY.room("padded", places, heads * size)
    torch.index_select(row.flatten(1), 0, group.tokens, out=padded)
    room = _MEMORY.room(use, heads, places, size)
    room.copy_(padded.view(places, heads, size).transpose(0, 1))
    return room.view(heads, -1, group.padded, size)


def _sum_up(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, group: _Group, factor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values weighed by 2^(factor * score), shape (heads, texts, padded, size), and the sums of their weights."""
    heads, texts, padded, _ = query.shape
    result = _MEMORY.room("result", *value.shape)
    sums = _MEMORY.room("sums", heads, texts, padded)
    together = max(1, _SCORES // (texts * padded * padded))
    rows = max(1, min(padded, _SCORES // padded))
    for head in range(0, heads, together):
        some = slice(head, head + together)
        seen, values = key[some].flatten(0, 1).transpose(1, 2), value[some].flatten(0, 1)
        for row in range(0, padded, rows):
            part = slice(row, row + rows)
            asking = query[some, :, part].flatten(0, 1)
            scores = _MEMORY.room("scores", *asking.shape[:2], padded)
            torch.baddbmm(_NOTHING, asking, seen, beta=0, alpha=factor, out=scores).exp2_()
            if group.length is None:
                scores.view(-1, texts, asking.shape[1], padded).mul_(group.filled)
            elif group.length < padded:
                scores[:, :, group.length :].zero_()
            torch.bmm(scores, values, out=result[some, :, part].flatten(0, 1))
            torch.sum(scores, -1, out=sums[some, :, part].flatten(0, 1))
    return result, sums
