"""Workers under a supervisor: restarts, ends, signals, what probes and metrics show. Their processes are scripts."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from consumers.supervisor.observation import Observation
from consumers.supervisor.supervised import Supervised
from consumers.supervisor.supervisor import Supervisor, WorkerRefused
from consumers.supervisor.worker import GONE_LIMIT_S
from tests.support.processes import running as process
from tests.support.waiting import eventually

HEAD = """
import http.server, json, os, signal, socket, sys, time
number, folder, descriptor = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
starts = len([name for name in os.listdir(folder) if name.startswith(f"{number}-")])
def started():
    open(os.path.join(folder, f".{number}"), "w").write(str(os.getpid()))
    os.rename(os.path.join(folder, f".{number}"), os.path.join(folder, f"{number}-{starts}"))
"""
WAITS = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
started()
while True: signal.pause()
"""
SERVES = """
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body, status = b"{}", 200
        if self.path == "/metrics":
            body = b"# HELP a_total A.\\n# TYPE a_total counter\\na_total{topic=\\"t\\"} %d.0\\n" % (10 + number)
        if self.path == "/readyz" and os.path.exists(os.path.join(folder, f"away-{number}")):
            body, status = b'{"problems": {"milvus (write)": "away"}}', 503
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=descriptor)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
started()
server.serve_forever()
"""


def scripts(folder: Path, *bodies: str) -> Callable[[Supervised, bool], Sequence[str]]:
    """The command of worker N: the N-th body, or the last one."""

    def command(supervised: Supervised, first: bool) -> Sequence[str]:
        body = bodies[min(supervised.number, len(bodies) - 1)]
        arguments = [str(supervised.number), str(folder), str(supervised.descriptor), str(int(first))]
        return [sys.executable, "-S", "-c", HEAD + body, *arguments]

    return command


@contextmanager
def running(supervisor: Supervisor) -> Iterator[Future[int]]:
    """The supervisor on a thread; killed with its workers at the end if still there."""
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(supervisor.run)
        try:
            yield result
        finally:
            for _ in range(2):
                supervisor.stop(signal.SIGTERM)


def pids(folder: Path, *names: str) -> list[int]:
    """The process ids that these starts (`WORKER-START`) noted."""

    def noted() -> list[int]:
        return [int((folder / name).read_text()) for name in names if (folder / name).exists()]

    return eventually(lambda: found if len(found := noted()) == len(names) else None, within=60, what=f"{names}")


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_signal_ends_all_workers_and_the_whole_is_done(tmp_path: Path) -> None:
    supervisor = Supervisor(2, scripts(tmp_path, WAITS), shutdown_s=60)
    with running(supervisor) as result:
        noted = pids(tmp_path, "0-0", "1-0")
        supervisor.stop(signal.SIGTERM)
        assert result.result(60) == 0
    assert all(gone(pid) for pid in noted)


def test_a_worker_that_dies_is_started_again_and_the_others_run_on(tmp_path: Path) -> None:
    supervisor = Supervisor(2, scripts(tmp_path, WAITS), shutdown_s=60)
    with capture_logs() as log, running(supervisor) as result:
        first, other = pids(tmp_path, "0-0", "1-0")
        os.kill(first, signal.SIGKILL)
        (second,) = pids(tmp_path, "0-1")
        assert second != first
        assert not gone(other)
        assert not (tmp_path / "1-1").exists()
        supervisor.stop(signal.SIGINT)
        assert result.result(60) == 0
    (restarting,) = [entry for entry in log if entry["event"] == "worker.restarting"]
    assert (restarting["worker"], restarting["code"]) == ("0", -signal.SIGKILL)
    assert 0.4 <= restarting["in_s"] <= 1.0


def test_a_worker_that_fails_at_its_start_pauses_longer_each_time(tmp_path: Path) -> None:
    supervisor = Supervisor(1, scripts(tmp_path, "started(); sys.exit(3)"), shutdown_s=60)
    with capture_logs() as log, running(supervisor) as result:
        pids(tmp_path, "0-0", "0-1", "0-2")
        supervisor.stop(signal.SIGTERM)
        assert result.result(60) in (0, 3)  # whether the last one had ended before
    pauses = [entry["in_s"] for entry in log if entry["event"] == "worker.restarting"]
    assert 0.4 <= pauses[0] <= 1.0 <= pauses[1] <= 2.0


