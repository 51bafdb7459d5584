"""The versions of Milvus that are known to lose rows or deletes silently, and the first of each line that are not.

Read in Milvus's release notes and issues (https://github.com/milvus-io/milvus/issues); only 2.3.5 was measured.
"""

from dataclasses import dataclass

from pipeline.store.milvus.api import ServerInfo
from pipeline.store.milvus.capabilities import UNKNOWN, Version

FLOORS: tuple[Version, ...] = ((2, 5, 27), (2, 6, 16), (3, 0, 1))
"""Of each line the first version without a known silent loss. The lines before 2.5 have none."""
TESTED_SINCE: Version = (2, 3, 0)
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Loss:
    """One known silent loss."""

    what: str
    issue: str
    """A number at Milvus's repository."""
    affected: tuple[tuple[Version, Version], ...]
    """From a version on, until the one that has the correction; a line before it is taken to have no correction."""

    def affects(self, version: Version) -> bool:
        """Whether this version has it."""
        return any(first <= version < corrected for first, corrected in self.affected)


_OLDEST: Version = (2, 0, 0)
LOSSES = (
    Loss("deletes that arrive while a segment is loaded are missed", "#35261", ((_OLDEST, (2, 4, 8)),)),
    Loss("compaction loses deletes", "#33980", ((_OLDEST, (2, 4, 8)),)),
    Loss("an upsert leaves the older row", "#38947", (((2, 4, 0), (2, 5, 3)),)),
    Loss("compaction of delete logs loses data", "#39460", (((2, 4, 0), (2, 5, 4)),)),
    Loss("deletes are lost where two logs get one id", "#40985", (((2, 4, 0), (2, 5, 8)),)),
    Loss("deletes and rows are lost", "#43855", (((2, 4, 0), (2, 5, 17)),)),
    Loss("compaction of delete logs leaves out sealed segments", "#45339", (((2, 6, 0), (2, 6, 6)),)),
    Loss(
        "deletes are lost after a bulk import",
        "#48910",
        (((2, 4, 0), (2, 5, 27)), ((2, 6, 0), (2, 6, 16))),
    ),
    Loss("delete logs are skipped", "#49228", (((2, 6, 0), (2, 6, 16)),)),
    Loss("deletes miss a segment that was just loaded", "#52166", (((3, 0, 0), (3, 0, 1)),)),
    Loss("compaction loses rows", "#52200", (((3, 0, 0), (3, 0, 1)),)),
    Loss("writes are lost while a log is moved", "#52947", (((3, 0, 0), (3, 0, 1)),)),
)


@dataclass(frozen=True, slots=True)
class VersionWarning:
    """Why a server may lose what it acknowledged, and what to do."""

    seen: str
    do: str


def version_warning(server: ServerInfo) -> VersionWarning | None:
    """Return the warning about a server below its floor, or of unknown version; None for any other and for Lite."""
    do = (
        f"upgrade Milvus to {', '.join(map(_text, FLOORS))} or newer; until then a long milvus.flush_interval and "
        "`milvus-stream audit --repair` help"
    )
    if server.lite:
        return None
    if server.number == UNKNOWN:
        return VersionWarning(f"Milvus {server.version!r} does not say which version it is: it may lose deletes", do)
    line = server.number[:2]
    floor = max((floor for floor in FLOORS if floor[:2] <= line), default=FLOORS[0])
    if server.number >= floor:
        return None
    if server.number < TESTED_SINCE:
        return VersionWarning(f"Milvus {server.version} is below {_text(TESTED_SINCE)}: never tested with this", do)
    losses = [f"{loss.what} ({loss.issue})" for loss in LOSSES if loss.affects(server.number)]
    more = f", and {len(losses) - _SHOWN} more" if len(losses) > _SHOWN else ""
    return VersionWarning(
        f"Milvus {server.version} is below {_text(floor)}, the first version without a known silent loss: "
        f"{', '.join(losses[:_SHOWN]) or 'it was corrected later'}{more}",
        do,
    )


def _text(version: Version) -> str:
    return ".".join(map(str, version))
