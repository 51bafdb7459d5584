"""Of several operations on one key in a batch, only one is applied: Milvus takes no id twice in a request."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.records import Delete, Position, Put


@dataclass(frozen=True, slots=True)
class Folded:
    """What is left of a batch."""

    operations: tuple[Put | Delete, ...]
    """One for each key, in the order in which the operations kept arrived."""
    resolved: tuple[Position, ...]
    """Positions of the operations folded away; they are finished when the batch's kept ones are."""


def fold(operations: Sequence[Put | Delete]) -> Folded:
    """Keep the last operation of each key; the result is that of applying all of them, one after the other.

    The later arrival wins, but where both carry a version an older version arriving later does not. Where one of two
    carries none, so that the later arrival wins whatever was stored before, the one kept says so (`by_arrival`).
    """
    kept: dict[tuple[str | None, str], Put | Delete] = {}
    resolved: list[Position] = []
    for operation in operations:
        key = operation.key
        before = kept.get(key)
        if before is None:
            kept[key] = operation
        elif before.version is not None and operation.version is not None and operation.version < before.version:
            resolved.append(operation.position)
        else:
            resolved.append(before.position)
            del kept[key]  # so that it moves to the end: the order is that of the operations kept
            incomparable = (before.version is None) != (operation.version is None)
            kept[key] = replace(operation, by_arrival=True) if before.by_arrival or incomparable else operation
    return Folded(tuple(kept.values()), tuple(resolved))
