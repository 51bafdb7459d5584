"""The manifest: what the last run published to a topic, so that the next one sends only what has changed."""

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import UsageError

_NAME = ".milvus-stream-manifest.json"


@dataclass(frozen=True, slots=True)
class Target:
    """A topic of one cluster."""

    topic: str
    cluster: str
    """Kafka's id of the topic, which no other topic has; the broker's address where Kafka gives none."""


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: int
    topic: str
    cluster: str
    documents: dict[str, str]


def manifest_path(path: Path) -> Path:
    """Where the manifest of a file or folder is."""
    return path / _NAME if path.is_dir() else path.with_name(path.name + _NAME)


def read_manifest(path: Path) -> tuple[Target, Mapping[str, str]] | None:
    """The target and the digest of each id; None where there is no manifest. Raises UsageError."""
    try:
        stored = _Stored.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"the manifest {path} cannot be read: {error.strerror or error}") from None
    except ValidationError:
        stored = None
    if stored is None or stored.version != 1:
        raise UsageError(f"{path} is no manifest of this version: move it away, then every row is sent again") from None
    return Target(stored.topic, stored.cluster), stored.documents


def write_manifest(path: Path, target: Target, documents: Mapping[str, str]) -> None:
    """Replace the manifest at once: a reader, or a crash, meets the old or the new one. Raises UsageError."""
    content = {"version": 1, "topic": target.topic, "cluster": target.cluster, "documents": documents}
    name = ""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        if name:
            with suppress(OSError):
                os.unlink(name)
        raise UsageError(f"the manifest {path} cannot be written: {error.strerror or error}") from None
