"""The command line of the product with faults inside its process: `python -m tests.chaos.worker FOLDER NAME ingest …`.

`FOLDER` holds the switches of the run, `NAME` is this process's in it. Tombstones are swept every few seconds, and an
audit keeps little in memory before it writes its temporary file.
"""

import sys
from functools import partial
from pathlib import Path

from tests.chaos.injection import Switches, inject_into_calls, inject_into_clock

SWEEP_EVERY_S = 4.0
AUDIT_CACHE_KIB = 64


def main() -> None:
    """Run the command that follows the folder and the name."""
    switches, name = Switches(Path(sys.argv.pop(1))), sys.argv.pop(1)
    # Before the product is imported: its modules keep the clock and the connections that they find then.
    inject_into_clock(switches, name)
    inject_into_calls(switches)
    from consumers.audit import workspace
    from consumers.cli.app import main as command_line
    from consumers.wiring import ingest as wiring
    from pipeline.store import SweepPolicy

    setattr(wiring, "SweepPolicy", partial(SweepPolicy, every_s=SWEEP_EVERY_S, pause_s=0.5))  # noqa: B010
    setattr(workspace, "_CACHE_KIB", AUDIT_CACHE_KIB)  # noqa: B010
    sys.argv[0] = "milvus-stream"
    command_line()


if __name__ == "__main__":
    main()
