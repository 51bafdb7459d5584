"""The command as a process: without standard streams, without memory for torch, stopped, and at its end."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "consumers.cli"]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize(("arguments", "code"), [("config show", 0), ("config lint --set milvus=5", 2), ("status", 3)])
def test_a_command_runs_without_standard_streams(closed: str, arguments: str, code: int) -> None:
    nowhere = "--set kafka.bootstrap_servers=127.0.0.1:1 --set kafka.bootstrap_timeout_ms=100"
    nowhere += " --set milvus.uri=http://127.0.0.1:1"
    line = f'exec "$0" -m consumers.cli {arguments} {nowhere} --set embedding.model=hash:8 {closed}'
    ran = subprocess.run(["sh", "-c", line, sys.executable], capture_output=True, text=True, check=False)
    assert ran.returncode == code
    assert "Traceback" not in ran.stdout + ran.stderr
    if closed == "0<&-":
        assert ran.stdout or ran.stderr


def test_missing_streams_are_opened_in_their_own_places() -> None:
    code = """
        import os, sys
        os.closerange(0, 3)
        sys.stdin = sys.stdout = sys.stderr = None
        from consumers.cli.common.options import open_standard_streams
        open_standard_streams()
        print("nobody reads this", file=sys.stderr)
        sys.stdout.write("nor this")
        assert os.open(os.environ["FILE"], os.O_WRONLY) > 2
    """
    assert python(code, FILE=os.devnull).returncode == 0


@pytest.mark.parametrize(("package", "engine"), [("torch", "torch"), ("openvino", "openvino")])
def test_an_engine_that_cannot_be_loaded_is_one_line(package: str, engine: str, tmp_path: Path) -> None:
    (tmp_path / package).mkdir()
    failing = 'raise ImportError("libcpu.so: failed to map segment from shared object")\n'
    (tmp_path / package / "__init__.py").write_text(failing)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        [*COMMAND, "embed", "text", "--set", f"embedding.engine={engine}"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert "failed to map segment from shared object" in ran.stderr
    assert "memory" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_libraries_report_no_leaks_after_a_worker() -> None:
    code = """
        import triton._C.libtriton  # as loading a model does
        from pipeline.telemetry.process_memory import frozen
        with frozen():
            print("works")
    """
    ran = python(code)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "works\n", "")


def test_sigterm_ends_an_audit_with_its_own_code() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        arguments = ["audit", "--set", "embedding.model=hash:8", "--set", f"milvus.uri={uri}"]
        audit = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        connection, _ = silent.accept()  # it waits for Milvus's answer now
        with connection, audit:
            audit.send_signal(signal.SIGTERM)
            _, errors = audit.communicate(timeout=30)
    assert audit.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors


def test_a_stopped_audit_leaves_nothing_behind(tmp_path: Path) -> None:
    code = """
        import os, signal
        from consumers.audit.workspace import open_workspace
        from consumers.cli.common.signals import exit_on_sigterm
        exit_on_sigterm()
        with open_workspace():
            (folder,) = os.listdir(os.environ["TMPDIR"])
            print(folder, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
    """
    ran = python(code, TMPDIR=str(tmp_path))
    assert ran.stdout.startswith("milvus-stream-audit-")
    assert ran.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--workers", "2", "--max-records", "5"], "--max-records counts the records of one worker"),
        (["--workers", "2", "--adopt"], "--adopt is for one worker"),
        (["--workers", "none"], "--workers none: write a number"),
        (["--supervised", "0"], "--supervised is for the workers"),
        (["--workers", "2", "--set", "telemetry.host=192.0.2.1"], "telemetry.host 192.0.2.1"),
    ],
)
def test_wrong_options_of_several_workers_are_named(options: list[str], says: str) -> None:
    ran = subprocess.run([*COMMAND, "ingest", *options], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith("milvus-stream: ")
    assert says in ran.stderr


def test_a_supervisor_loads_no_model_and_no_client() -> None:
    code = "import sys; import consumers.cli.ingest_workers; print(*sys.modules)"
    loaded = set(python(code).stdout.split())
    assert "uvicorn" in loaded
    assert not {"torch", "transformers", "pymilvus", "kafka", "fastapi"} & loaded


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--version"], "milvus-stream "),
        (["-h"], "Usage: "),
        (["dlq", "list", "-h"], "Usage: "),
        (["topic", "list", "-h"], "List the topics"),
        (["collection", "info", "-h"], "Usage: "),
        (["get", "-h"], "Show a document"),
        (["--help"], "--install-completion"),
    ],
)
def test_what_somebody_tries_first(arguments: list[str], says: str) -> None:
    ran = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert says in ran.stdout
