"""The files that CONTRIBUTING.md sends a reader to are there."""

import re

from tests.docs.blocks import DOCS

ROOT = DOCS.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
_NAMED = re.compile(r"`((?:pipeline|consumers|tests|docs)/[\w/.-]+|[\w-]+\.(?:md|toml))`")


def named_files() -> list[str]:
    return _NAMED.findall(PAGE)


def test_every_file_of_the_page_exists() -> None:
    assert [name for name in named_files() if not (ROOT / name).exists()] == []


def test_the_table_names_files_for_every_task() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| **")]
    assert [row for row in rows if not _NAMED.search(row)] == []
    assert len(rows) >= 12


def test_make_targets_of_the_page_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", PAGE)) - targets == set()
