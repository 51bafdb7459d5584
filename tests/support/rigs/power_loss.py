"""Loss of what Milvus had acknowledged and not flushed: its machine has lost power."""

from collections.abc import Callable, Mapping
from typing import Any

from tests.support.fakes.milvus import FakeMilvus

Row = dict[str, Any] | None
Place = tuple[str, str, str]
"""Collection, Milvus partition and id of a row."""


class PowerLoss:
    """Remembers what every row was since the last flush, and can put any row back to any of that."""

    def __init__(self, milvus: FakeMilvus) -> None:
        self._milvus = milvus
        self._earlier: dict[Place, list[Row]] = {}
        milvus.on_write.append(self._remember)

    def flushed(self) -> None:
        """Everything written so far is durable."""
        self._earlier.clear()

    def strike(self, choose: Callable[[Place, int], int]) -> None:
        """Put each row back; `choose(place, n)` names one of its n states since the flush, n - 1 for the newest."""
        for place, states in self._earlier.items():
            choice = choose(place, len(states) + 1)
            if choice < len(states):
                self._milvus.put_back(*place, states[choice])
        self._earlier.clear()

    def _remember(self, collection: str, partition: str, before: Mapping[str, Row]) -> None:
        for identifier, row in before.items():
            self._earlier.setdefault((collection, partition, identifier), []).append(row)
