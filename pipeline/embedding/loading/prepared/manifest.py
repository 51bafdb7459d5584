"""The manifest of a prepared model: what the engine must know beside the converted weights."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pipeline.errors import UsageError

CONVERTER = 1
"""Number of this way to convert; prepared models of another one are converted again."""
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.xml"
WEIGHTS_FILE = "model.bin"
TOKENIZER_FILE = "tokenizer.json"
REFERENCE_FILE = "reference.npy"
_FILES = (MODEL_FILE, WEIGHTS_FILE, TOKENIZER_FILE, REFERENCE_FILE)

Precision: TypeAlias = Literal["float", "int8"]
"""Of the stored weights. `float` runs in float32 or bfloat16, as chosen when it is compiled."""
Kind: TypeAlias = Literal["embedding", "cross-encoder"]
"""What the model computes: a vector of a text, or how well a text answers a query."""
SETTINGS: dict[Kind, str] = {"embedding": "embedding.model", "cross-encoder": "query.rerank.model"}
"""Where a model of this kind is configured."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One prepared model."""

    name: str
    """The model as configured when it was prepared."""
    digest: str
    """Of the model's own files, as in its stamp; of an int8 model with what it was calibrated on."""
    precision: Precision
    dimension: int
    """Components of a whole vector."""
    pooling: str
    max_tokens: int
    """The model's input limit in tokens, special tokens included."""
    padding_id: int
    document_prompt: str
    query_prompt: str
    masks_prompt: bool
    """Whether the model has the input `pooling_mask`: its pooling leaves the prompt out."""
    unit_length: bool
    """Whether the model's last step scales vectors to length 1."""
    truncated: bool
    """Whether `dimension` is less than that step gives: the model itself keeps only a part, which is not scaled."""
    kind: Kind = "embedding"
    token_types: bool = False
    """Whether the model has the input `token_type_ids`: which tokens are of the query, and which of the text."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages that converted it."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 in hex of each file."""
    converter: int = CONVERTER


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that a manifest names; raises OSError where one is missing."""
    digests = {}
    for name in _FILES:
        with (folder / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it into the folder, whose files it describes."""
    content = json.dumps(asdict(manifest), indent=1, sort_keys=True)
    (folder / MANIFEST_FILE).write_text(content, encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest in a folder, not compared with its files. Raises `UsageError` where there is none to be read."""
    path = folder / MANIFEST_FILE
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return Manifest(**content)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path} of the prepared model cannot be read: {error}") from error
