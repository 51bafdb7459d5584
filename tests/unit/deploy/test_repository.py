"""What holds for every file of the project, and for the script that CI runs."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# Written in pieces, so that this file does not find itself.
_REGISTRY_HOSTS = [
    "py" + "pi.org",
    "python" + "hosted.org",
    "download.py" + "torch.org",
    "npm" + "js.org",
    "repo1.mav" + "en.org",
    "repo.mav" + "en.apache.org",
    "proxy.go" + "lang.org",
    "docker" + ".io",
    "gh" + "cr.io",
    "qu" + "ay.io",
    "registry.k" + "8s.io",
]
_REGISTRY = re.compile("|".join(re.escape(host) for host in _REGISTRY_HOSTS))
_INDEX_OPTION = re.compile(r"^\s*--(index-url|extra-index-url|find-links)", re.MULTILINE)
_HOME = re.compile(r"(?<![\w.-])/(ro" + r"ot|home/\w+|Users/\w+)/")
_PRUNED = {"__pycache__", "build", "dist"}


def project_files(root: Path) -> Iterator[Path]:
    """Every file that belongs to the project: caches, environments, data and build outputs are left out."""
    for folder, names, files in os.walk(root):
        names[:] = [
            name
            for name in names
            if name == ".ci" or not (name.startswith(".") or name in _PRUNED or name.endswith(".egg-info"))
        ]
        yield from (Path(folder, file) for file in files)


def offences(root: Path) -> list[str]:
    """`file: text` for everything that ties a file to a registry's host or to somebody's machine."""
    patterns = [_REGISTRY, _INDEX_OPTION, _HOME]
    if len(ROOT.parts) > 2:
        patterns.append(re.compile(re.escape(str(ROOT)) + r"\b"))
    found = []
    for file in project_files(root):
        text = file.read_bytes().decode("utf-8", errors="replace")
        found += [f"{file.relative_to(root)}: {match[0]}" for pattern in patterns for match in pattern.finditer(text)]
    return found


def test_no_file_names_a_registry_host_or_a_path_of_this_machine() -> None:
    assert offences(ROOT) == []


@pytest.mark.parametrize(
    "text",
    [
        "COPY --from=gh" + "cr.io/astral-sh/uv /uv /bin/",
        "torch @ https://files.python" + "hosted.org/torch.whl",
        "--extra-index-url https://mirror.example/simple",
        "data: /ho" + "me/somebody/data",
        f"data: {ROOT}/data",
    ],
)
def test_the_search_sees(text: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(f"line\n{text}\n")

    assert len(offences(tmp_path)) >= 1


@pytest.mark.parametrize(
    ("fails", "ran", "code"), [(None, ["check", "test"], 0), ("check", ["check"], 1), ("test", ["check", "test"], 1)]
)
def test_ci_checks_then_tests_and_stops_at_the_first_failure(
    fails: str | None, ran: list[str], code: int, tmp_path: Path
) -> None:
    script = tmp_path / ".ci/run"
    script.parent.mkdir()
    shutil.copy(ROOT / ".ci/run", script)
    make = tmp_path / "bin/make"
    make.parent.mkdir()
    make.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/ran"\n[ "$1" != "{fails}" ]\n')
    make.chmod(0o755)

    result = subprocess.run(
        ["bash", str(script)], check=False, cwd="/", env={"PATH": f"{make.parent}:{os.environ['PATH']}", "CI": "true"}
    )

    assert (tmp_path / "ran").read_text().split() == ran
    assert result.returncode == code
