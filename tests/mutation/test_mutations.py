"""The list of mistakes does not rot: each can still be made, and its tests are there."""

import ast
from pathlib import Path

import pytest

from tests.mutation.__main__ import ROOT
from tests.mutation.mutations import MUTATIONS, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mistake_can_be_made(mutation: Mutation, tmp_path: Path) -> None:
    copy = tmp_path / mutation.file
    copy.parent.mkdir(parents=True)
    copy.write_text((ROOT / mutation.file).read_text())
    mutation.apply(tmp_path)
    ast.parse(copy.read_text())
    for test in mutation.tests:
        path, _, function = test.partition("::")
        assert f"def {function.partition('[')[0]}" in (ROOT / path).read_text()


def test_names_are_unique() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


def test_a_mistake_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("a = 1\nb = 1\n")
    for old, times in (("c", 0), (" = 1", 2)):
        with pytest.raises(ValueError, match=f"stands {times} times"):
            Mutation("m", "code.py", old, "", ()).apply(tmp_path)
