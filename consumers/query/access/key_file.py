"""The file of API keys: read again when it changes, replaced as a whole when a key is created or revoked.

JSON: `{"keys": [{"id": …, "sha256": …, "name": …, "scopes": […], …}]}`, each key with the fields of `ApiKey`.
"""

import fcntl
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from consumers.query.access.keys import ApiKey
from pipeline.errors import UsageError

_CHECK_S = 1.0
"""How often the file is looked at; a revoked key is refused after this time at the latest."""
_MOST_BYTES = 8 * 1024 * 1024
"""Some 25,000 keys. More would hold up every request while they are read."""

_log = structlog.get_logger(__name__)


class _Contents(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: tuple[ApiKey, ...]


class KeyFile:
    """The keys of a file by their ids, as they are now; used on one thread.

    A file that cannot be read, or that is broken, leaves the keys of before in force, and an error in the log: a
    mistake of the pen must not shut everybody out. So a key is revoked by a valid file without it.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises UsageError where the file cannot be read or is broken."""
        self._path = path
        self._clock = clock
        self._version = _version(path)
        self._keys = {key.id: key for key in read_keys(path)}
        self._next_check = clock() + _CHECK_S
        if not self._keys:
            _log.warning("access.no_keys", file=str(path), do="milvus-stream keys create; nobody may search until then")

    def keys(self) -> Mapping[str, ApiKey]:
        """The keys by their ids."""
        if self._clock() >= self._next_check:
            self._next_check = self._clock() + _CHECK_S
            self._check()
        return self._keys

    def _check(self) -> None:
        version = _version(self._path)
        if version == self._version:
            return
        # Taken before the file is read: a change while it is read is seen at the next check.
        self._version = version
        try:
            keys = read_keys(self._path)
        except UsageError as error:
            _log.error("access.keys_unreadable", why=str(error), what="the keys of before stay in force")
            return
        self._keys = {key.id: key for key in keys}
        _log.info("access.keys_read", file=str(self._path), keys=len(keys))


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of the file. Raises UsageError that never repeats a value of it."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(
            f"there is no file of keys at {path}; make one: milvus-stream keys create --file {path} --name NAME"
        ) from None
    except OSError as error:
        raise UsageError(f"the file of keys {path} cannot be read: {error.strerror or error}") from None
    if len(content) > _MOST_BYTES:
        raise UsageError(f"the file of keys {path} has more than {_MOST_BYTES:,} bytes")
    try:
        keys = _Contents.model_validate_json(content).keys
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, problem["loc"])) or "the whole"
        raise UsageError(f"the file of keys {path} is broken at {place}: {problem['msg']}") from None
    if len({key.id for key in keys}) != len(keys):
        raise UsageError(f"the file of keys {path} has an id twice")
    return keys


@contextmanager
def change_keys(path: Path) -> Iterator[list[ApiKey]]:
    """The keys of the file to be changed in place; written at the end of the block unless it raises.

    A missing file is created with mode 0600. Readers see the file of before or the new one, never a part. Two processes
    that change it wait for one another. Raises UsageError.
    """
    target = path.resolve()
    with _locked(target.parent):
        keys = list(read_keys(target)) if target.exists() else []
        yield keys
        _replace(target, keys)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """An exclusive lock on the folder: the file itself is replaced, so a lock on it would hold nobody up."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UsageError(f"the folder {folder} of the file of keys: {error.strerror or error}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, keys: Sequence[ApiKey]) -> None:
    content = json.dumps({"keys": [key.model_dump(mode="json") for key in keys]}, ensure_ascii=False, indent=2)
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    except OSError as error:
        raise UsageError(f"the file of keys {path} cannot be written: {error.strerror or error}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            _keep_owner(path, file.fileno())
            file.write(content + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(name)
        raise UsageError(f"the file of keys {path} cannot be written: {error.strerror or error}") from None
    with suppress(OSError):
        _sync_folder(path.parent)


def _keep_owner(path: Path, descriptor: int) -> None:
    """Give the new file the owner, group and mode of the one it replaces: the worker may run as another user."""
    try:
        before = path.stat()
    except FileNotFoundError:
        return
    now = os.fstat(descriptor)
    if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
        os.fchown(descriptor, before.st_uid, before.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _version(path: Path) -> tuple[int, ...] | None:
    """What differs when the file was replaced or written; None where there is none. Follows links, as of a Secret."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size
