"""`python -m tests.fuzz`: send generated requests to every route of openapi.json, and check every answer.

No 5xx, no request that hangs, errors are problems that name the place, answers fit their schemas, and nothing that the
schema refuses is accepted. Exit 1 with the request to repeat where one is not so.
"""

import argparse
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from pipeline.telemetry import configure_logging
from tests.fuzz.worker import worker

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-fuzz/bin/python"


def main() -> None:
    """Start a worker, run the client in its own environment, end with its exit code."""
    parser = argparse.ArgumentParser(prog="make fuzz ARGS=…", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1, help="the same seed sends the same requests")
    parser.add_argument("--slow", type=float, default=5.0, help="seconds beyond those that a request allows itself")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--milvus", metavar="URI", help="a worker over this Milvus; by default over one in memory")
    where.add_argument("--url", help="a query worker that runs already, without keys")
    options = parser.parse_args()
    configure_logging("error", "text")
    with ExitStack() as stack:
        address, known = (options.url, {}) if options.url else stack.enter_context(worker(options.milvus))
        arguments = ["--url", address, "--requests", str(options.requests), "--seed", str(options.seed)]
        arguments += ["--slow", str(options.slow), "--known", json.dumps(known)]
        python = os.environ.get("FUZZ_PYTHON", str(PYTHON))
        ended = subprocess.run([python, "-m", "tests.fuzz.client", *arguments], cwd=ROOT, check=False)
    sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
