"""What was measured on this machine, remembered in a small file; without the file it is measured again."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import structlog

from pipeline.embedding.engine.batch_runner import BatchPlan

log = structlog.get_logger(__name__)


class TuningFile:
    """The plan of one model on one device. Every circumstance that matters is in the name and in the file."""

    def __init__(self, folder: Path, circumstances: Mapping[str, str | int]) -> None:
        """`circumstances`: weights, device, precision, versions, cores."""
        self._circumstances = dict(circumstances)
        name = hashlib.sha256(json.dumps(self._circumstances, sort_keys=True).encode()).hexdigest()
        self._path = folder / f"{name[:32]}.json"

    def read(self) -> BatchPlan | None:
        """The plan, or None if there is no file or none that `write` has written for these circumstances."""
        try:
            found = json.loads(self._path.expanduser().read_bytes())
            plan = BatchPlan(**found["plan"])
            usable = found["measured_for"] == self._circumstances and all(
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
        """Remember the plan; a folder that cannot be written to is only logged."""
        content = json.dumps({"measured_for": self._circumstances, "plan": asdict(plan)}, indent=1, sort_keys=True)
        try:
            path = self._path.expanduser()
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
        except (OSError, RuntimeError) as error:
            log.info("tuning.not_remembered", path=str(self._path), error=str(error))
