"""The list of mistakes does not rot: each can still be made, and its tests are there."""

import ast
from pathlib import Path

import pytest

from tests.mutation.__main__ import ROOT
from tests.mutation.locator import NotLocated, replaced
from tests.mutation.mutations import MUTATIONS, Mutation

RETURN = """return {
            "top": self.top,
            'size': len(self.values),
        }"""
CODE = f"""
class Stack:
    def push(self, value):
        if value > 0 and (self.top is None or self.top < value):
            log("größer")  # a comment
            self.values.append(value)
            self.top = value
        {RETURN}


def push(value):
    return value + value
"""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mistake_can_be_made(mutation: Mutation) -> None:
    path, text = replaced(ROOT, mutation.function, mutation.old, mutation.new)
    assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(path.read_text()))
    for test in mutation.tests:
        file, _, function = test.partition("::")
        assert f"def {function.partition('[')[0]}" in (ROOT / file).read_text()


def test_names_are_unique() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "code.py").write_text(CODE)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "before", "after"),
    [
        ("value > 0", "value >= 0", "if value > 0 and", "if value >= 0 and"),
        ("log('größer')", "pass", 'log("größer")', "pass"),
        ("'size'", "'length'", "'size'", "'length'"),
        (
            "self.values.append(value)\nself.top = value",
            "self.top = value\nself.values.append(value)",
            "self.values.append(value)\n            self.top = value",
            "self.top = value\n            self.values.append(value)",
        ),
        (
            "return {'top': self.top, 'size': len(self.values)}",
            "return {}",
            RETURN,
            "return {}",
        ),
    ],
)
def test_a_snippet_is_found_however_it_is_laid_out(tree: Path, old: str, new: str, before: str, after: str) -> None:
    assert CODE.count(before) == 1
    Mutation("m", "pipeline.code.Stack.push", old, new, ()).apply(tree)
    assert (tree / "pipeline" / "code.py").read_text() == CODE.replace(before, after)


@pytest.mark.parametrize(
    ("function", "old", "message"),
    [
        ("pipeline.other.push", "value", r"pipeline.other.push: no module .*pipeline/code.py:3, pipeline/code.py:14"),
        ("pipeline.code.Queue.push", "value", r"'Queue' is defined 0 times in pipeline/code.py.*code.py:3"),
        ("pipeline.code.Stack.pop", "value", r"'pop' is defined 0 times in pipeline/code.py.*nothing is named 'pop'"),
        ("pipeline.code.push", "value", r"pipeline.code.push has 2 places that equal 'value', not one"),
        ("pipeline.code.Stack.push", "value > 1", r"has 0 places that equal 'value > 1', .* nearest: 'value > 0'"),
        ("pipeline.code.Stack.push", "return None", r"has 0 places that equal 'return None'"),
    ],
)
def test_a_place_that_is_not_there_once_is_named(tree: Path, function: str, old: str, message: str) -> None:
    with pytest.raises(NotLocated, match=message):
        Mutation("m", function, old, "", ()).apply(tree)
    assert (tree / "pipeline" / "code.py").read_text() == CODE
