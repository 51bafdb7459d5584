"""docs/configuration.md has every setting as the code has it."""

import pytest

from consumers.config.settings import load_settings
from tests.docs.configuration import BEGIN, END, PAGE, environment_name, page, reference, settings_fields


def test_the_page_is_what_the_settings_generate() -> None:
    assert page(PAGE.read_text()) == PAGE.read_text(), "run: python -m tests.docs.configuration"


def test_the_reference_explains_every_setting() -> None:
    rows = [line.split(" | ") for line in reference().splitlines() if line.startswith("| `")]
    assert sorted(row[0].strip("|` ") for row in rows) == sorted(name for name, _ in settings_fields())
    assert [row[0] for row in rows if not row[3].strip()] == []


def test_an_environment_variable_of_the_reference_sets_its_setting() -> None:
    settings = load_settings(None, {environment_name("batch.max_records"): "7"})
    assert settings.batch.max_records == 7


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        page(f"{END} {BEGIN[:-1]}")
