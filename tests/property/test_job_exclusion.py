"""Jobs and workers of one collection, in virtual time: no request of a job meets the work of a worker."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.kafka import LeaseClock, LiveGroup
from consumers.kafka.groups.live_group import QUIET_S, await_jobs
from pipeline.errors import LeaseExpired, Unavailable, UsageError

seconds = st.floats(0, 3 * QUIET_S)
short = st.floats(0, 0.2)
slow = st.one_of(short, st.floats(0, QUIET_S / 2))


@dataclass
class Time(LeaseClock):
    """A clock that the test moves."""

    at: float = 0.0

    def __post_init__(self) -> None:
        super().__init__(lambda: self.at, lambda: self.at)


@dataclass
class Worker:
    """A member of the live group from `joined` to `left`."""

    joined: float
    stay: float
    asks_after: float
    answer: str
    """What it is told about jobs: the truth, no right to ask, or nothing for a while."""

    @property
    def left(self) -> float:
        return self.joined + self.stay

    def works_from(self, job: "Job") -> float:
        """When it begins to read and write documents."""
        clock = Time(at=self.joined + self.asks_after)
        silent_until = clock.at + 5 if self.answer == "silent" else 0.0

        def active() -> bool:
            if self.answer == "refused":
                raise UsageError("no right to Describe")
            if clock.at < silent_until:
                raise Unavailable("no broker")
            return job.joined <= clock.at < job.left

        class Ended(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                clock.at += timeout or 0.0
                return False

        await_jobs(active, Ended(), lambda: clock.at)
        return clock.at


@dataclass
class Job:
    """A job that reads documents and then changes them, request by request."""

    joined: float
    left: float = float("inf")
    spans: list[tuple[float, float]] = field(default_factory=list)
    """From the read of the documents of a request to the end of that request."""

    def run(self, members: Sequence[Worker], steps: Sequence[tuple[float, float, float]]) -> None:
        """Each step: the pause before a request, how long the question takes, and how long the request would take."""
        clock = Time(at=self.joined)
        taken = 0.0

        def active() -> bool:
            clock.at += taken / 2
            answer = any(member.joined <= clock.at < member.left for member in members)
            clock.at += taken / 2
            return answer

        live = LiveGroup(active, clock)
        absence, read_at = 0, None
        for pause, answer_s, duration in steps:
            clock.at, taken = clock.at + pause, answer_s
            if read_at is None:
                if live.absent():
                    absence, read_at = live.absence, clock.at
                continue
            try:
                left_s = live.left_s(absence)
            except LeaseExpired:
                read_at = None  # a job ends here, or reads again
                continue
            began, clock.at = read_at, clock.at + min(duration, left_s)
            self.spans.append((began, clock.at))
        self.left = clock.at


@settings(max_examples=1500)
@given(
    job_at=seconds,
    workers=st.lists(
        st.builds(Worker, seconds, seconds, short, st.sampled_from(["true", "refused", "silent"])), max_size=4
    ),
    steps=st.lists(st.tuples(st.one_of(short, seconds), slow, st.one_of(short, seconds)), max_size=12),
)
def test_no_request_of_a_job_meets_the_work_of_a_worker(
    job_at: float, workers: list[Worker], steps: list[tuple[float, float, float]]
) -> None:
    job = Job(job_at)
    job.run(workers, steps)
    for worker in workers:
        begins = worker.works_from(job)
        for read, ended in job.spans:
            assert begins >= min(ended, worker.left) or worker.left <= read, (worker, begins, (read, ended))


def test_a_worker_that_finds_no_job_begins_at_once() -> None:
    assert Worker(10, 60, 0.1, "true").works_from(Job(joined=20)) == 10.1


def test_a_worker_begins_as_soon_as_the_job_has_ended_and_at_the_latest_when_its_last_request_has() -> None:
    assert 14 <= Worker(10, 60, 0, "true").works_from(Job(0, left=14)) < 14.5
    assert 30 < Worker(10, 60, 0, "true").works_from(Job(0)) < 32
    assert 30 < Worker(10, 60, 0, "refused").works_from(Job(100)) < 32
    assert 15 <= Worker(10, 60, 0, "silent").works_from(Job(100)) < 15.5


def test_an_absence_goes_on_while_it_is_asked_for_in_time_and_ends_with_a_worker() -> None:
    clock, active = Time(), False
    live = LiveGroup(lambda: active, clock)
    assert live.absent()
    absence = live.absence
    for _ in range(5):
        clock.at += QUIET_S - 1
        assert live.left_s(absence) == QUIET_S
    active = True
    with pytest.raises(LeaseExpired, match="ingest workers have been started"):
        live.left_s(absence)
    active = False
    assert live.absent()
    assert live.absence != absence, "a worker may have written in between"
