"""One worker's connection to a Milvus in memory that several workers share: its own lease, and its own faults."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

from pipeline.errors import OutcomeUnknown, Unavailable
from pipeline.store.milvus.api import Row
from pipeline.store.milvus.write_lease import Lease, LeftS
from tests.support.fakes.milvus import CALL_S, FakeMilvus

Fault = Literal["away", "lost", "crash before", "crash after", "crash before its effect"]
"""Away: no effect. Lost: the effect without the reply. A crash ends the process; the last kind's effect comes later."""


class Crash(BaseException):
    """The process is gone: nothing after this line runs."""


class FaultyMilvus:
    """`MilvusApi` that meets a fault at one call.

    `on_call` is called before every call is sent, `on_effect` after every change.
    """

    def __init__(self, milvus: FakeMilvus, on_call: Callable[[], None], on_effect: Callable[[], None]) -> None:
        self._milvus = milvus
        self._on_call = on_call
        self._on_effect = on_effect
        self._lease = Lease()
        self._left_s = math.inf
        self._fault: Fault | None = None
        self._calls_left = 0
        self._late: list[Callable[[], None]] = []
        self._lease.bind(lambda: self._left_s)

    def fail_at(self, call: int, fault: Fault | None) -> None:
        """The call of this number from now on, counted from 0, meets the fault; None: no call does."""
        self._calls_left, self._fault = call, fault

    def fence(self, left_s: LeftS) -> None:
        self._lease.bind(left_s)

    def unfenced(self) -> AbstractContextManager[None]:
        return self._lease.waived()

    def lease_ends(self) -> None:
        """From now on another worker may own what this one does."""
        self._left_s = -math.inf

    def lease_begins(self) -> None:
        """The worker owns again what it is given."""
        self._left_s = math.inf

    @property
    def leased(self) -> bool:
        """Whether the lease has not ended."""
        return self._left_s > 0

    def late_effects(self) -> None:
        """What was on its way when the process ended takes effect now."""
        late, self._late = self._late, []
        for effect in late:
            effect()
            self._on_effect()

    def upsert(self, collection: str, partition_name: str | None, rows: Sequence[Row]) -> None:
        self._lease.bounded(CALL_S)
        self._change(partial(self._milvus.upsert, collection, partition_name, rows))

    def delete(self, collection: str, partition_name: str | None, ids: Sequence[str]) -> None:
        self._lease.bounded(CALL_S)
        self._change(partial(self._milvus.delete, collection, partition_name, ids))

    def create_partition(self, collection: str, partition_name: str) -> None:
        self._change(partial(self._milvus.create_partition, collection, partition_name))

    def query(self, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        self._read()
        return self._milvus.query(*arguments, **options)

    def instant(self) -> int | None:
        self._read()
        return self._milvus.instant()

    def partitions(self, collection: str) -> list[str]:
        self._read()
        return self._milvus.partitions(collection)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._milvus, name)

    def _read(self) -> None:
        self._on_call()
        fault = self._next_fault()
        if fault in ("away", "lost"):
            raise Unavailable("away")
        if fault is not None:
            raise Crash

    def _change(self, effect: Callable[[], None]) -> None:
        self._on_call()
        match self._next_fault():
            case "away":
                raise Unavailable("away")
            case "crash before":
                raise Crash
            case "crash before its effect":
                self._late.append(effect)
                raise Crash
            case "crash after":
                self._finish(effect)
                raise Crash
            case "lost":
                self._finish(effect)
                raise OutcomeUnknown("the reply is lost")
            case None:
                self._finish(effect)

    def _finish(self, effect: Callable[[], None]) -> None:
        effect()
        self._on_effect()

    def _next_fault(self) -> Fault | None:
        if self._fault is None:
            return None
        self._calls_left -= 1
        if self._calls_left >= 0:
            return None
        fault, self._fault = self._fault, None
        return fault
