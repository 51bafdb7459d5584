"""Secrets: which settings are passwords or tokens, and how they are masked."""

import re
from typing import Any

_STARS = "*" * 8
_SECRET_WORDS = ("password", "secret", "token")
_USER_INFO = re.compile(r"://[^\s]*@")
ENV_NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""`${NAME}`: replaced by the environment."""


NULL_SECRETS = (
    "milvus.token",
    "query.cursor_key",
    "query.rerank.key",
    "client.api_key",
    "registry.password",
    "registry.token",
)
"""Secrets that may be null: there is none."""


def is_secret(name: str) -> bool:
    """Whether a setting (`section.key`) is a password or token: always text, never printed."""
    return name in NULL_SECRETS or (name.startswith("kafka.") and any(word in name.lower() for word in _SECRET_WORDS))


def masked(value: Any, name: str = "") -> Any:
    """Plain values for printing: secrets, and the user part of every address, replaced by stars."""
    if isinstance(value, dict):
        return {key: masked(member, f"{name}.{key}".lstrip(".")) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [masked(member, name) for member in value]
    if is_secret(name):
        return _STARS if value else value
    return _USER_INFO.sub(f"://{_STARS}@", value) if isinstance(value, str) else value


def is_in_clear(name: str, value: str) -> bool:
    """Whether this value of a setting holds a secret itself and not a reference to it."""
    if not is_secret(name):
        user_info = _USER_INFO.search(value)
        return user_info is not None and bool(ENV_NAME.sub("", user_info[0].strip(":/@")).strip(":"))
    return value not in ("", "null") and not value.startswith("file:") and bool(ENV_NAME.sub("", value))
