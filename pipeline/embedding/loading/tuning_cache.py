"""A cache of batch plans measured on this machine, one small file each; without the file they are measured again."""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import structlog

from pipeline.embedding.engine.batch_runner import BatchPlan

log = structlog.get_logger(__name__)


def remembered_plan(
    folder: Path, circumstances: Mapping[str, str | int], measure: Callable[[], BatchPlan]
) -> BatchPlan:
    """The plan of an earlier start in these circumstances, or the one that is measured now."""
    cache = TuningCache(folder, circumstances)
    if (cached := cache.read()) is not None:
        return cached
    start = time.perf_counter()
    plan = measure()
    log.info("model.tuned", seconds=round(time.perf_counter() - start, 2), **asdict(plan))
    cache.write(plan)
    return plan


class TuningCache:
    """The cached plan of one model on one device, keyed by everything that the measurement depends on."""

    def __init__(self, folder: Path, circumstances: Mapping[str, str | int]) -> None:
        """`circumstances`: the key, e.g. weights, device, precision, versions, cores."""
        self._circumstances = dict(circumstances)
        name = hashlib.sha256(json.dumps(self._circumstances, sort_keys=True).encode()).hexdigest()
        self._path = folder / f"{name[:32]}.json"

    def read(self) -> BatchPlan | None:
        """The cached plan, or None if there is no file or one that `write` did not write for these circumstances."""
        try:
            content = json.loads(self._path.expanduser().read_bytes())
            plan = BatchPlan(**content["plan"])
            usable = content["measured_for"] == self._circumstances and all(
                type(value) is int and value > 0 for value in asdict(plan).values()
            )
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:  # RuntimeError: no home folder
            log.warning("tuning.unreadable", path=str(self._path), error=str(error), what="measuring again")
            return None
        if not usable:
            log.warning("tuning.foreign", path=str(self._path), what="measuring again")
        return plan if usable else None

    def write(self, plan: BatchPlan) -> None:
        """Cache the plan; a folder that cannot be written to is only logged."""
        content = json.dumps({"measured_for": self._circumstances, "plan": asdict(plan)}, indent=1, sort_keys=True)
        try:
            write_whole(self._path.expanduser(), content)
        except (OSError, RuntimeError) as error:
            log.info("tuning.not_remembered", path=str(self._path), error=str(error))


def write_whole(path: Path, content: str) -> None:
    """Write a file of measurements, whole or not at all. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Another process may write the same at this moment, and a name that can be guessed could be a link.
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        written = Path(file.name)
        try:
            file.write(content)
            file.close()
            written.replace(path)
        except BaseException:
            written.unlink()
            raise
