"""The folder of prepared models: found by what they were made of, checked by digest, added whole or not at all."""

import fcntl
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import structlog

from pipeline.embedding.loading.prepared.manifest import (
    CONVERTER,
    SETTINGS,
    Kind,
    Manifest,
    Precision,
    file_digests,
    read_manifest,
)
from pipeline.errors import UsageError

_REFUSAL_FILE = "refused.json"
_KEY_DIGITS = 16

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """A model to be prepared."""

    name: str
    """The model as configured."""
    folder: str
    """Of its own files."""
    digest: str
    """As in `Manifest`."""
    source: str
    """SHA-256 over everything that is read from its folder."""
    precision: Precision
    calibration: str | None = None
    """File of texts that an int8 model is calibrated on; None: texts of the standard library's documentation."""
    destination: str = ""
    """Folder to be filled."""
    kind: Kind = "embedding"

    @property
    def key(self) -> str:
        """The name of the prepared model's folder: equal exactly when another conversion would give the same."""
        made_of = [self.source, self.digest, self.precision, version("openvino"), CONVERTER]
        digits = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:_KEY_DIGITS]
        plain = re.sub(r"[^A-Za-z0-9.-]+", "-", self.name.rstrip("/").rpartition("/")[2]).strip("-.") or "model"
        return f"{plain[:60]}-{self.precision}-{digits}"


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A prepared model in its folder."""

    folder: Path
    manifest: Manifest

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


class Refused(Exception):
    """The model cannot be converted, for the reason in the message; torch may run it."""


class PreparedModels:
    """The prepared models under one folder. Several processes may use it at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser()

    def find(self, request: Request) -> PreparedModel | None:
        """The prepared model of a request, its files compared with their digests; None where there is none.

        One that is damaged is reported and counts as missing. Raises `Refused` if the conversion was refused before.
        """
        folder = self.folder / request.key
        if (reason := read_refusal(folder)) is not None:
            raise Refused(reason)
        if not folder.is_dir():
            return None
        try:
            return _checked(folder, request)
        except (OSError, UsageError) as error:
            log.warning("model.damaged", folder=str(folder), why=str(error), what="it is prepared again")
            return None

    def named(self, name: str, precision: Precision, kind: Kind = "embedding") -> PreparedModel | None:
        """The prepared model of a name, for a machine without the model's own files; None where there is none.

        Raises UsageError where two models of that name were prepared.
        """
        wanted = (name, precision, kind)
        usable = [
            model
            for model in self.all()
            if (model.manifest.name, model.manifest.precision, model.manifest.kind) == wanted and self.usable(model)
        ]
        if len({one.manifest.digest for one in usable}) > 1:
            raise UsageError(
                f"{SETTINGS[kind]}: {name!r} is not on this machine, and {self.folder} has {len(usable)} prepared "
                f"models of that name: set {SETTINGS[kind]} to the folder of the one that is meant, or remove the "
                "others with `milvus-stream model remove`"
            )
        return next((one for one in usable if one.manifest.files == file_digests(one.folder)), None)

    def usable(self, model: PreparedModel) -> bool:
        """Whether it was prepared as this version of the program would."""
        manifest = model.manifest
        return manifest.versions.get("openvino") == version("openvino") and manifest.converter == CONVERTER

    def all(self) -> list[PreparedModel]:
        """Every prepared model, also of other versions, by folder name; what cannot be read is left out."""
        models = []
        for folder in sorted(self.folder.glob("*")) if self.folder.is_dir() else ():
            try:
                models.append(PreparedModel(folder, read_manifest(folder)))
            except UsageError:
                continue
        return models

    def remove(self, model: PreparedModel) -> None:
        """Delete a prepared model. A process that has loaded it keeps running."""
        with self._errors():
            shutil.rmtree(model.folder)

    @contextmanager
    def making(self, request: Request) -> Iterator[Path]:
        """A new folder to fill, which takes the model's place when the block ends well.

        Raises UsageError where the folder cannot be written to.
        """
        with self._errors():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            place = self.folder / request.key
            new = Path(tempfile.mkdtemp(prefix=f".{request.key}.", dir=self.folder))
            try:
                yield new
                shutil.rmtree(place, ignore_errors=True)
                new.rename(place)
            finally:
                shutil.rmtree(new, ignore_errors=True)

    @contextmanager
    def locked(self, request: Request) -> Iterator[None]:
        """Exclude other processes that prepare the same model; a lock ends with its process."""
        with self._errors():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (self.folder / f".{request.key}.lock").open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    log.info("model.waiting", model=request.name, what="another process prepares it")
                    fcntl.flock(file, fcntl.LOCK_EX)
                yield

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UsageError(
                f"embedding.cache_folder: prepared models cannot be kept in {self.folder}: {error}. Make space or give "
                "access there, set embedding.cache_folder to another folder, or prepare the model before with "
                "`milvus-stream model prepare`"
            ) from error


def _checked(folder: Path, request: Request) -> PreparedModel:
    """The prepared model in a folder. Raises UsageError or OSError unless it is whole and of this request."""
    manifest = read_manifest(folder)
    if (manifest.digest, manifest.precision, manifest.converter) != (request.digest, request.precision, CONVERTER):
        raise UsageError("it is of another model")
    if manifest.files != file_digests(folder):
        raise UsageError("its files are not those that were written")
    return PreparedModel(folder, manifest)


def write_refusal(folder: Path, reason: str) -> None:
    """Keep why the model cannot be converted, so that the next start need not try."""
    (folder / _REFUSAL_FILE).write_text(json.dumps({"reason": reason}), encoding="utf-8")


def read_refusal(folder: Path) -> str | None:
    """Why the model of this folder cannot be converted; None where that is not known."""
    try:
        return str(json.loads((folder / _REFUSAL_FILE).read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
