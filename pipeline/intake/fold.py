"""Folding a batch to one operation a key: Milvus takes no id twice in a request."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.records import Delete, Position, Put


@dataclass(frozen=True, slots=True)
class Folded:
    """A batch after folding."""

    operations: tuple[Put | Delete, ...]
    """One for each key, in order of arrival."""
    resolved: tuple[Position, ...]
    """Positions of the operations folded away; they are finished when the batch's operations are."""


def fold(operations: Sequence[Put | Delete]) -> Folded:
    """Keep one operation a key; applying it gives the same result as applying all of them in turn.

    Of two operations on a key:
    1. Both have a version and the later arrival has the older one: the earlier arrival is kept.
    2. Exactly one has a version: the later arrival is kept and marked `by_arrival`, because it replaces whatever was
       stored before, by version or not.
    3. Otherwise the later arrival is kept, and the mark of the earlier one passes to it.
    """
    by_key: dict[tuple[str | None, str], Put | Delete] = {}
    resolved: list[Position] = []
    for operation in operations:
        key = operation.key
        before = by_key.get(key)
        if before is None:
            by_key[key] = operation
        elif before.version is not None and operation.version is not None and operation.version < before.version:
            resolved.append(operation.position)
        else:
            resolved.append(before.position)
            del by_key[key]  # moves the key to the end: operations are in order of arrival
            incomparable = (before.version is None) != (operation.version is None)
            by_key[key] = replace(operation, by_arrival=True) if before.by_arrival or incomparable else operation
    return Folded(tuple(by_key.values()), tuple(resolved))
