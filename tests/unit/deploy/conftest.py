"""DocumentHashes of the project that the deployment files must agree with."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, Any] = tomllib.load(file)["project"]
    return table


@pytest.fixture(scope="session")
def project_version(project: dict[str, Any]) -> str:
    """The version that images are tagged with."""
    version: str = project["version"]
    return version
