"""A delete that a compacted topic may have forgotten before it was read stops the reader; nothing else does."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.kafka.groups.commits import commit_text, read_commit
from consumers.kafka.positions.compaction import CompactionWatch
from consumers.kafka.positions.remembered import AcceptableGap
from tests.support.examples import examples

NAME = ("docs", 0)
RETENTION_MS = 86_400_000
HOUR_MS = 3_600_000


@dataclass
class Log:
    """One Kafka partition of a compacted topic, and one reader of it. Every record is a delete."""

    now_ms: int = 1_795_000_000_000
    appended_ms: list[int] = field(default_factory=list)
    position: int = 0
    committed: int = 0
    metadata: str = "topic id"
    late: bool = False
    """A delete was read, or is still unread, later than Kafka keeps it for certain."""

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin at the committed offset, as at an assignment."""
        self.watch = CompactionWatch(lambda: self.now_ms)
        self.watch.configure({NAME[0]: RETENTION_MS})
        self.position = self.committed
        commit = read_commit(self.committed, self.metadata, -1)
        self._look()
        self.watch.check_commit(NAME, commit.offset, commit.read_to_ms, len(self.appended_ms))
        self.watch.begin(NAME, commit.offset, commit.read_to_ms, len(self.appended_ms))

    def append(self, count: int) -> None:
        self.appended_ms += [self.now_ms] * count

    def read(self, count: int) -> None:
        until = min(len(self.appended_ms), self.position + count)
        self.late |= any(self.now_ms - at > RETENTION_MS for at in self.appended_ms[self.position : until])
        self.position = until

    def observe(self) -> None:
        self._look()
        ends, committed = {NAME: len(self.appended_ms)}, {NAME: self.committed}
        if self.watch.observe(ends, committed, lambda _: self.position, self.now_ms):
            self.commit(self.committed)

    def commit(self, offset: int) -> None:
        self.metadata = commit_text("topic id", "", self.watch.read_to_ms(NAME, offset))
        self.committed = offset

    def _look(self) -> None:
        unread = self.appended_ms[self.position :]
        self.late |= any(self.now_ms - at > RETENTION_MS for at in unread)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 5)),
        st.tuples(st.just("read"), st.integers(1, 20)),
        st.tuples(st.just("wait"), st.sampled_from([1_000, HOUR_MS, 10 * HOUR_MS, 30 * HOUR_MS])),
        st.tuples(st.just("commit"), st.integers(0, 3)),
        st.tuples(st.just("observe"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=60,
)


def run(log: Log, steps: Sequence[tuple[str, int]]) -> bool:
    """Do the steps; whether the reader was stopped."""
    try:
        for step, amount in steps:
            match step:
                case "append":
                    log.append(amount)
                case "read":
                    log.read(amount)
                case "wait":
                    log.now_ms += amount
                case "commit":
                    log.commit(max(log.committed, log.position - amount))
                case "observe":
                    log.observe()
                case _:
                    log.start()
        log.observe()
    except AcceptableGap:
        return True
    return False


@examples(40)
@given(STEPS)
def test_no_reader_goes_on_after_a_delete_it_may_have_missed(steps: list[tuple[str, int]]) -> None:
    log = Log()
    log.observe()
    stopped = run(log, steps)
    assert stopped or not log.late


def test_what_was_late_is_noticed_though_it_is_read_by_now() -> None:
    log = Log()
    log.append(1)
    log.now_ms += HOUR_MS
    log.observe()
    log.now_ms += 30 * HOUR_MS
    log.read(1)
    with pytest.raises(AcceptableGap):
        log.observe()


@examples(10)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=150))
def test_a_reader_that_keeps_up_is_never_stopped(rounds: list[tuple[int, int, bool]]) -> None:
    log = Log()
    log.append(3)
    for appended, kept_back, restart in rounds:
        log.append(appended)
        log.read(100)
        log.observe()
        log.commit(max(log.committed, log.position - kept_back))
        log.now_ms += 10 * 60_000
        if restart:
            log.start()
    assert not log.late


def test_an_idle_topic_that_goes_on_after_a_year_stops_nobody() -> None:
    log = Log()
    log.append(1)
    log.read(1)
    log.commit(1)
    for _ in range(24 * 365):
        log.now_ms += HOUR_MS
        log.observe()
    log.append(1)
    log.start()
    log.now_ms += 24 * 365 * HOUR_MS
    log.read(1)
    with pytest.raises(AcceptableGap, match=r"docs/0: the topic is compacted, .* 86,400 s .* --accept-gap"):
        log.observe()


def test_a_topic_without_records_since_the_commit_stops_nobody() -> None:
    log = Log()
    log.append(1)
    log.read(1)
    log.observe()
    log.commit(1)
    log.now_ms += 1000 * RETENTION_MS
    log.start()
    log.observe()
    log.append(1)
    log.read(1)
    log.observe()


def test_a_first_start_has_as_long_as_kafka_keeps_deletes() -> None:
    log = Log()
    log.append(1000)
    log.now_ms += 1000 * RETENTION_MS
    log.start()
    for _ in range(23):
        log.now_ms += HOUR_MS
        log.read(10)
        log.observe()
        log.commit(log.position)
        log.start()
    log.now_ms += 2 * HOUR_MS
    with pytest.raises(AcceptableGap):
        log.start()


def test_commits_of_a_former_version_and_of_other_topics_are_understood() -> None:
    assert read_commit(7, "an id", 3).topic_id == "an id"
    assert read_commit(7, "", -1).read_to_ms is None
    assert read_commit(7, commit_text("an id", "", None), -1) == read_commit(7, "an id", -1)
    assert read_commit(7, commit_text("an id", "", 12), 3).read_to_ms == 12
    assert read_commit(7, commit_text("an id", "", 12), 3).topic_id == "an id"
    assert read_commit(7, "v2;an id;collection;x", 3).read_to_ms is None
    watch = CompactionWatch(lambda: 0)
    watch.begin(NAME, 0, None, 5)
    assert watch.read_to_ms(NAME, 3) is None
