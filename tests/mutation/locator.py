"""Find a function by its qualified name, and in it the one piece of syntax that equals a snippet."""

import ast
import difflib
import textwrap
from collections.abc import Iterator
from pathlib import Path

_PACKAGES = ("pipeline", "consumers")
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class NotLocated(Exception):
    """The function or the snippet is not there exactly once; the message says which, and what is there instead."""


def replaced(root: Path, function: str, old: str, new: str) -> tuple[Path, str]:
    """The file of `function` (`package.module.Class.method`), and its text with `old` in that function made `new`.

    `old` is an expression or one or more statements in a row. Layout, comments and quotes do not matter: it is found
    where `ast.dump` of the code equals that of `old`. Raises NotLocated.
    """
    path, names = _module(root, function)
    text = path.read_text()
    first, last = _once(_definition(ast.parse(text), root, path, function, names), function, old)
    lines = [line.encode() for line in text.splitlines(keepends=True)]
    indent = " " * first.col_offset
    before = b"".join(lines[: first.lineno - 1]) + lines[first.lineno - 1][: first.col_offset]
    assert last.end_lineno is not None
    after = lines[last.end_lineno - 1][last.end_col_offset :] + b"".join(lines[last.end_lineno :])
    snippet = textwrap.indent(textwrap.dedent(new).strip(), indent).removeprefix(indent)
    return path, (before + snippet.encode() + after).decode()


def _module(root: Path, function: str) -> tuple[Path, list[str]]:
    """The file of the longest prefix that is a module, and the names inside it."""
    parts = function.split(".")
    for count in range(len(parts) - 1, 0, -1):
        path = root.joinpath(*parts[:count]).with_suffix(".py")
        if path.is_file():
            return path, parts[count:]
    raise NotLocated(f"{function}: no module of this name; {_elsewhere(root, parts[-1])}")


def _definition(tree: ast.Module, root: Path, path: Path, function: str, names: list[str]) -> _Definition:
    node: ast.Module | _Definition = tree
    for name in names:
        matches = [each for each in _definitions(node) if each.name == name]
        if len(matches) != 1:
            raise NotLocated(
                f"{function}: {name!r} is defined {len(matches)} times in {path.relative_to(root)}, not once; "
                f"{_elsewhere(root, names[-1])}"
            )
        node = matches[0]
    assert not isinstance(node, ast.Module)
    return node


def _definitions(node: ast.AST) -> Iterator[_Definition]:
    """Functions and classes inside `node`, not those inside of them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Definition):
            yield child
        else:
            yield from _definitions(child)


def _elsewhere(root: Path, name: str) -> str:
    places = [
        f"{path.relative_to(root)}:{line}"
        for package in _PACKAGES
        for path in sorted((root / package).rglob("*.py"))
        for line in sorted(
            node.lineno
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, _Definition) and node.name == name
        )
    ]
    return f"{name!r} is defined in {', '.join(places)}" if places else f"nothing is named {name!r}"


_Span = ast.expr | ast.stmt


def _once(function: _Definition, name: str, old: str) -> tuple[_Span, _Span]:
    """First and last node of the only place that equals `old`."""
    wanted = ast.parse(textwrap.dedent(old)).body
    candidates = list(_candidates(function, wanted))
    target = _dump(wanted)
    matches = [nodes for nodes in candidates if _dump(nodes) == target]
    if len(matches) != 1:
        nearest = difflib.get_close_matches(_source(wanted), {_source(nodes) for nodes in candidates}, 1, 0.5)
        hint = f"; the nearest: {nearest[0]!r}" if nearest and not matches else ""
        raise NotLocated(f"{name} has {len(matches)} places that equal {_source(wanted)!r}, not one{hint}")
    return matches[0][0], matches[0][-1]


def _candidates(function: _Definition, wanted: list[ast.stmt]) -> Iterator[list[ast.expr] | list[ast.stmt]]:
    """Every expression, or every run of as many statements as are wanted."""
    if len(wanted) == 1 and isinstance(wanted[0], ast.Expr):
        yield from ([node] for node in ast.walk(function) if isinstance(node, ast.expr))
        return
    for node in ast.walk(function):
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                yield from (value[at : at + len(wanted)] for at in range(len(value) - len(wanted) + 1))


def _dump(nodes: list[ast.expr] | list[ast.stmt]) -> list[str]:
    return [ast.dump(node.value if isinstance(node, ast.Expr) and len(nodes) == 1 else node) for node in nodes]


def _source(nodes: list[ast.expr] | list[ast.stmt]) -> str:
    return "\n".join(map(ast.unparse, nodes))
