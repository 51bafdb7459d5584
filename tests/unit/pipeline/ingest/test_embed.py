"""Two windows of batches are embedded at a time; the result is the same as embedding them one after the other."""

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.embedding import HashEmbedder
from pipeline.records import Chunk
from tests.support.fakes.kafka import FakeBroker
from tests.support.rigs.worker import COLLECTION, DEAD_LETTERS, TOPIC, Rig, document, running, soon

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
