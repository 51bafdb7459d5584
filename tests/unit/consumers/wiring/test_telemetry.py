"""The port of probes and metrics: a default one gives way, a configured one does not."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import closing

import pytest
from structlog.testing import capture_logs

from consumers.config import Settings, load_settings
from consumers.wiring.telemetry import probe_listener
from pipeline.errors import UsageError


@pytest.fixture
def taken() -> Iterator[int]:
    """A port in use on 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield int(other.getsockname()[1])


def with_default_port(port: int, *sets: str) -> Settings:
    """The settings as loaded, had the port this default."""
    loaded = load_settings(None, {}, sets)
    values = loaded.telemetry.model_dump() | {"port": port}
    telemetry = type(loaded.telemetry).model_construct(loaded.telemetry.model_fields_set, **values)
    return loaded.model_copy(update={"telemetry": telemetry})


@pytest.mark.parametrize("sets", [[], ["telemetry.host=127.0.0.1", "telemetry.log_level=info"]])
def test_a_default_port_in_use_gives_way_to_the_next_free_one(taken: int, sets: list[str]) -> None:
    configured = with_default_port(taken, *sets)
    with capture_logs() as log, closing(probe_listener(configured)) as listener:
        port = listener.getsockname()[1]
        assert taken < port < taken + 256
    assert log == [
        {
            "event": "telemetry.port_in_use",
            "port": taken,
            "taken": port,
            "do": "set telemetry.port to choose one",
            "log_level": "warning",
        }
    ]


@pytest.mark.parametrize("by_environment", [True, False])
def test_a_configured_port_in_use_is_an_error(taken: int, by_environment: bool) -> None:
    environment: Mapping[str, str] = {"MILVUS_STREAM__TELEMETRY__PORT": str(taken)} if by_environment else {}
    sets = [] if by_environment else [f"telemetry.port={taken}"]
    with pytest.raises(UsageError, match=f"telemetry.port {taken}"):
        probe_listener(load_settings(None, environment, sets))


def test_a_free_default_port_is_taken_without_a_word(taken: int) -> None:
    elsewhere = with_default_port(taken, "telemetry.host=127.0.0.2")
    with capture_logs() as log, closing(probe_listener(elsewhere)) as free:
        assert free.getsockname()[1] == taken
    assert log == []


def test_another_error_than_a_port_in_use_is_not_passed_over() -> None:
    with pytest.raises(UsageError, match=r"telemetry.host 192\.0\.2\.1"):
        probe_listener(load_settings(None, {}, ["telemetry.host=192.0.2.1"]))
