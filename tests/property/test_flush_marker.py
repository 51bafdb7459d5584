"""Receipts that wait for another worker's flush: never durable too early, whoever flushes and however they overlap."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.records import Position, Receipt
from pipeline.store.flush_marker import FlushMarker, Followed
from pipeline.store.schema import ledger_spec
from tests.support.fake_milvus import FakeMilvus

WORKERS = st.integers(0, 2)
STEPS = st.lists(st.tuples(st.sampled_from(("ack", "look", "begin", "end")), WORKERS), min_size=1, max_size=80)


@dataclass
class Worker:
    """One worker, its calls taken apart so that those of several can be interleaved."""

    marker: FlushMarker
    followed: Followed = field(default_factory=Followed)
    acked: list[Receipt] = field(default_factory=list)
    began: int | None = None


def make_workers() -> list[Worker]:
    milvus = FakeMilvus()
    milvus.create_collection(ledger_spec("docs"))
    return [Worker(FlushMarker(milvus, "docs")) for _ in range(3)]


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_what_is_durable_was_acknowledged_before_a_flush_that_has_finished(steps: list[tuple[str, int]]) -> None:
    workers = make_workers()
    finished: list[int] = []
    for now, (step, number) in enumerate(steps):
        worker = workers[number]
        match step:
            case "ack":
                worker.acked.append(Receipt([Position("t", 0, now)]))
            case "look":
                acked, worker.acked = worker.acked, []
                for receipt in worker.followed.look(worker.marker.read(), acked):
                    acknowledged = receipt.positions[0].offset
                    assert any(began > acknowledged for began in finished), f"acknowledged at {acknowledged}, {steps}"
            case "begin" if worker.began is None:
                worker.began = now
            case "end" if worker.began is not None:
                finished.append(worker.began)
                worker.began = None
                worker.marker.advance()


@given(st.integers(1, 5), st.booleans())
def test_two_flushes_after_a_look_are_enough_and_a_new_flusher_costs_as_many_again(looks: int, changed: bool) -> None:
    first, second, reader = make_workers()
    for _ in range(looks):
        first.marker.advance()
    receipt = Receipt([Position("t", 0, 1)])
    assert reader.followed.look(reader.marker.read(), [receipt]) == []
    first.marker.advance()
    assert reader.followed.look(reader.marker.read(), []) == []
    flusher = second if changed else first
    flusher.marker.advance()
    expected = [] if changed else [receipt]
    assert reader.followed.look(reader.marker.read(), []) == expected
    if changed:
        flusher.marker.advance()
        flusher.marker.advance()
        assert reader.followed.look(reader.marker.read(), []) == [receipt]
    assert len(reader.followed) == 0


def test_nothing_is_durable_while_nobody_has_flushed() -> None:
    reader = make_workers()[0]
    receipt = Receipt([Position("t", 0, 1)])
    assert reader.followed.look(reader.marker.read(), [receipt]) == []
    assert reader.followed.look(reader.marker.read(), []) == []
    assert reader.followed.take() == [receipt]
