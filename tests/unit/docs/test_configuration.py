"""docs/configuration.md has every setting as the code has it."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.docs.configuration import BEGIN, END, PAGE, environment_name, page, reference, settings_fields


def test_the_page_is_what_the_settings_generate() -> None:
    assert page(PAGE.read_text()) == PAGE.read_text(), "run: python -m tests.docs.configuration"


def test_the_reference_explains_every_setting() -> None:
    rows = [line.split(" | ") for line in reference().splitlines() if line.startswith("| `")]
    assert sorted(row[0].strip("|` ") for row in rows) == sorted(name for name, _ in settings_fields())
    assert [row[0] for row in rows if not row[3].strip()] == []


def test_an_environment_variable_of_the_reference_sets_its_setting() -> None:
    values = {"batch.max_records": "7", "milvus.index.type": "FLAT", "mode": "append"}
    done = subprocess.run(
        [sys.executable, "-m", "consumers.cli", "config", "show", "--json"],
        env=os.environ | {environment_name(name): value for name, value in values.items()},
        capture_output=True,
        check=True,
    )
    shown: dict[str, Any] = json.loads(done.stdout)
    assert [shown["batch"]["max_records"], shown["milvus"]["index"]["type"], shown["mode"]] == [7, "FLAT", "append"]


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        page(f"{END} {BEGIN[:-1]}")
