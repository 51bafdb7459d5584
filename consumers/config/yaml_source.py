"""YAML documents with settings: without aliases, and with errors that never quote a value."""

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from consumers.config.secrets import NULL_SECRETS, is_in_clear, is_secret
from pipeline.errors import UsageError

_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_TEXT_TAG = "tag:yaml.org,2002:str"
_NULL_TAG = "tag:yaml.org,2002:null"


def read_file(path: Path) -> dict[str, Any]:
    """The content of the configuration file. Raises UsageError that says where it is wrong, without quoting it."""
    content = load_yaml(_read(path), "", f"configuration file {path}")
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(
            f"configuration file {path}: expected `section:` keys at the top, found {type(content).__name__}"
        )
    return content


def exposed_secrets(path: Path) -> list[str]:
    """The settings whose secrets every user of this machine can read in the configuration file."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) and mode & stat.S_IROTH):
        return []
    return [name for name, node in _scalars(_compose(_read(path)), "") if is_in_clear(name, str(node.value))]


def load_yaml(text: str, prefix: str, origin: str) -> Any:
    """The value of a document whose names begin with `prefix`. Raises UsageError that names `origin`."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        for name, value in _scalars(node, prefix):
            if is_secret(name):
                _check_secret(name, value, text, origin)
        return None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise UsageError(f"{origin} is not YAML: {_without_content(error)}") from None
    except RecursionError:
        raise UsageError(f"{origin} is not a configuration: it is nested too deeply") from None


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a few hundred bytes of them can expand to billions of values."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(None, None, "aliases (*name) are not allowed: write the value out", mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            problem = f"this is no {kind} although it looks like one: put it in quotes if it is text"
            raise yaml.MarkedYAMLError(None, None, problem, node.start_mark) from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"configuration file {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"configuration file {path} is not text in UTF-8: byte {error.start}") from None


def _compose(text: str) -> yaml.Node | None:
    return yaml.compose(text, _Loader)


def _without_content(error: yaml.YAMLError) -> str:
    """Where the error is and what it is, without the text there: it may be a password."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        problem = _QUOTED.sub(_token, error.problem or error.context or "it cannot be read")
        if mark is not None:
            begun = error.context_mark
            since = "" if begun is None or begun.line == mark.line else f" (begun in line {begun.line + 1})"
            problem = f"line {mark.line + 1}, column {mark.column + 1}{since}: {problem}"
        return f"{problem}. A value with special characters belongs in quotes"
    return "it holds a character that is not allowed"


def _token(quoted: re.Match[str]) -> str:
    """A piece of YAML's own grammar (`','`, `'<scalar>'`) as it is, anything longer unnamed."""
    return quoted[0] if len(quoted[0]) <= 3 or re.fullmatch(r"'<[a-z ]+>'", quoted[0]) else "something"


def _scalars(node: yaml.Node | None, name: str) -> Iterator[tuple[str, yaml.Node]]:
    """The settings of a document with their names; a secret also where it is no scalar."""
    if isinstance(node, yaml.MappingNode) and not is_secret(name):
        for key, value in node.value:
            yield from _scalars(value, f"{name}.{key.value}".lstrip("."))
    elif node is not None:
        yield name, node


def _check_secret(name: str, node: yaml.Node, text: str, origin: str) -> None:
    """Raise UsageError where YAML does not read a secret as the text that was written."""
    if name in NULL_SECRETS and node.tag == _NULL_TAG and node.value == "null":
        return
    where = f"{origin}, line {node.start_mark.line + 1}: setting {name}"
    if node.tag != _TEXT_TAG:
        kind = "nothing" if node.tag == _NULL_TAG else f"no text but {node.tag.rpartition(':')[2]}"
        if node.tag.startswith("!"):
            kind = "a tag"
        raise UsageError(f"{where}: without quotes YAML reads this value as {kind}: put it in quotes")
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    if plain and is_in_clear(name, node.value):
        rest = text[node.end_mark.index :].partition("\n")[0]
        if rest.lstrip().startswith("#"):
            raise UsageError(f"{where}: YAML takes what follows the # for a comment: put the value in quotes")
