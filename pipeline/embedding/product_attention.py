"""Attention in bfloat16 on a CPU as plain matrix products: two to three times as fast as torch's fused kernel."""

import math
import threading
from collections.abc import Iterator, Sequence

import torch

_STEP = 16
"""Texts are padded to a multiple of it: a length that oneDNN has not seen costs it half a millisecond, for new code."""
_LEAST_TOKENS = 48
"""With fewer, these many calls take longer than the one of the kernel."""
_SCORES = 2**19
"""Scores at a time: more leave the cache of a core."""
_LEAST, _MOST = 2.0**-100, 2.0**126
"""Of a sum of exponentials: below it small ones have become zero. And of what the values then can add up to."""
_NOTHING = torch.zeros(1, 1, 1, dtype=torch.bfloat16)
_SCORE, _RESULT, _SUM = 3, 4, 5
"""Rooms besides those of query, key and value."""


class _Memory(threading.local):
    """Room that a thread uses again and again: new memory of this size would be fetched from the kernel each time."""

    def __init__(self) -> None:
        self._rooms: dict[int, torch.Tensor] = {}

    def room(self, use: int, *shape: int) -> torch.Tensor:
        """Bfloat16 of this shape, holding anything."""
        size = math.prod(shape)
        if use not in self._rooms or self._rooms[use].numel() < size:
            with torch.inference_mode(mode=False):  # else it could not be written to outside of that mode
                self._rooms[use] = torch.empty(size, dtype=torch.bfloat16)
        return self._rooms[use][:size].view(shape)


_MEMORY = _Memory()


def by_products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, target: torch.Tensor, scale: float | None
) -> None:
    """Write into `target` what each text's tokens make of all its tokens; all (texts, heads, length, head size).

    Exponentials are taken of the scores as they are, not of their distance to the largest one, which would cost more
    than both products. Where they leave what bfloat16 holds, torch's own kernel does it again.
    """
    texts, heads, length, size = query.shape
    padded = -(-length // _STEP) * _STEP
    scale = size**-0.5 if scale is None else scale
    worthwhile = texts * length >= _LEAST_TOKENS
    for part in _parts(texts, max(1, _SCORES // (heads * padded * padded))):
        rows = query[part], key[part], value[part]
        if not (worthwhile and _weighed(rows, target[part], padded, scale * math.log2(math.e))):
            target[part].copy_(torch.nn.functional.scaled_dot_product_attention(*rows, scale=scale))


def _weighed(rows: Sequence[torch.Tensor], target: torch.Tensor, padded: int, factor: float) -> bool:
    """Write what the tokens make of each other into `target`; False where it cannot be had in this way."""
    _, heads, length, _ = target.shape
    query, key, value = (_padded(use, row, padded) for use, row in enumerate(rows))
    results, sums = _sum_up(query, key, value, length, factor)
    if not _holds(sums, value):
        return False
    shape = (-1, heads, padded, value.shape[-1])
    torch.div(results.view(shape)[:, :, :length], sums.view(-1, heads, length, 1), out=target)
    return True


def _holds(sums: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether nothing has become zero, infinite or NaN that should not."""
    least, most = torch.aminmax(sums)
    lowest, highest = torch.aminmax(value)
    return least.item() > _LEAST and most.item() * max(1.0, -lowest.item(), highest.item()) < _MOST


def _parts(texts: int, most: int) -> Iterator[slice]:
    """All texts, in numbers that are powers of two: a number that oneDNN has not seen costs as a length does."""
    start = 0
    while start < texts:
        count = 1 << (min(texts - start, most).bit_length() - 1)
        yield slice(start, start + count)
        start += count


def _padded(use: int, rows: torch.Tensor, padded: int) -> torch.Tensor:
    """The rows as (texts * heads, padded, size), with zeros behind each text."""
    texts, heads, length, size = rows.shape
    room = _MEMORY.room(use, texts, heads, padded, size)
    room[:, :, :length].copy_(rows)
    if length < padded:
        room[:, :, length:].zero_()
    return room.view(texts * heads, padded, size)


def _sum_up(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, length: int, factor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values weighed by 2^(factor * score), shape (n, padded, size), and the sums of the weights, shape (n, length).

    Keys behind `length` weigh something, but their values are zero, and the sums leave them out.
    """
    count, padded, _ = query.shape
    result = _MEMORY.room(_RESULT, *value.shape)
    sums = _MEMORY.room(_SUM, count, length)
    heads = max(1, _SCORES // (padded * padded))
    rows = max(1, min(padded, _SCORES // padded))
    for first in range(0, count, heads):
        for row in range(0, length, rows):
            at = slice(first, first + heads), slice(row, row + rows)
            asking = query[at]
            scores = _MEMORY.room(_SCORE, *asking.shape[:2], padded)
            seen = key[at[0]].transpose(1, 2)
            torch.baddbmm(_NOTHING, asking, seen, beta=0, alpha=factor, out=scores).exp2_()
            torch.bmm(scores, value[at[0]], out=result[at])
            torch.sum(scores[:, : length - row, :length], -1, out=sums[at])
    return result, sums
