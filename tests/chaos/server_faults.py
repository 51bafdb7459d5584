"""Faults of Kafka and Milvus themselves: killed, stopped, set back, without room on the disk."""

import time

from tests.chaos.injection import HOLD_FLUSHES
from tests.chaos.report import say
from tests.chaos.schedule import Event
from tests.chaos.stage import Stage

_LOST_S = 8.0
"""The most that a power loss takes back, in seconds; less than the interval of flushes."""


class ServerFaults:
    """Strikes the servers of a stage, and brings them back."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._broker = stage.broker
        self._milvus = stage.milvus

    def strike(self, event: Event) -> None:
        """Begin the fault."""
        match event.kind:
            case "freeze broker":
                self._broker.freeze()
            case "freeze milvus":
                self._milvus.freeze()
            case "kill broker":
                self._broker.kill()
            case "kill milvus":
                self._milvus.kill()
                self._milvus.launch()
            case "power loss of milvus":
                self._lose_power(1.0 + (_LOST_S - 1.0) * event.number)
            case "disk full: kafka":
                self._broker.fill_disk()

    def undo(self, event: Event) -> None:
        """End the fault."""
        match event.kind:
            case "freeze broker":
                self._broker.thaw()
            case "freeze milvus":
                self._milvus.thaw()
            case "kill broker":
                self._broker.launch()
            case "disk full: kafka":
                self._broker.free_disk()

    def _lose_power(self, seconds: float) -> None:
        """Take Milvus back to what it had `seconds` ago, and with it only what no flush has made durable.

        No answer of a flush reaches a worker from before the copy until the end of the server. So whatever a worker
        knows to be flushed is in the copy, and what was acknowledged after the copy is gone.
        """
        switches, copy = self._stage.workers.switches, self._stage.folder / "snapshot"
        switches.turn(HOLD_FLUSHES, on=True)
        try:
            time.sleep(0.5)  # an answer on its way when the switch was turned is there by now
            self._milvus.snapshot(copy)
            time.sleep(seconds)
            self._milvus.kill()
            self._milvus.restore(copy)
            self._milvus.launch()
        finally:
            switches.turn(HOLD_FLUSHES, on=False)
        say(f"  Milvus has lost what it acknowledged in {seconds:.1f} s")
