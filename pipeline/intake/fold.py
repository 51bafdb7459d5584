"""Folding a batch to one operation a key: Milvus takes no id twice in a request."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.order import compare, rank_of
from pipeline.records import Delete, Position, Put


@dataclass(frozen=True, slots=True)
class Folded:
    """A batch after folding."""

    operations: tuple[Put | Delete, ...]
    """One for each key, in order of arrival."""
    resolved: tuple[Position, ...]
    """Positions of the operations folded away; they are finished when the batch's operations are."""


def fold(operations: Sequence[Put | Delete]) -> Folded:
    """Keep the newest operation of each key; applying it gives the same result as applying all of them in turn.

    It carries the rank of all of them (see `pipeline.order`): a record without version that was folded away still
    separates the versions before and after it.
    """
    by_key: dict[tuple[str | None, str], Put | Delete] = {}
    resolved: list[Position] = []
    for operation in operations:
        key = operation.key
        before = by_key.get(key)
        if before is None:
            by_key[key] = operation
            continue
        order, rank, _ = compare(rank_of(before), rank_of(operation))
        newer, older = (before, operation) if order < 0 else (operation, before)
        resolved.append(older.position)
        if order >= 0:
            del by_key[key]  # moves the key to the end: operations are in order of arrival
        by_key[key] = newer if rank == rank_of(newer) else replace(newer, rank=rank)
    return Folded(tuple(by_key.values()), tuple(resolved))