@pytest.mark.parametrize(("code", "whole"), [(2, 2), (4, 4), (78, 1)])
def test_an_end_that_no_restart_cures_ends_all_with_its_code(tmp_path: Path, code: int, whole: int) -> None:
    bodies = (WAITS, f"started(); sys.exit({code})")
    supervisor = Supervisor(2, scripts(tmp_path, *bodies), shutdown_s=60)
    with running(supervisor) as result:
        with pytest.raises(WorkerRefused, match=f"worker 1 ended with exit code {whole}") as raised:
            result.result(60)
        assert raised.value.exit_code == whole
    assert not (tmp_path / "1-1").exists()
    assert all(worker.run is None for worker in supervisor.workers)


def test_the_whole_ends_when_every_worker_has_caught_up(tmp_path: Path) -> None:
    bodies = ("started(); print('zero'); sys.exit(0)", "started(); sys.exit(0 if starts else 1)")
    supervisor = Supervisor(2, scripts(tmp_path, *bodies), shutdown_s=60, until_caught_up=True, capture=True)
    with running(supervisor) as result:
        assert result.result(60) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-0", "1-0", "1-1"]
    assert sorted(supervisor.outputs) == [b"", b"zero\n"]


def test_a_worker_that_ends_well_unasked_is_started_again(tmp_path: Path) -> None:
    supervisor = Supervisor(1, scripts(tmp_path, "started(); sys.exit(0)"), shutdown_s=60)
    with running(supervisor) as result:
        pids(tmp_path, "0-0", "0-1")
        assert not result.done()


def test_what_ignores_the_signal_is_killed_at_the_deadline(tmp_path: Path) -> None:
    now = [0.0]
    stubborn = "signal.signal(signal.SIGTERM, lambda *_: open(os.path.join(folder, 'asked'), 'w'))\n"
    stubborn += "started()\nwhile True: signal.pause()"
    supervisor = Supervisor(2, scripts(tmp_path, stubborn, WAITS), shutdown_s=30, clock=lambda: now[0])
    with capture_logs() as log, running(supervisor) as result:
        noted = pids(tmp_path, "0-0", "1-0")
        supervisor.stop(signal.SIGTERM)
        eventually((tmp_path / "asked").exists)
        eventually(lambda: supervisor.workers[1].run is None)
        now[0] = 39.9
        assert not gone(noted[0])
        now[0] = 40.0
        assert result.result(60) == 1
    assert gone(noted[0])
    (killed,) = [entry for entry in log if entry["event"] == "supervisor.killed"]
    assert killed["workers"] == ["0"]


def test_a_second_signal_kills_at_once(tmp_path: Path) -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nstarted()\nwhile True: signal.pause()"
    supervisor = Supervisor(1, scripts(tmp_path, deaf), shutdown_s=3600)
    with running(supervisor) as result:
        (pid,) = pids(tmp_path, "0-0")
        supervisor.stop(signal.SIGTERM)
        supervisor.stop(signal.SIGINT)
        assert result.result(60) == 128 + signal.SIGINT
    assert gone(pid)


def test_a_worker_that_fails_while_it_is_stopped_gives_its_code(tmp_path: Path) -> None:
    failing = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\nstarted()\nwhile True: signal.pause()"
    supervisor = Supervisor(2, scripts(tmp_path, WAITS, failing), shutdown_s=60)
    with running(supervisor) as result:
        pids(tmp_path, "0-0", "1-0")
        supervisor.stop(signal.SIGTERM)
        assert result.result(60) == 3


def test_a_process_that_cannot_be_made_is_tried_again_later(tmp_path: Path) -> None:
    now, missing = [0.0], [str(tmp_path / "no-such-program")]
    usual = scripts(tmp_path, WAITS)

    def command(supervised: Supervised, first: bool) -> Sequence[str]:
        return missing if missing and supervised.number == 0 else usual(supervised, first)

    supervisor = Supervisor(2, command, shutdown_s=60, clock=lambda: now[0])
    with capture_logs() as log, running(supervisor) as result:
        pids(tmp_path, "1-0")
        assert [entry["worker"] for entry in log if entry["event"] == "worker.not_started"] == ["0"]
        missing.clear()
        now[0] = 60.0
        pids(tmp_path, "0-0")
        supervisor.stop(signal.SIGTERM)
        assert result.result(60) == 0


