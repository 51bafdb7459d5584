"""`milvus-stream ingest --workers`: a supervisor, its worker processes, one address for their probes and metrics."""

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog
import typer

from consumers.cli.common.options import load, print_json
from consumers.http import ProbeServer
from consumers.supervisor import (
    Observation,
    Supervised,
    Supervisor,
    count_gpus,
    merge_summaries,
    own_settings,
    parse_workers,
    worker_count,
)
from consumers.wiring.telemetry import probe_listener
from pipeline.errors import UsageError

log = structlog.get_logger(__name__)


def run(
    config: Path | None,
    sets: list[str] | None,
    workers: str,
    *,
    until_caught_up: bool,
    max_records: int | None,
    adopt: bool,
    accept_gap: bool,
    json_: bool,
) -> None:
    """Run the workers until SIGTERM or SIGINT, all have caught up, or one ends in a way that no restart cures.

    Raises UsageError, WorkerRefused (with the exit code of that worker).
    """
    settings = load(config, sets)
    gpus = count_gpus()
    count = worker_count(parse_workers(workers), settings, gpus)
    if count > 1 and max_records is not None:
        raise UsageError(f"--max-records counts the records of one worker: leave out --workers {workers}, or it")
    if count > 1 and adopt:
        raise UsageError(
            f"--adopt is for one worker, before the others: run `milvus-stream ingest --adopt --until-caught-up` once, "
            f"then --workers {workers} without it"
        )

    def command(supervised: Supervised, first: bool) -> Sequence[str]:
        arguments = [sys.executable, "-m", "consumers.cli", "ingest", "--supervised", str(supervised)]
        arguments += [] if config is None else ["--config", str(config)]
        for setting in [*(sets or ()), *own_settings(settings, supervised.number, count, gpus)]:
            arguments += ["--set", setting]
        arguments += ["--max-records", str(max_records)] if max_records is not None else []
        arguments += ["--until-caught-up"] * until_caught_up + ["--json"] * json_
        # Once: a worker that is started again must not go on behind a gap that nobody has seen.
        return arguments + ["--adopt"] * (adopt and first) + ["--accept-gap"] * (accept_gap and first)

    supervisor = Supervisor(
        count,
        command,
        shutdown_s=settings.shutdown_timeout.total_seconds(),
        until_caught_up=until_caught_up or max_records is not None,
        capture=json_,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: supervisor.stop(received))
    with (
        Observation(supervisor) as observation,
        ProbeServer("ingest", probe_listener(settings), observation.metrics) as probes,
    ):
        probes.watch(alive=observation.alive, ready=observation.ready)
        log.info("supervisor.started", workers=count, gpus=gpus)
        code = supervisor.run()
    if json_:
        print_json(merge_summaries([json.loads(output) for output in supervisor.outputs], clean=code == 0))
    raise typer.Exit(code)
