"""The Kafka of a contract: the fake, and a real one."""

from collections.abc import Iterator

import pytest

from tests.support.rigs.kafka import FakeRig, RealRig, Rig


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.servers)])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Levers for either; what the real one leaves behind is removed."""
    if request.param == "fake":
        yield FakeRig()
        return
    real = RealRig(request.getfixturevalue("kafka_bootstrap"))
    yield real
    real.close()
