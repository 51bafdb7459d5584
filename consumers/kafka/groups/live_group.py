"""The live group of a collection, as a job sees it: a job changes documents only while the group has no members.

The other half of the agreement is in `await_jobs`: a worker that gets Kafka partitions looks for a job first, and if
there is one waits until no request can be under way that the job sent before it could see the worker. Why this excludes
every wrong order is in docs/guarantees.md.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from consumers.kafka.client.lease_clock import NEVER, LeaseClock, suspend_clock
from pipeline.errors import LeaseExpired, MilvusStreamError, UsageError

log = structlog.get_logger(__name__)

QUIET_S = 20.0
"""A request that a job sends after the answer "no members" ends within this time, and a worker waits it out."""
_MARGIN_S = 1.0
"""For clocks of two machines that do not run equally fast."""
_FOLLOW_S = QUIET_S / 5
_ASK_S = 0.25


class LiveGroup:
    """The absence of a group's members, numbered: what was read during one absence is true until that absence ends.

    An absence begins with the answer that the group has no members. It goes on while such answers follow one another
    within QUIET_S: no worker that joined in between has begun to work. Any thread may call it.
    """

    def __init__(self, active: Callable[[], bool], clock: LeaseClock | None = None) -> None:
        """`active` asks the group's coordinator whether the group has members."""
        self._active = active
        self._clock = clock or LeaseClock()
        self._lock = threading.Lock()
        self._asked = NEVER
        """When the last question left that was answered with "no members"; NEVER between two absences."""
        self.absence = 0
        """The number of the present absence, or of the last one."""

    def absent(self) -> bool:
        """Ask whether the group has no members. Raises Unavailable, UsageError."""
        asked = self._clock.beat()
        active = self._active()
        with self._lock:
            if active:
                self._asked = NEVER
                return False
            if self._left_s() <= 0:
                self.absence += 1
                self._asked = asked
            self._asked = max(self._asked, asked)
        return True

    def left_s(self, absence: int) -> float:
        """Ask again; return the seconds from now in which no worker begins to work.

        Raises LeaseExpired if that absence has ended, Unavailable and UsageError if there is no answer.
        """
        absent = self.absent()
        with self._lock:
            if not absent or self.absence != absence:
                raise LeaseExpired(
                    "nothing was written: ingest workers have been started since the documents were read, and they "
                    "may write them by now"
                    if not absent
                    else "nothing was written: Kafka did not say for some time whether ingest workers run, so they "
                    "may have written the documents since those were read"
                )
            return self._left_s()

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Keep asking while an absence goes on, so that it does not end while a batch is embedded."""
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(_FOLLOW_S):
                with self._lock:
                    present = self._left_s() > 0
                try:
                    if present:
                        self.absent()
                except MilvusStreamError as error:
                    log.warning("job.live_group_unknown", why=str(error))

        thread = threading.Thread(target=follow, name="kafka-live-group", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _left_s(self) -> float:
        return self._clock.certain(self._asked) + QUIET_S - self._clock.now()


def await_jobs(active: Callable[[], bool], ended: threading.Event, now: Callable[[], float] = suspend_clock) -> None:
    """Wait until no job can have a request under way that it sent before this worker was a member. Blocks.

    `active` asks whether a job is a member of the collection's group of jobs. Returns at once if none is, after QUIET_S
    at the latest, or when `ended` is set. Without the right to ask, a job is assumed.
    """
    deadline = now() + QUIET_S + _MARGIN_S
    may_ask, logged = True, False
    while now() < deadline and not ended.is_set():
        try:
            if may_ask and not active():
                return
        except UsageError as error:
            may_ask = False
            log.warning("kafka.jobs_unknown", why=str(error), wait_s=QUIET_S, what="allow Describe on this group")
        except MilvusStreamError as error:
            log.warning("kafka.jobs_unknown", why=str(error), what="it is asked again")
        else:
            if may_ask and not logged:
                log.info("kafka.job_runs", wait_s=QUIET_S, what="waiting until its last request is over")
                logged = True
        ended.wait(_ASK_S)
