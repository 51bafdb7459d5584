"""Processes of one run share a server, and it ends with its last user."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from pipeline.errors import Unavailable
from tests.support.servers import SharedServers
from tests.support.waiting import eventually


class Started:
    """A server that notes when it starts and stops."""

    def __init__(self) -> None:
        self.events: list[str] = []

    @contextmanager
    def __call__(self, directory: Path) -> Iterator[str]:
        assert directory.is_dir()
        self.events.append("started")
        yield "host:1"
        self.events.append("stopped")


def address(servers: SharedServers, server: Started) -> str:
    return servers.address("thing", "THING_ADDRESS", None, server)


def test_the_first_user_starts_it_and_the_last_one_ends_it(tmp_path: Path) -> None:
    server = Started()
    first, second = SharedServers(tmp_path), SharedServers(tmp_path)
    assert address(first, server) == address(first, server) == address(second, server) == "host:1"
    closing = threading.Thread(target=first.close)
    closing.start()
    assert server.events == ["started"]
    second.close()
    closing.join(20)
    assert not closing.is_alive()
    assert server.events == ["started", "stopped"]


def test_several_that_need_it_at_once_start_one(tmp_path: Path) -> None:
    server, users = Started(), [SharedServers(tmp_path) for _ in range(8)]
    threads = [threading.Thread(target=address, args=(user, server)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert server.events == ["started"]
    closing = [threading.Thread(target=user.close) for user in users]
    for thread in closing:
        thread.start()
    eventually(lambda: server.events == ["started", "stopped"])


def test_the_environment_names_a_server_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THING_ADDRESS", "elsewhere:2")
    server = Started()
    servers = SharedServers(tmp_path)
    assert address(servers, server) == "elsewhere:2"
    servers.close()
    assert server.events == []


def test_no_server_fails_the_test_and_says_what_to_do(tmp_path: Path) -> None:
    def refuse(_: Path) -> AbstractContextManager[str]:
        raise Unavailable("it did not answer within 60 s")

    servers = SharedServers(tmp_path)
    with pytest.raises(pytest.fail.Exception, match="set THING_ADDRESS or repair this: it did not answer"):
        servers.address("thing", "THING_ADDRESS", None, refuse)
    servers.close()
