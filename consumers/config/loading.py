"""The configuration of a process: one YAML file, the environment and `--set`, checked once before anything starts.

Order of precedence: `--set`, environment, file, default. `${NAME}` is replaced by the environment everywhere,
`file:PATH` by the file's content in secrets. What either brings in is not searched for further references.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from inspect import isclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from consumers.config.secrets import ENV_NAME, is_secret, masked
from consumers.config.settings import Settings
from consumers.config.yaml_source import load_yaml, read_file
from pipeline.errors import UsageError

ENV_PREFIX = "MILVUS_STREAM__"
DEFAULT_FILE = Path("milvus-stream.yaml")
_LIST_OPTIONS = ("kafka.api_version", "kafka.socket_options")
"""The options of the Kafka client that are lists; every other one is one word or number."""
_RENAMED = {
    "partitioning.retention": "it is partitioning.max_event_age now: older records are dead-lettered, rows stay stored"
}


def load_settings(file: Path | None, env: Mapping[str, str], sets: Sequence[str] = ()) -> Settings:
    """Read, merge and check the configuration.

    `file` None: `milvus-stream.yaml` in the working folder where it exists. `sets`: `section.key=value` each.

    Raises UsageError naming the key, where it came from and what would be right.
    """
    path = configuration_file(file)
    merged = {} if path is None else read_file(path)
    for name in sorted(env):
        if name.startswith(ENV_PREFIX):
            keys, origin = name[len(ENV_PREFIX) :].lower().split("__"), f"environment variable {name}"
            _put(merged, keys, _parse_value(env[name], keys, Settings, origin), origin)
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            name_part = re.match(r"[\w.]*", text)  # what follows may be a password
            start = name_part[0] if name_part else ""
            raise UsageError(f"--set {start}…: write --set section.key=value, e.g. --set milvus.collection=news")
        keys, origin = key.strip().split("."), f"--set {key}"
        _put(merged, keys, _parse_value(value, keys, Settings, origin), origin)
    _check_names(merged, Settings, "")
    merged = _resolve(merged, env)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise UsageError("configuration: " + "; ".join(problems)) from None


def masked_values(settings: Settings) -> dict[str, Any]:
    """The configuration as plain values for printing; secrets and user parts of addresses are masked."""
    plain: dict[str, Any] = masked(settings.model_dump(mode="json"))
    return plain


def configuration_file(file: Path | None) -> Path | None:
    """The named file, else `milvus-stream.yaml` of the working folder where it exists."""
    return file or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)


def _check_names(values: Mapping[str, Any], model: type[BaseModel], prefix: str) -> None:
    for name, value in values.items():
        if (renamed := _RENAMED.get(f"{prefix}{name}")) is not None:
            raise UsageError(f"setting {prefix}{name}: {renamed}")
        known = model.model_fields.get(str(name))
        if known is None:
            # Where other names are passed through to the client, only a near miss is taken for a mistake here.
            passed_through = model.model_config.get("extra") == "allow"
            near = difflib.get_close_matches(str(name), model.model_fields, n=1, cutoff=0.85 if passed_through else 0.5)
            if passed_through and not near:
                continue
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known keys: {', '.join(model.model_fields)}"
            raise UsageError(f"unknown setting {prefix}{name}: {hint}")
        if isinstance(known.annotation, type) and issubclass(known.annotation, BaseModel):
            if value is None:
                continue
            if not isinstance(value, Mapping):
                raise UsageError(f"setting {prefix}{name}: expected keys below it, found {type(value).__name__}")
            _check_names(value, known.annotation, f"{prefix}{name}.")


def _parse_value(text: str, path: list[str], model: type[BaseModel], origin: str) -> Any:
    """A value from the environment or `--set`.

    Text stays text, which the field's own type converts; only what can be a list, a map or null is read as YAML.
    """
    name = ".".join(path)
    nullable, structured = _allowed_kinds(path, model)
    if (structured and text[:1] in ("[", "{")) or (nullable and text in ("null", "~")):
        return load_yaml(text, name, origin)
    return text


def _put(target: dict[str, Any], path: list[str], value: Any, origin: str) -> None:
    """Set one value in nested sections. Raises UsageError where a part of the path is no section."""
    for part in path[:-1]:
        inner = target.get(part)
        if inner is None:
            inner = target[part] = {}
        if not isinstance(inner, dict):
            raise UsageError(f"{origin}: {part} has no keys below it")
        target = inner
    target[path[-1]] = value


def _resolve(value: Any, env: Mapping[str, str], name: str = "") -> Any:
    """Replace `${NAME}` by the environment and, for secrets, `file:PATH` by the file's content; drop empty sections."""
    if isinstance(value, dict):
        sections = {key: member for key, member in value.items() if member is not None or name}
        return {key: _resolve(member, env, f"{name}.{key}".lstrip(".")) for key, member in sections.items()}
    if isinstance(value, list):
        return [_resolve(member, env, name) for member in value]
    if not isinstance(value, str):
        return value

    def from_env(match: re.Match[str]) -> str:
        if match[1] not in env:
            raise UsageError(f"setting {name}: the environment variable {match[1]} is not set")
        return env[match[1]]

    replaced = ENV_NAME.sub(from_env, value)
    # Decided by the text before the replacement: a password may begin with `file:` if the environment brings it in.
    if not (value.startswith("file:") and is_secret(name)):
        return replaced
    try:
        return Path(replaced.removeprefix("file:")).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise UsageError(f"setting {name}: cannot read the secret's file: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"setting {name}: the secret's file is not text in UTF-8") from None


def _allowed_kinds(path: list[str], model: type[BaseModel]) -> tuple[bool, bool]:
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
        union = get_origin(field.annotation) in (Union, UnionType)
        kinds = get_args(field.annotation) if union else (field.annotation,)
    maps = (tuple, list, dict, BaseModel)
    return NoneType in kinds, any(
        issubclass(origin, maps) for kind in kinds if isclass(origin := get_origin(kind) or kind)
    )
