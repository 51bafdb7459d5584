"""Durations, byte sizes, secrets and record formats as types of the configuration."""

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ByteSize, PlainSerializer, SecretStr, TypeAdapter, ValidationError
from pydantic.json_schema import WithJsonSchema

from pipeline.intake import FORMATS
from pipeline.timestamps import format_duration, parse_duration

_BYTE_SIZE = TypeAdapter(ByteSize)
_NUMBER_AND_UNIT = re.compile(r"\d+(\.\d+)?\s*[A-Za-z]*", re.ASCII)
"""ByteSize would ignore whatever follows the unit."""
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
"""As a browser sends it: no path, no slash at the end."""


def _duration(value: Any) -> timedelta:
    return value if isinstance(value, timedelta) else parse_duration(str(value))


def _size(value: Any) -> int:
    """The bytes of `1MiB`, `512KiB`, `8MB` or a plain number. Raises ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = str(value).strip()
    try:
        if _NUMBER_AND_UNIT.fullmatch(text):
            return int(_BYTE_SIZE.validate_python(text))
    except ValidationError:
        pass  # an unknown unit
    raise ValueError("write a number of bytes or one with a unit: 512KiB, 1MiB, 8MB")


def _known_format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"must be one of {', '.join(FORMATS)}")
    return name


def _parameters(value: Any) -> Any:
    """Whole numbers come as text from the environment and `--set`."""
    if not isinstance(value, dict):
        return value
    return {name: int(given) if _is_whole(given) else given for name, given in value.items()}


def _is_whole(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value, re.ASCII) is not None


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _origins(value: tuple[str, ...]) -> tuple[str, ...]:
    for origin in value:
        if origin != "*" and _ORIGIN.fullmatch(origin) is None:
            raise ValueError(f"{origin!r} is no origin: write scheme://host or scheme://host:port, in lower case")
    if "*" in value and len(value) > 1:
        raise ValueError("* is all origins: leave the others out")
    return value


Parameters = Annotated[dict[str, Any], BeforeValidator(_parameters)]
"""Parameters of an index by name."""
Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(format_duration),
    WithJsonSchema({"type": "string", "examples": ["500ms", "30s", "24h", "7d"]}),
]
Bytes = Annotated[
    int, BeforeValidator(_size), WithJsonSchema({"type": ["string", "integer"], "examples": ["512KiB", "1MiB"]})
]
Secret = Annotated[SecretStr, PlainSerializer(lambda secret: "********" if secret.get_secret_value() else "")]
FormatName = Annotated[str, AfterValidator(_known_format), WithJsonSchema({"type": "string", "enum": [*FORMATS]})]
"""A name in the registry of record formats."""
Origins = Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_origins)]
"""Web sites as browsers name them, or `*` alone."""
