"""Durations, byte sizes and secrets as people write them in a configuration file."""

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, SecretStr

_DURATION_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_SIZE_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_duration(value: Any) -> Any:
    """`500ms`, `45s`, `10m`, `24h`, `90d`, `2w` (also sums: `1h30m`) as a timedelta; ValueError for anything else."""
    if isinstance(value, timedelta):
        return value
    text = str(value).strip().lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)", text)
    if not parts or re.sub(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)", "", text).strip():
        raise ValueError("write a number with a unit: 500ms, 45s, 10m, 24h, 90d")
    return timedelta(milliseconds=sum(float(number) * _DURATION_MS[unit] for number, unit in parts))


def format_duration(value: timedelta) -> str:
    """The shortest exact way to write a duration with one unit."""
    milliseconds = round(value.total_seconds() * 1000)
    for unit in ("d", "h", "m", "s"):
        if milliseconds and milliseconds % _DURATION_MS[unit] == 0:
            return f"{milliseconds // _DURATION_MS[unit]}{unit}"
    return f"{milliseconds}ms"


def parse_size(value: Any) -> Any:
    """`1MiB`, `512KiB`, `8MB` or a plain number of bytes as an int; anything else raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?i?b)?", str(value).strip().lower())
    if match is None:
        raise ValueError("write a number of bytes or one with a unit: 512KiB, 1MiB, 8MB")
    return round(float(match[1]) * _SIZE_BYTES[match[2] or "b"])


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration)]
Bytes = Annotated[int, BeforeValidator(parse_size)]
Secret = Annotated[SecretStr, PlainSerializer(lambda secret: "********" if secret.get_secret_value() else "")]
