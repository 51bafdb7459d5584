"""`milvus-stream init`: the first configuration file, its JSON Schema for editors, and on request the topic."""

import json
import re
import sys
import tempfile
from pathlib import Path

from consumers.cli.common.topics import create
from consumers.config import Settings, json_schema, load_settings, starter_yaml
from consumers.wiring.validation import check_settings
from pipeline.errors import UsageError
from pipeline.telemetry import printable

_SCHEMA_FILE = "milvus-stream.schema.json"
_ADDRESS = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", re.ASCII)


def run(path: Path, kafka: str, milvus: str, topic: str, *, collection: str | None, partitions: int | None) -> None:
    """Write the file and make the topic with so many `partitions`; None: no topic.

    Raises UsageError where the file exists or cannot be written, or for a wrong value; then nothing is written.
    """
    if not all(_ADDRESS.fullmatch(part.strip()) for part in kafka.split(",")):
        raise UsageError(f"--bootstrap {kafka}: write HOST:PORT, several separated by commas, e.g. localhost:9092")
    text = starter_yaml(kafka, milvus, topic, collection or _collection_name(topic), _SCHEMA_FILE)
    settings = _checked(text, path)
    _write(path.parent / _SCHEMA_FILE, json.dumps(json_schema(), ensure_ascii=False, indent=2) + "\n", "w")
    _write(path, text, "x")
    sys.stdout.write(printable(str(path)) + "\n")
    if partitions is not None:
        create(settings, topic, partitions)
    where = "" if path.name == "milvus-stream.yaml" and path.parent == Path() else f" -c {printable(str(path))}"
    sys.stderr.write(f"next: milvus-stream doctor{where}, then milvus-stream ingest{where}\n")


def _checked(text: str, path: Path) -> Settings:
    """The settings of the new file, before anything is written. Raises UsageError."""
    if path.exists():
        raise UsageError(f"{path} exists already and is left as it is; name another file: milvus-stream init FILE")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as trial:
        trial.write(text)
        trial.flush()
        settings = load_settings(Path(trial.name), {"KAFKA_PASSWORD": "", "MILVUS_TOKEN": ""})
    check_settings(settings)
    return settings


def _write(path: Path, text: str, mode: str) -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} exists already and is left as it is") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None


def _collection_name(topic: str) -> str:
    """The topic's name as Milvus takes it."""
    name = "".join(character if character.isalnum() else "_" for character in topic)
    return name if name[:1].isalpha() else f"c_{name}"
