"""`make mutants`: one mistake at a time in a copy of the tree; exit code 1 if one goes unnoticed."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_LIMIT_S = 1800
_WITHOUT_SERVERS = ("-m", "not servers", "--ignore", "tests/mutation", "tests")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one mistake."""

    mutation: Mutation
    killed_by: str | None
    """The first test that failed."""
    seconds: float


def main() -> int:
    """Try the mistakes and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", help="this one; may be repeated")
    only = parser.parse_args().only
    chosen = [mutation for mutation in MUTATIONS if only is None or mutation.name in only]
    if not chosen:
        parser.error("no such mutation; there are: " + ", ".join(mutation.name for mutation in MUTATIONS))
    check_unbroken(chosen)
    verdicts = []
    for mutation in chosen:
        verdict = tried(mutation)
        verdicts.append(verdict)
        print(f"{mutation.name:55} {verdict.killed_by or 'SURVIVED':90} {verdict.seconds:5.0f} s", flush=True)  # noqa: T201
    survivors = [verdict.mutation.name for verdict in verdicts if verdict.killed_by is None]
    print(f"{len(verdicts)} mistakes, {len(survivors)} unnoticed: {', '.join(survivors) or 'none'}")  # noqa: T201
    return 1 if survivors else 0


def tried(mutation: Mutation) -> Verdict:
    """Make the mistake in a copy of the tree and run the tests there, the nearest first."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        root = Path(directory)
        copy_tree(root)
        mutation.apply(root)
        killed_by = first_failure(root, *mutation.tests)
        if killed_by is None:
            killed_by = first_failure(root, *_WITHOUT_SERVERS)
            # A test that fails now and then, on a busy machine for instance, has not noticed anything.
            if killed_by is not None and first_failure(root, killed_by) is None:
                killed_by = None
    return Verdict(mutation, killed_by, time.monotonic() - began)


def check_unbroken(mutations: Sequence[Mutation]) -> None:
    """Raise RuntimeError where the nearest tests fail though no mistake was made: they would prove nothing."""
    nearest = sorted({test for mutation in mutations for test in mutation.tests})
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        copy_tree(Path(directory))
        failed = first_failure(Path(directory), *nearest)
    if failed is not None:
        raise RuntimeError(f"{failed} fails in the tree as it is")


def copy_tree(root: Path) -> None:
    """The files that git tracks or would, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        source = ROOT / name
        if name and source.is_file():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
            target.chmod(source.stat().st_mode)


def first_failure(root: Path, *arguments: str) -> str | None:
    """Node id of the first test that fails, None if all pass. Raises RuntimeError where pytest could not run them."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HYPOTHESIS_PROFILE": "mutation"}
    done = subprocess.run(
        [*command, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    if done.returncode == 0:
        return None
    found = _FAILED.search(done.stdout)
    if done.returncode != 1 or found is None:
        raise RuntimeError(
            f"pytest {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr}"
        )
    return found[1]


if __name__ == "__main__":
    sys.exit(main())
