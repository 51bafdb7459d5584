"""The start of the commands that load a model: what fails before it is loaded, and a signal while it is."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from consumers.cli.search.local import local_search
from consumers.cli.serve import run as serve
from consumers.config import Settings, load_settings
from pipeline.errors import Unavailable, UsageError
from tests.support.fakes.milvus import FakeMilvus
from tests.support.processes import running

# A command whose connections and checks succeed, and whose model never finishes loading.
LOADING = """
import signal, sys, threading
from contextlib import contextmanager
from consumers.wiring import connections, documents, start_checks
from tests.support.fakes.milvus import FakeMilvus

@contextmanager
def connected(*_, **__):
    yield FakeMilvus()

def load_for_ever(_, **_options):
    print('{"loading": true}', flush=True)
    threading.Event().wait()

connections.milvus, documents.load_embedder = connected, load_for_ever
start_checks.check_ingest = start_checks.check_search = lambda *_, **__: None

# Of a process in the background a shell lets SIGINT be ignored; nobody interrupts that one.
signal.signal(signal.SIGINT, signal.default_int_handler)

from consumers.cli.app import main
main()
"""
NOWHERE = ["--set", "telemetry.port=0", "--set", "query.port=0"]


@pytest.fixture
def no_model() -> Settings:
    return load_settings(None, {}, ["embedding.model=there/is-none", "milvus.collection=news", "query.port=0"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", [["ingest"], ["embed", "a text"], ["search", "a text"], ["serve"]])
def test_a_signal_ends_the_loading_of_a_model(command: list[str], number: signal.Signals, tmp_path: Path) -> None:
    # Python itself is ended by SIGTERM where nothing has to be put in order.
    own_code = 128 + number if command[0] == "ingest" or number == signal.SIGINT else -number
    with running(["-c", LOADING, *command, *NOWHERE], tmp_path / "log", {"PYTHONPATH": os.getcwd()}) as process:
        assert process.json_line(within=60) == {"loading": True}
        assert process.end(number) == own_code
        assert "Traceback" not in process.errors()


def _signalled(code: str) -> subprocess.CompletedProcess[str]:
    start = """
        import os, signal
        from consumers.cli.common.signals import StopSignals
        stop = StopSignals()
    """
    program = textwrap.dedent(start) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_a_signal_ends_the_start_and_closes_what_is_open() -> None:
    ran = _signalled("""
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            print("goes on")
        finally:
            print("closed")
    """)
    assert (ran.returncode, ran.stdout, ran.stderr) == (128 + signal.SIGTERM, "closed\n", "")


def test_a_signal_whose_exception_was_caught_ends_the_start_at_its_end() -> None:
    ran = _signalled("""
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except SystemExit:
            print("caught")
        stop.end_in_order()
        print("goes on")
    """)
    assert (ran.returncode, ran.stdout, ran.stderr) == (128 + signal.SIGINT, "caught\n", "")


def test_a_signal_at_work_sets_the_event_and_the_second_ends_the_process() -> None:
    ran = _signalled("""
        stop.end_in_order()
        assert not stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        print(stop.is_set(), flush=True)
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            print("closed")
    """)
    assert (ran.returncode, ran.stdout, ran.stderr) == (128 + signal.SIGINT, "True\n", "")


def test_a_signal_at_work_ends_the_loading_that_follows() -> None:
    ran = _signalled("""
        stop.end_in_order()
        os.kill(os.getpid(), signal.SIGTERM)
        stop.end_at_once()
        print("loads")
    """)
    assert (ran.returncode, ran.stdout) == (128 + signal.SIGTERM, "")


def test_a_missing_collection_fails_a_search_before_its_model_is_loaded(milvus: FakeMilvus, no_model: Settings) -> None:
    missing = pytest.raises(Unavailable, match="the collection news does not exist yet")
    with local_search(no_model, {"query": "q"}) as ask, missing:
        ask()


def test_a_taken_port_fails_a_query_worker_before_its_model_is_loaded(milvus: FakeMilvus) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"cannot listen on query\.host 127\.0\.0\.1, query\.port {port}"):
            serve(load_settings(None, {}, ["embedding.model=there/is-none", f"query.port={port}"]))


def test_without_a_collection_a_query_worker_loads_its_model(milvus: FakeMilvus, no_model: Settings) -> None:
    with pytest.raises(UsageError, match=r"embedding\.model"):
        serve(no_model)
