"""Where settings come from: the YAML file, the environment and `--set`, and how secrets are written there.

`${NAME}` is replaced by the environment everywhere, `file:PATH` by the file's content in secrets. What either brings in
is taken as it is: it is not looked through for further ones.
"""

import re
import stat
from collections.abc import Iterator, Mapping
from inspect import isclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel

from pipeline.errors import UsageError

_SECRET_WORDS = ("password", "secret", "token")
_LIST_OPTIONS = ("kafka.api_version", "kafka.socket_options")
"""The options of the Kafka client that are lists; every other one is one word or number."""
_ENV_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_USER_INFO = re.compile(r"://[^\s]*@")
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_TEXT_TAG = "tag:yaml.org,2002:str"
_NULL_TAG = "tag:yaml.org,2002:null"
_MASK = "********"


def is_secret(name: str) -> bool:
    """Whether a setting (`section.key`) is a password or token: always text, never printed."""
    return name == "milvus.token" or (name.startswith("kafka.") and any(word in name.lower() for word in _SECRET_WORDS))


def masked(value: Any, name: str = "") -> Any:
    """Plain values for printing: secrets, and the user part of every address, replaced by stars."""
    if isinstance(value, dict):
        return {key: masked(item, f"{name}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item, name) for item in value]
    if is_secret(name):
        return _MASK if value else value
    return _USER_INFO.sub(f"://{_MASK}@", value) if isinstance(value, str) else value


def read_file(path: Path) -> dict[str, Any]:
    """The content of the configuration file. Raises UsageError that says where it is wrong, without quoting it."""
    content = _load(_read(path), "", f"configuration file {path}")
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(
            f"configuration file {path}: expected `section:` keys at the top, found {type(content).__name__}"
        )
    return content


def exposed_secrets(path: Path) -> list[str]:
    """The secrets that stand in clear in a configuration file that every user of this machine may read."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) and mode & stat.S_IROTH):
        return []
    return [name for name, node in _scalars(_compose(_read(path)), "") if _in_clear(name, str(node.value))]


def given_text(text: str, path: list[str], model: type[BaseModel], origin: str) -> Any:
    """A value from the environment or `--set`.

    Text stays text, which the field's own type converts; only what can be a list, a map or null is read as YAML.
    """
    name = ".".join(path)
    nullable, structured = _takes(path, model)
    if (structured and text[:1] in ("[", "{")) or (nullable and text in ("null", "~")):
        return _load(text, name, origin)
    return text


def put(target: dict[str, Any], path: list[str], value: Any, origin: str) -> None:
    """Set one value in nested sections. Raises UsageError where a part of the path is no section."""
    for part in path[:-1]:
        inner = target.get(part)
        if inner is None:
            inner = target[part] = {}
        if not isinstance(inner, dict):
            raise UsageError(f"{origin}: {part} has no keys below it")
        target = inner
    target[path[-1]] = value


def resolve(value: Any, env: Mapping[str, str], name: str = "") -> Any:
    """Replace `${NAME}` by the environment and, for secrets, `file:PATH` by the file's content; drop empty sections."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if item is not None or name}
        return {key: resolve(item, env, f"{name}.{key}".lstrip(".")) for key, item in kept.items()}
    if isinstance(value, list):
        return [resolve(item, env, name) for item in value]
    if not isinstance(value, str):
        return value

    def from_env(match: re.Match[str]) -> str:
        if match[1] not in env:
            raise UsageError(f"setting {name}: the environment variable {match[1]} is not set")
        return env[match[1]]

    replaced = _ENV_NAME.sub(from_env, value)
    # Judged by what was written: a password that happens to begin with `file:` can be given through the environment.
    if not (value.startswith("file:") and is_secret(name)):
        return replaced
    try:
        return Path(replaced.removeprefix("file:")).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise UsageError(f"setting {name}: cannot read the secret's file: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"setting {name}: the secret's file is not text in UTF-8") from None


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a few hundred bytes of them can stand for billions of values."""

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


def _load(text: str, prefix: str, origin: str) -> Any:
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
    if name == "milvus.token" and node.tag == _NULL_TAG and node.value == "null":
        return
    where = f"{origin}, line {node.start_mark.line + 1}: setting {name}"
    if node.tag != _TEXT_TAG:
        kind = "nothing" if node.tag == _NULL_TAG else f"no text but {node.tag.rpartition(':')[2]}"
        if node.tag.startswith("!"):
            kind = "a tag"
        raise UsageError(f"{where}: without quotes YAML reads this value as {kind}: put it in quotes")
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    if plain and _in_clear(name, node.value):
        rest = text[node.end_mark.index :].partition("\n")[0]
        if rest.lstrip().startswith("#"):
            raise UsageError(f"{where}: YAML takes what follows the # for a comment: put the value in quotes")


def _in_clear(name: str, value: str) -> bool:
    """Whether this value of a setting holds a secret itself, not the place where it is."""
    if not is_secret(name):
        found = _USER_INFO.search(value)
        return found is not None and bool(_ENV_NAME.sub("", found[0].strip(":/@")).strip(":"))
    return value not in ("", "null") and not value.startswith("file:") and bool(_ENV_NAME.sub("", value))


def _takes(path: list[str], model: type[BaseModel]) -> tuple[bool, bool]:
    """Whether a setting can be null, and whether it can be a list or a map."""
    name = ".".join(path)
    if is_secret(name):
        return False, False
    kinds: tuple[Any, ...] = (model,)
    for part in path:
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not sections:
            return True, True  # a key within a map of any values, such as milvus.index.params.M
        field = sections[0].model_fields.get(part)
        if field is None:
            return False, name in _LIST_OPTIONS  # an option that is passed through, or a mistake, refused later
        kinds = get_args(field.annotation) if NoneType in get_args(field.annotation) else (field.annotation,)
    maps = (tuple, list, dict, BaseModel)
    return NoneType in kinds, any(
        issubclass(found, maps) for kind in kinds if isclass(found := get_origin(kind) or kind)
    )
