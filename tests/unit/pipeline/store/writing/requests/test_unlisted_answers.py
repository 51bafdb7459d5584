"""A row refused in words that no table lists is found and given up; an outage in such words gives up nothing."""

from collections.abc import Collection, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UnlistedAnswer
from pipeline.store.milvus.api import Row
from pipeline.store.writing.requests.unlisted_answers import UnlistedAnswers, UnlistedPolicy, Verdict
from pipeline.store.writing.requests.upsert_requests import RowGroup, Sent, UpsertRequests, WritePolicy
from tests.support.examples import examples
from tests.support.fakes.milvus import FakeMilvus

WORDS = "json key not supported"
POLICY = UnlistedPolicy(split_after=3, times=4, over_s=60.0, outage_requests=3, unproven_s=600.0)


class Server(FakeMilvus):
    """Takes every row but the bad ones, whose whole request it refuses; and none while it is out of order."""

    def __init__(self, bad: Collection[str] = ()) -> None:
        super().__init__()
        self.bad = set(bad)
        self.broken = False
        self.requests: list[list[str]] = []

    def upsert(self, collection: str, partition: str | None, rows: Sequence[Row]) -> None:
        owners = [row["id"] for row in rows]
        self.requests.append(owners)
        if self.broken or self.bad.intersection(owners):
            raise UnlistedAnswer(f"{WORDS} (code 1702): row {len(self.requests)}")


class Site:
    """One writer's requests on a clock of the test."""

    def __init__(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        self.requests = UpsertRequests[str](server, "docs", WritePolicy(max_bytes=100, unlisted=POLICY))
        monkeypatch.setattr(self.requests, "_unlisted", UnlistedAnswers[tuple[str, str]](POLICY, lambda: self.now_s))

    def send(self, owners: Sequence[str]) -> Sent[str] | None:
        """Send one row of each; None where the refusal was raised."""
        return self.send_groups([RowGroup(owner, [{"id": owner}], [1]) for owner in owners])

    def send_groups(self, groups: Sequence[RowGroup[str]]) -> Sent[str] | None:
        """Send these rows; None where the refusal was raised."""
        sent = Sent[str]()
        try:
            self.requests.send("d20261122", groups, sent=sent, touched=set())
        except UnlistedAnswer:
            return None
        return sent


def test_a_request_is_repeated_whole_before_it_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(bad="c")
    site = Site(server, monkeypatch)
    assert [site.send("abcd") for _ in range(POLICY.split_after)] == [None] * POLICY.split_after
    sent = site.send("abcd")
    assert sent is not None
    assert (sent.rows, list(sent.set_aside), sent.refused) == (3, ["c"], {})
    assert server.requests == [*[list("abcd")] * 4, ["a", "b"], ["c", "d"], ["c"], ["d"]]


def test_a_document_refused_alone_while_others_are_accepted_is_refused_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site(Server(bad="x"), monkeypatch)
    outcomes = []
    for number in range(20):
        site.send([f"good {number}"])
        outcomes.append(site.send("x"))
        site.now_s += 15
    alone = [sent for sent in outcomes if sent is not None]
    assert outcomes[: POLICY.split_after] == [None] * POLICY.split_after
    given_up = next(number for number, sent in enumerate(alone) if sent.refused)
    assert [bool(sent.set_aside) for sent in alone[:given_up]] == [True] * given_up
    assert given_up + 1 == POLICY.times
    reason, words = alone[given_up].refused["x"]
    assert reason == "refused_by_milvus"
    assert WORDS in words


def test_words_that_have_refused_a_document_split_the_next_request_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(bad="xy")
    site = Site(server, monkeypatch)
    while (sent := site.send(["x", f"good {site.now_s}"])) is None or not sent.refused:
        site.now_s += 15
    sent = site.send("aby")
    assert sent is not None
    assert (sent.rows, list(sent.set_aside)) == (2, ["y"])


def test_the_least_time_is_kept_though_the_times_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(Server(bad="x"), monkeypatch)
    for number in range(50):
        site.send([f"good {number}"])
        sent = site.send("x")
        assert sent is None or not sent.refused
        site.now_s += POLICY.over_s / 51


def test_alone_in_the_topic_it_is_set_aside_for_a_while_and_then_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(Server(bad="x"), monkeypatch)
    for _ in range(200):
        sent = site.send("x")
        assert sent is None or not sent.refused
        site.now_s += 15
    assert site.send("x") is None, "as an outage: the worker waits, and ends if the server answers other calls"


@examples(3)
@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, 30), min_size=1, max_size=8), st.floats(0, 300)), min_size=1, max_size=60
    ),
    st.lists(st.sets(st.integers(0, 30), min_size=1), max_size=5),
)
def test_an_outage_refuses_nothing(batches: list[tuple[set[int], float]], before: list[set[int]]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        server = Server()
        site = Site(server, monkeypatch)
        for batch in before:
            assert site.send([str(number) for number in batch]) is not None
        server.broken = True
        for batch, seconds in batches:
            sent = site.send([str(number) for number in sorted(batch)])
            assert sent is None or (not sent.refused and sent.set_aside.keys() == {str(number) for number in batch})
            site.now_s += seconds
        # What costs calls is bounded: only the first requests are split.
        splits = {tuple(request) for request in server.requests if len(request) > 1}
        assert len(server.requests) <= len(batches) * 16 + 100 * len(splits)
        server.broken = False
        for batch, _ in batches:
            sent = site.send([str(number) for number in sorted(batch)])
            assert sent is not None
            assert sent.rows == len(batch)


@examples(3)
@given(st.sets(st.integers(0, 19), max_size=19), st.integers(1, 7))
def test_exactly_the_bad_rows_are_refused(bad: set[int], size: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        site = Site(Server(bad={str(number) for number in bad}), monkeypatch)
        waiting = [[str(number) for number in range(start, min(20, start + size))] for start in range(0, 20, size)]
        stored, refused = set[str](), set[str]()
        for round_number in range(100):
            again = []
            for batch in waiting:
                sent = site.send(batch)
                if sent is None:
                    again.append(batch)
                    continue
                refused |= sent.refused.keys()
                stored |= set(batch) - sent.refused.keys() - sent.set_aside.keys()
                again += [list(sent.set_aside)] if sent.set_aside else []
            # What shows that the server works: other documents of the topic.
            site.send([f"other {round_number}"])
            waiting = again
            site.now_s += 15
        assert not waiting
        assert refused == set(map(str, bad))
        assert stored == {str(number) for number in range(20)} - refused


def test_verdicts_are_for_one_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = UnlistedAnswers[str](POLICY, lambda: 0.0)
    assert answers.refused(["a", "b"], WORDS, part=True) is Verdict.SPLIT
    assert answers.refused(["a"], WORDS, part=True) is Verdict.SET_ASIDE
    assert answers.refused(["c"], WORDS, part=False) is Verdict.REPEAT


def test_a_bad_part_of_a_document_of_several_requests_is_given_up_though_the_others_are_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site(Server(bad={"large 1"}), monkeypatch)
    large = RowGroup("large", [{"id": "large 0"}, {"id": "large 1"}], [80, 80])
    for _ in range(20):
        sent = site.send_groups([large, RowGroup("good", [{"id": "good"}], [1])])
        site.now_s += 15
        if sent is not None and sent.refused:
            break
    assert sent is not None
    assert list(sent.refused) == ["large"]
