"""Windows of batches, and parts of a large batch, two at a time; the result is the same as embedding one by one."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.embedding import HashEmbedder
from pipeline.records import Chunk
from tests.support.fakes.kafka import FakeBroker
from tests.support.rigs.worker import COLLECTION, DEAD_LETTERS, TOPIC, MarkedNan, Rig, document, running, soon

BATCH = 10
"""Records of a batch of the rig."""


class Held(HashEmbedder):
    """Holds each call until the test lets it go on, or makes it fail."""

    def __init__(self) -> None:
        super().__init__("hash:8")
        self.begun: list[str] = []
        """First text of each call."""
        self.ended: list[str] = []
        self._go: dict[str, threading.Event] = {}
        self._errors: dict[str, Exception] = {}
        self._lock = threading.Lock()

    def embed(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        first = chunks[0].text
        with self._lock:
            self.begun.append(first)
            go = self._go.setdefault(first, threading.Event())
        assert go.wait(10)
        if first in self._errors:
            raise self._errors[first]
        vectors = super().embed(chunks)
        self.ended.append(first)
        return vectors

    def go(self, *firsts: str, error: Exception | None = None) -> None:
        for first in firsts:
            with self._lock:
                if error is not None:
                    self._errors[first] = error
                self._go.setdefault(first, threading.Event()).set()


@pytest.fixture
def broker() -> FakeBroker:
    broker = FakeBroker()
    broker.create_topic(TOPIC, 1)
    broker.create_topic(DEAD_LETTERS, 1)
    return broker


@pytest.fixture
def model() -> Held:
    return Held()


@pytest.fixture
def rig(broker: FakeBroker, model: Held) -> Rig:
    return Rig(broker, embedder=model)


def publish(broker: FakeBroker, *batches: str) -> None:
    for name in batches:
        for number in range(BATCH):
            broker.produce(TOPIC, document(f"{number}", f"{name}{number}"))


def publish_one_by_one(broker: FakeBroker, model: Held, *batches: str) -> None:
    """Each is a window of its own: the one before has begun."""
    for name in batches:
        publish(broker, name)
        soon(lambda name=name: f"{name}0" in model.begun)  # type: ignore[misc]


def test_the_later_version_wins_though_it_was_embedded_first(broker: FakeBroker, model: Held, rig: Rig) -> None:
    with running(rig):
        publish_one_by_one(broker, model, "a", "b")
        model.go("b0")
        soon(lambda: model.ended == ["b0"])
        assert rig.texts() == {}, "passed on before the window that came first"
        model.go("a0")
        soon(lambda: rig.committed().get(0) == 2 * BATCH)
    assert rig.texts() == {f"{number}": [f"b{number}"] for number in range(BATCH)}
    assert rig.outcome("stale") == 0


def test_no_third_window_begins_beside_two(broker: FakeBroker, model: Held, rig: Rig) -> None:
    with running(rig):
        publish_one_by_one(broker, model, "a", "b")
        publish(broker, "c", "d")
        soon(lambda: rig.flow.unwritten([(TOPIC, 0)]) == 4 * BATCH)
        assert model.begun == ["a0", "b0"]
        model.go("a0", "b0", "c0", "d0")
        soon(lambda: rig.committed().get(0) == 4 * BATCH)
    assert rig.texts() == {f"{number}": [f"d{number}"] for number in range(BATCH)}


def test_behind_a_window_that_fails_nothing_is_written(broker: FakeBroker, model: Held, rig: Rig) -> None:
    rig.start()
    publish_one_by_one(broker, model, "a", "b")
    publish(broker, "c")
    soon(lambda: rig.flow.unwritten([(TOPIC, 0)]) == 3 * BATCH)
    model.go("b0")
    soon(lambda: model.ended == ["b0"])
    model.go("a0", error=ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        rig.ended()
    assert rig.texts() == {}
    assert rig.committed() == {}
    assert model.begun == ["a0", "b0"], "the third has not begun"


def test_an_assignment_takes_effect_behind_both(broker: FakeBroker, model: Held, rig: Rig) -> None:
    with running(rig):
        soon(rig.source.assignment)
        publish_one_by_one(broker, model, "a", "b")
        listed = len(rig.milvus.calls)
        rig.flow.assign([(TOPIC, 1)])
        model.go("a0")
        soon(lambda: rig.committed().get(0) == BATCH)
        assert ("list_partitions", COLLECTION, 0) not in rig.milvus.calls[listed:]
        model.go("b0")
        publish(broker, "c")
        model.go("c0")
        soon(lambda: rig.committed().get(0) == 3 * BATCH)
    assert rig.texts() == {f"{number}": [f"c{number}"] for number in range(BATCH)}


def test_a_worker_that_is_cut_off_begins_no_other_window(broker: FakeBroker, model: Held) -> None:
    rig = Rig(broker, embedder=model, shutdown_s=0.05)
    rig.start()
    publish_one_by_one(broker, model, "a", "b")
    publish(broker, "c")
    soon(lambda: rig.flow.unwritten([(TOPIC, 0)]) == 3 * BATCH)
    rig.stop.set()
    assert not rig.ended().clean
    model.go("a0", "b0", "c0")
    soon(lambda: not any(thread.name.startswith("ingest-") for thread in threading.enumerate()))
    assert model.begun == ["a0", "b0"]
    assert rig.committed() == {}


def test_a_wait_for_the_batches_before_an_assignment_ends_with_the_flow(
    broker: FakeBroker, model: Held, rig: Rig
) -> None:
    rig.start()
    publish_one_by_one(broker, model, "a")
    rig.flow.assign([(TOPIC, 1)])
    publish(broker, "b")
    soon(lambda: rig.flow.unwritten([(TOPIC, 0)]) == 2 * BATCH)
    model.go("a0", error=ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        rig.ended()
    soon(lambda: not any(thread.name.startswith("ingest-") for thread in threading.enumerate()))
    assert model.begun == ["a0"]


LARGE = 1_000
"""Words of a document of which ten are several of the first windows."""


def large(doc_id: str, name: str, **more: object) -> bytes:
    return document(doc_id, " ".join(f"{name}{number}" for number in range(LARGE)), **more)


def publish_large(broker: FakeBroker) -> None:
    for number in range(BATCH):
        broker.produce(TOPIC, large(f"{number}", f"a{number}_"))


def free(model: Held, rig: Rig) -> None:
    """Let every window go on, in the order in which they begin, until all is committed."""

    def committed() -> bool:
        model.go(*[text for text in list(model.begun) if text not in model.ended])
        return rig.flow.idle

    soon(committed)


def test_the_first_part_of_a_batch_is_stored_while_the_rest_waits_for_the_model(
    broker: FakeBroker, model: Held, rig: Rig
) -> None:
    publish_large(broker)
    with running(rig):
        soon(lambda: len(model.begun) == 2)
        first, second = model.begun
        model.go(first)
        soon(rig.texts)
        stored = set(rig.texts())
        assert 0 < len(stored) < BATCH
        assert second not in model.ended
        soon(lambda: rig.flow.unwritten([(TOPIC, 0)]) == BATCH - len(stored))
        soon(lambda: rig.committed().get(0) == len(stored))
        free(model, rig)
        soon(lambda: rig.committed().get(0) == BATCH)
    assert len(rig.texts()) == BATCH
    assert len(model.begun) > 2
    assert rig.outcome("written") == BATCH


def test_a_part_is_not_written_before_the_part_in_front_of_it(broker: FakeBroker, model: Held, rig: Rig) -> None:
    publish_large(broker)
    with running(rig):
        soon(lambda: len(model.begun) == 2)
        first, second = model.begun
        model.go(second)
        soon(lambda: model.ended == [second])
        assert rig.texts() == {}
        model.go(first)
        free(model, rig)
        soon(lambda: rig.committed().get(0) == BATCH)


def test_a_revocation_holds_for_the_parts_that_are_not_written_yet(broker: FakeBroker, model: Held, rig: Rig) -> None:
    publish_large(broker)
    with running(rig):
        soon(lambda: len(model.begun) == 2)
        model.go(model.begun[0])
        soon(rig.texts)
        soon(lambda: not rig.flow.writing([(TOPIC, 0)]))
        stored = rig.texts()
        rig.flow.revoke([(TOPIC, 0)])
        free(model, rig)
    assert rig.texts() == stored


def test_a_barrier_waits_for_every_part_of_the_batch_before_it(broker: FakeBroker, model: Held, rig: Rig) -> None:
    with running(rig):
        soon(rig.source.assignment)
        publish_large(broker)
        soon(lambda: len(model.begun) == 2)
        listed = len(rig.milvus.calls)
        rig.flow.assign([(TOPIC, 1)])
        publish(broker, "c")
        model.go(model.begun[0])
        soon(rig.texts)
        assert ("list_partitions", COLLECTION, 0) not in rig.milvus.calls[listed:]
        free(model, rig)
        soon(lambda: rig.committed().get(0) == 2 * BATCH)
        assert ("list_partitions", COLLECTION, 0) in rig.milvus.calls[listed:], "read again behind the last part"


def test_a_record_folded_into_a_refused_one_is_decided_again_also_in_a_later_part(broker: FakeBroker) -> None:
    rig = Rig(broker, embedder=MarkedNan("hash:8"))
    broker.produce(TOPIC, large("x", "older"))
    for number in range(BATCH - 2):
        broker.produce(TOPIC, large(f"{number}", f"a{number}_"))
    broker.produce(TOPIC, large("x", "NAN"))
    with running(rig):
        soon(lambda: rig.committed().get(0) == BATCH)
    assert set(rig.texts()) == {"x", *(f"{number}" for number in range(BATCH - 2))}
    assert rig.texts()["x"][0].startswith("older0 ")
    assert (rig.outcome("written"), rig.outcome("folded"), rig.outcome("dead_lettered")) == (BATCH - 1, 0, 1)


@pytest.mark.parametrize("append", [False, True])
def test_parts_leave_what_the_whole_batch_leaves(broker: FakeBroker, append: bool) -> None:
    rig = Rig(broker, append=append)
    publish_large(broker)
    with running(rig):
        soon(lambda: rig.committed().get(0) == BATCH)
    assert {doc_id: len(texts) for doc_id, texts in rig.texts().items()} == {
        f"{number}": len(rig.texts()["0"]) for number in range(BATCH)
    }
    assert rig.outcome("written") == BATCH


def test_a_worker_that_is_cut_off_begins_no_other_part(broker: FakeBroker, model: Held) -> None:
    rig = Rig(broker, embedder=model, shutdown_s=0.05)
    rig.start()
    publish_large(broker)
    soon(lambda: len(model.begun) == 2)
    begun = list(model.begun)
    rig.stop.set()
    assert not rig.ended().clean
    model.go(*begun)
    soon(lambda: not any(thread.name.startswith("ingest-") for thread in threading.enumerate()))
    assert model.begun == begun
    assert rig.committed() == {}