def test_only_the_first_start_of_a_worker_is_marked_as_first(tmp_path: Path) -> None:
    body = "open(os.path.join(folder, f'first-{starts}'), 'w').write(sys.argv[4])\nstarted()\nsys.exit(1)"
    supervisor = Supervisor(1, scripts(tmp_path, body), shutdown_s=60)
    with running(supervisor):
        pids(tmp_path, "0-0", "0-1")
    assert [(tmp_path / f"first-{n}").read_text() for n in (0, 1)] == ["1", "0"]


def test_metrics_of_all_workers_have_their_number(tmp_path: Path) -> None:
    supervisor = Supervisor(2, scripts(tmp_path, SERVES), shutdown_s=60)
    with running(supervisor), Observation(supervisor) as observation:
        pids(tmp_path, "0-0", "1-0")
        text = observation.metrics().decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        assert {(s.labels["worker"], s.labels["topic"], s.value) for s in families["a"].samples} == {
            ("0", "t", 10.0),
            ("1", "t", 11.0),
        }
        assert {(s.labels["worker"], s.value) for s in families["ingest_worker_up"].samples} == {("0", 1), ("1", 1)}
        assert {s.value for s in families["ingest_worker_starts"].samples} == {1}


def test_all_workers_must_be_ready(tmp_path: Path) -> None:
    supervisor = Supervisor(2, scripts(tmp_path, SERVES), shutdown_s=60)
    with running(supervisor), Observation(supervisor) as observation:
        _, second = pids(tmp_path, "0-0", "1-0")
        eventually(lambda: observation.ready() == {}, within=30)
        (tmp_path / "away-1").touch()
        assert observation.ready() == {"worker 1: milvus (write)": "away"}
        os.kill(second, signal.SIGSTOP)
        assert observation.ready() == {"worker 1": "it is starting, or does not answer"}
        os.kill(second, signal.SIGCONT)


def test_a_worker_that_stays_away_is_a_liveness_problem(tmp_path: Path) -> None:
    now = [0.0]
    bodies = (SERVES, "started()\nif starts: signal.pause()\nsys.exit(1)")
    supervisor = Supervisor(2, scripts(tmp_path, *bodies), shutdown_s=60, clock=lambda: now[0])
    with running(supervisor), Observation(supervisor, clock=lambda: now[0]) as observation:
        eventually(lambda: supervisor.workers[1].last_code == 1 and supervisor.workers[1].due, within=60)
        assert observation.alive() == {}
        now[0] = 0.4  # before its next start
        assert observation.ready().keys() == {"worker 1"}
        supervisor.workers[1].due = None
        now[0] = GONE_LIMIT_S - 0.1
        assert "worker 1" not in observation.alive()
        now[0] = GONE_LIMIT_S + 0.1
        assert "exit code 1" in observation.alive()["worker 1"]


def test_a_worker_that_hangs_is_a_liveness_problem(tmp_path: Path) -> None:
    now = [0.0]
    supervisor = Supervisor(1, scripts(tmp_path, WAITS), shutdown_s=60, clock=lambda: now[0])
    with running(supervisor), Observation(supervisor, clock=lambda: now[0]) as observation:
        pids(tmp_path, "0-0")
        assert observation.alive() == {}
        now[0] = 121.0
        eventually(lambda: supervisor.stalled() == 0.0)
        assert "liveness probe" in observation.alive()["worker 0"]


def test_workers_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    worker = "from consumers.supervisor.supervised import Supervised\nimport sys, signal, os\n"
    worker += "Supervised.parse(sys.argv[1]).end_with_supervisor()\n"
    worker += f"open(os.path.join({str(tmp_path)!r}, 'started'), 'w').write(str(os.getpid()))\nsignal.pause()"
    parent = "import sys\nfrom consumers.supervisor.supervisor import Supervisor\n"
    parent += f"Supervisor(1, lambda s, _: [sys.executable, '-c', {worker!r}, str(s)], shutdown_s=60).run()"
    with process(["-c", parent], tmp_path / "errors") as supervisor:
        eventually((tmp_path / "started").exists, within=60)
        pid = int(eventually((tmp_path / "started").read_text))
        assert not gone(pid)
        supervisor.process.kill()
        eventually(lambda: gone(pid))
