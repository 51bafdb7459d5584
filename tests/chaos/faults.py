"""What each fault does when its time has come, and how it is undone."""

import time
from collections.abc import Callable

from tests.chaos.injection import HOLD_FLUSHES, LIMIT_WRITES, REFUSE_FLUSHES
from tests.chaos.profile import SESSION_S
from tests.chaos.proxy import Fault
from tests.chaos.report import Report, say
from tests.chaos.schedule import BROKER, FLUSHES, LINKS, MILVUS, WHOLE_SYSTEM, Event, Kind
from tests.chaos.server_faults import ServerFaults
from tests.chaos.stage import Stage
from tests.chaos.workers import Slot
from tests.support.waiting import eventually

_REMOVED_S = 45.0
"""Within this time a worker that is asked to leave has left, or is killed."""
_GROUPS: tuple[frozenset[Kind], ...] = (BROKER, MILVUS, FLUSHES)
"""Of each at most one is on at a time."""
_GREAT: frozenset[Kind] = frozenset({"kill broker", "kill milvus", "power loss of milvus", "disk full: kafka"})
"""They end a lesser one of their group."""


class Faults:
    """Strikes and heals; `outages` are the times (monotonic) in which a fault hit everybody.

    `compare` is called between the end of every worker at once and the start of the next ones.
    """

    def __init__(self, stage: Stage, report: Report, compare: Callable[[], None]) -> None:
        self._stage = stage
        self._report = report
        self._compare = compare
        self._workers = stage.workers
        self._main = stage.profile.groups[0]
        self._servers = ServerFaults(stage)
        self._under_way: list[tuple[float, Event, Slot]] = []
        self._leaving: set[int] = set()
        self._to_restart: list[Slot] = []
        self.outages: list[tuple[float, float]] = []

    # --- strike ------------------------------------------------------------------------------------------------------

    def begin(self, event: Event) -> None:
        """The fault strikes: the worker it names, or where none runs there the next one."""
        slot = self._target(event)
        if slot is None or not self._make_room(event):
            say(f"  nothing to strike: {describe(event, None)}")
            return
        say(f"  {describe(event, slot)}")
        began = time.monotonic()
        if not self._strike(event, slot):
            say("  the broker does not answer")
            return
        now = time.monotonic()
        if event.kind in WHOLE_SYSTEM:
            self.outages.append((began - 1.0, now + event.seconds + 2 * SESSION_S))
        self._report.survived[event.kind] += 1
        self._under_way.append((now + event.seconds, event, slot))

    def _make_room(self, event: Event) -> bool:
        """Whether no other fault of its kind is on; the great ones end those."""
        for group in _GROUPS:
            others = [each for each in self._under_way if event.kind in group and each[1].kind in group]
            if others and event.kind not in _GREAT:
                return False
            if any(each[1].kind in _GREAT for each in others):
                return False
            for each in others:
                self._under_way.remove(each)
                self._undo(each[1], each[2])
        return True

    def _target(self, event: Event) -> Slot | None:
        slots = self._workers.slots[event.slot :] + self._workers.slots[: event.slot]
        running = [slot for slot in slots if slot.running and slot.number not in self._leaving]
        of_main = [slot for slot in running if slot.group is self._main]
        found: list[Slot] = slots
        match event.kind:
            case "add worker":
                found = [slot for slot in slots if slot.process is None and slot.group is self._main]
            case "remove worker":
                found = of_main if len(of_main) > 1 else []
            case "freeze worker":
                found = [slot for slot in running if not slot.frozen]
            case "link down in a rebalance":
                found = [slot for slot in of_main if not slot.frozen]
            case "change chunking":
                found = [] if self._to_restart else slots
            case "kill worker" | "delay" | "blackhole" | "reset" | "cut replies":
                found = running
        return found[0] if found else None

    def _strike(self, event: Event, slot: Slot) -> bool:
        """False where the broker would have to answer and does not."""
        match event.kind:
            case "kill worker":
                self._workers.kill(slot)
            case "freeze worker":
                self._workers.freeze(slot)
            case "add worker":
                self._workers.start(slot)
            case "remove worker":
                self._leave(slot)
            case "delay" | "blackhole" | "reset" | "cut replies":
                slot.inject(event.link, _fault(event))
            case "link down in a rebalance":
                self._lose_link_in_a_rebalance(event, slot)
            case "clock jump":
                # Far less than the age of the youngest event time, and than the time deletes are remembered.
                self._workers.switches.shift_clock(slot.place, (event.number - 0.5) * 7200)
            case _:
                return self._strike_all(event)
        return True

    def _strike_all(self, event: Event) -> bool:
        match event.kind:
            case "change chunking":
                self._workers.chunking += 1
                self._to_restart = [each for each in self._workers.of(self._main) if each.running]
            case "replay":
                self._stage.jobs.replay(self._main)
            case "audit":
                self._stage.jobs.audit(self._main)
            case "repair":
                self._repair()
            case "kill everything":
                self._end_everything()
            case _:
                return self._strike_servers(event)
        return True

    def _strike_servers(self, event: Event) -> bool:
        match event.kind:
            case "flush refused":
                self._workers.switches.turn(REFUSE_FLUSHES, on=True)
            case "flush hangs":
                self._workers.switches.turn(HOLD_FLUSHES, on=True)
            case "writes limited":
                self._workers.switches.turn(LIMIT_WRITES, on=True)
            case "dead letters refused":
                return self._stage.refuse_dead_letters(yes=True)
            case "add kafka partitions":
                return self._stage.add_partitions()
            case _:
                self._servers.strike(event)
        return True

    def _lose_link_in_a_rebalance(self, event: Event, slot: Slot) -> None:
        """Take the Kafka link of one member while the group waits for another one that does not come.

        A third one leaves, which begins the rebalance; the member has asked to join when its link is gone.
        """
        others = [each for each in self._workers.of(self._main) if each.running and each is not slot]
        others = [each for each in others if each.number not in self._leaving]
        if len(others) > 1:
            self._workers.freeze(others[1])
        if others:
            self._workers.kill(others[0]) if event.number < 0.3 else self._leave(others[0])
        time.sleep(0.3 + 1.5 * event.number)
        slot.inject("kafka", Fault("blackhole"))

    def _leave(self, slot: Slot) -> None:
        self._leaving.add(slot.number)
        self._workers.remove(slot)

    def _end_everything(self) -> None:
        """kill -9 of whatever works; then what is stored is compared."""
        for each in self._workers.slots:
            self._workers.kill(each)
        self._stage.jobs.kill()
        self._undo_all(BROKER | MILVUS | FLUSHES)
        self._to_restart.clear()
        self._stage.await_servers()
        self._compare()

    def _repair(self) -> None:
        """All workers leave, an audit begins to repair; they come back while it may still be at work."""
        self._undo_all(BROKER | MILVUS | FLUSHES)
        self._to_restart.clear()
        self._stage.await_servers()
        main = self._workers.of(self._main)
        for slot in main:
            self._leave(slot)
        deadline = time.monotonic() + _REMOVED_S
        while any(slot.running for slot in main) and time.monotonic() < deadline:
            time.sleep(0.05)
        for slot in main:
            self._workers.kill(slot)
        self.reap()
        self._leaving -= {slot.number for slot in main}
        self._stage.jobs.repair(self._main)

    # --- undo --------------------------------------------------------------------------------------------------------

    def pass_time(self, now: float) -> None:
        """Undo what has lasted long enough; replace a worker that ended by itself."""
        over = [each for each in self._under_way if each[0] <= now]
        self._under_way = [each for each in self._under_way if each[0] > now]
        for _, event, slot in over:
            self._undo(event, slot)
        self._roll()
        self.reap()

    def _roll(self) -> None:
        """Go on with a change of settings: one worker after the other leaves, and the next one starts in its place."""
        if not self._to_restart:
            return
        slot = self._to_restart[0]
        if slot.process is None:
            self._workers.start(slot)
            self._to_restart.pop(0)
        elif slot.number not in self._leaving:
            self._leave(slot)

    def _undo_all(self, kinds: frozenset[Kind]) -> None:
        over = [each for each in self._under_way if each[1].kind in kinds]
        self._under_way = [each for each in self._under_way if each[1].kind not in kinds]
        for _, event, slot in over:
            self._undo(event, slot)

    def _undo(self, event: Event, slot: Slot) -> None:
        switches = self._workers.switches
        match event.kind:
            case "kill worker" | "remove worker" | "kill everything" | "repair":
                self.fill()
            case "freeze worker":
                self._workers.thaw(slot)
            case "delay" | "blackhole" | "reset" | "cut replies":
                slot.inject(event.link, Fault())
            case "link down in a rebalance":
                slot.inject("kafka", Fault())
                for each in self._workers.of(self._main):
                    self._workers.thaw(each)
                self.fill()
            case "clock jump":
                switches.shift_clock(slot.place, slot.skew_s)
            case "flush refused":
                switches.turn(REFUSE_FLUSHES, on=False)
            case "flush hangs":
                switches.turn(HOLD_FLUSHES, on=False)
            case "writes limited":
                switches.turn(LIMIT_WRITES, on=False)
            case "dead letters refused":
                self._stage.refuse_dead_letters(yes=False)
            case _:
                self._servers.undo(event)

    def heal(self) -> None:
        """Undo everything; afterwards the servers answer and there are workers."""
        say("healing everything")
        for _, event, slot in self._under_way:
            self._undo(event, slot)
        self._under_way.clear()
        for name in (REFUSE_FLUSHES, HOLD_FLUSHES, LIMIT_WRITES):
            self._workers.switches.turn(name, on=False)
        self._stage.await_servers()
        for slot in self._workers.slots:
            self._workers.thaw(slot)
            slot.heal()
        eventually(
            lambda: self._stage.refuse_dead_letters(yes=False), within=60, what="the dead-letter topics taking records"
        )
        while self._to_restart:
            self._roll()
            self.reap()
            time.sleep(0.05)
        self._stage.jobs.finish(300)
        self.reap()
        self.fill()

    # --- workers -----------------------------------------------------------------------------------------------------

    def reap(self) -> None:
        """Start another worker where one ended that nobody had asked to."""
        self._stage.jobs.reap()
        for slot in self._workers.reap(self._leaving):
            say(f"  {slot.name} has ended; another one starts")
            self._workers.start(slot)

    def remove_all(self, within: float) -> None:
        """SIGTERM to every worker; what still runs after `within` seconds is unexpected."""
        for slot in self._workers.slots:
            self._leave(slot)
        deadline = time.monotonic() + within
        while any(slot.running for slot in self._workers.slots) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._workers.reap(self._leaving)
        self._workers.unexpected += [f"{slot.name} did not end" for slot in self._workers.slots if slot.running]

    def fill(self) -> None:
        """Every group is to have so many workers again."""
        for group in self._stage.profile.groups:
            slots = self._workers.of(group)
            for slot in slots:
                if slot.process is None and sum(each.running for each in slots) < group.workers:
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
    """For the log; the slot it was meant for, unless it is known which one it strikes."""
    number = event.slot if slot is None else slot.number
    where = ""
    if event.kind in LINKS:
        where = f" in slot {number}, {event.link}"
    elif event.kind in ("kill worker", "freeze worker", "remove worker", "clock jump", "link down in a rebalance"):
        where = f" in slot {number}"
    return f"{event.kind}{where}" + (f" for {event.seconds:.1f} s" if event.seconds else "")
