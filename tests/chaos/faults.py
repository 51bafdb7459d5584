"""What each fault does when its time has come, and how it is undone."""

import time
from collections.abc import Callable

from tests.chaos.proxy import Fault
from tests.chaos.report import Report, say
from tests.chaos.schedule import WHOLE_SYSTEM, Event
from tests.chaos.stage import SESSION_S, WORKERS, Stage
from tests.chaos.workers import Slot
from tests.support.waiting import eventually


class Faults:
    """Strikes and heals; `outages` are the times (monotonic) in which a fault hit everybody.

    `look` is called between the end of every worker at once and the start of the next ones.
    """

    def __init__(self, stage: Stage, report: Report, look: Callable[[], None]) -> None:
        self._stage = stage
        self._report = report
        self._look = look
        self._workers = stage.workers
        self._under_way: list[tuple[float, Event, Slot]] = []
        self._leaving: set[int] = set()
        self.outages: list[tuple[float, float]] = []

    def begin(self, event: Event) -> None:
        """The fault strikes: the worker it names, or where none runs there the next one."""
        slot = self._target(event)
        if slot is None:
            say(f"  nobody to strike: {describe(event, None)}")
            return
        say(f"  {describe(event, slot)}")
        if event.kind == "dead letters refused" and not self._stage.refuse_letters(yes=True):
            say("  the broker does not answer")
            return
        self._strike(event, slot)
        now = time.monotonic()
        if event.kind in WHOLE_SYSTEM:
            self.outages.append((now - 1.0, now + event.seconds + 2 * SESSION_S))
        self._report.survived[event.kind] += 1
        self._under_way.append((now + event.seconds, event, slot))

    def _target(self, event: Event) -> Slot | None:
        slots = self._workers.slots[event.slot :] + self._workers.slots[: event.slot]
        running = [slot for slot in slots if slot.running and slot.number not in self._leaving]
        match event.kind:
            case "add worker":
                return next((slot for slot in slots if slot.process is None), None)
            case "remove worker":
                return running[0] if len(running) > 1 else None
            case "freeze worker":
                return next((slot for slot in running if not slot.frozen), None)
            case "kill worker" | "delay" | "blackhole" | "reset" | "cut replies":
                return running[0] if running else None
        return slots[0]

    def _strike(self, event: Event, slot: Slot) -> None:
        match event.kind:
            case "kill worker":
                self._workers.kill(slot)
            case "freeze worker":
                self._workers.freeze(slot)
            case "add worker":
                self._workers.start(slot)
            case "remove worker":
                self._leaving.add(slot.number)
                self._workers.remove(slot)
            case "delay" | "blackhole" | "reset" | "cut replies":
                slot.inject(event.link, _fault(event))
            case "flush refused":
                self._workers.refusing.touch()
            case "kill broker":
                self._stage.broker.kill()
            case "kill milvus":
                self._stage.milvus.kill()
                self._stage.milvus.launch()
            case "kill everything":
                for each in self._workers.slots:
                    self._workers.kill(each)
                self._look()

    def pass_time(self, now: float) -> None:
        """Undo what has lasted long enough; replace a worker that ended by itself."""
        over = [each for each in self._under_way if each[0] <= now]
        self._under_way = [each for each in self._under_way if each[0] > now]
        for _, event, slot in over:
            self._undo(event, slot)
        self.reap()

    def _undo(self, event: Event, slot: Slot) -> None:
        match event.kind:
            case "kill worker" | "remove worker" | "kill everything":
                self.fill()
            case "freeze worker":
                self._workers.thaw(slot)
            case "delay" | "blackhole" | "reset" | "cut replies":
                slot.inject(event.link, Fault())
            case "flush refused":
                self._workers.refusing.unlink(missing_ok=True)
            case "dead letters refused":
                self._stage.refuse_letters(yes=False)
            case "kill broker":
                self._stage.broker.launch()

    def heal(self) -> None:
        """Undo everything; afterwards the servers answer and there are workers."""
        say("healing everything")
        for _, event, slot in self._under_way:
            self._undo(event, slot)
        self._under_way.clear()
        self._stage.broker.await_ready()
        self._stage.milvus.await_ready()
        for slot in self._workers.slots:
            self._workers.thaw(slot)
            slot.heal()
        self._workers.refusing.unlink(missing_ok=True)
        eventually(
            lambda: self._stage.refuse_letters(yes=False), within=60, what="the dead-letter topic taking records"
        )
        self.reap()
        self.fill()

    def reap(self) -> None:
        """Start another worker where one ended that nobody had asked to."""
        for slot in self._workers.reap(self._leaving):
            say(f"  {slot.name} has ended; another one starts")
            self._workers.start(slot)

    def remove_all(self, within: float) -> None:
        """SIGTERM to every worker; what still runs after `within` seconds is told as unexpected."""
        for slot in self._workers.slots:
            self._leaving.add(slot.number)
            self._workers.remove(slot)
        deadline = time.monotonic() + within
        while any(slot.running for slot in self._workers.slots) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._workers.reap(self._leaving)
        self._workers.unexpected += [f"{slot.name} did not end" for slot in self._workers.slots if slot.running]

    def fill(self) -> None:
        """There are to be so many workers again."""
        for slot in self._workers.slots:
            if sum(each.running for each in self._workers.slots) >= WORKERS:
                return
            if slot.process is None:
                self._workers.start(slot)


def _fault(event: Event) -> Fault:
    match event.kind:
        case "delay":
            return Fault("delay", (0.05, 0.05 + 1.95 * event.number))
        case "cut replies":
            return Fault("cut", after_bytes=int(event.number * 2000))
        case "reset":
            return Fault("reset")
    return Fault("blackhole")


def describe(event: Event, slot: Slot | None) -> str:
    """For the log; the slot it was meant for, unless told which one it strikes."""
    number = event.slot if slot is None else slot.number
    where = {
        "kill worker": f" in slot {number}",
        "freeze worker": f" in slot {number}",
        "remove worker": f" in slot {number}",
        "delay": f" in slot {number}, {event.link}",
        "blackhole": f" in slot {number}, {event.link}",
        "reset": f" in slot {number}, {event.link}",
        "cut replies": f" in slot {number}, {event.link}",
    }.get(event.kind, "")
    return f"{event.kind}{where}" + (f" for {event.seconds:.1f} s" if event.seconds else "")
