"""Which tests one worker process of pytest-xdist runs in a row, and in which order the workers take them."""

import pytest
from xdist.scheduler import LoadScopeScheduling

# A worker that waits for a server or for a session to end leaves its core to the others: what waits longest begins
# first, and short tests that need a core fill the gaps.
_LONGEST_FIRST = (
    "tests/recovery/test_chaos.py",
    "tests/recovery/test_crash_points.py::test_a_crash_at_any",
    "tests/integration/test_worker_process.py::test_memory",
    "tests/integration/test_readme.py",
    "tests/integration/test_audit.py",
    "tests/integration/test_replay.py",
    "tests/recovery/test_crash_points.py",
    "tests/integration/test_commands.py",
    "tests/unit/pipeline/embedding/test_model.py",
    "tests/contract/test_milvus_differential.py",
    "tests/integration/",
    "tests/contract/",
    "tests/property/test_writer_machine.py",
    "tests/unit/pipeline/embedding",
    "tests/property/",
)
_SERVERS = {"fake", "server", "lite", "real", "milvus_uri", "milvus_lite_uri"}
# Files whose tests share nothing that takes long to make: each test is a group.
_SPLIT = (
    "tests/recovery/test_crash_points.py",
    "tests/contract/test_dead_letters.py",
    "tests/contract/test_kafka_source.py",
    "tests/contract/test_milvus_faults.py",
    "tests/integration/test_dlq_retry.py",
    "tests/integration/test_local.py",
    "tests/integration/test_main_job.py",
    "tests/integration/test_readme.py",
    "tests/integration/test_worker_process.py",
)


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a worker whole groups. (`--dist=loadgroup` finds none with pytest 9.2: `nodeid` has no suffix there.)"""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """A file, or what one server of it serves, so that fixtures of a module are made once; or a test."""
    file, _, test = nodeid.partition("::")
    if file.startswith(_SPLIT):
        return nodeid
    parameters = set(test.partition("[")[2].removesuffix("]").split("-"))
    return "/".join([file, *sorted(parameters & _SERVERS)])


def longest_first(items: list[pytest.Item]) -> None:
    """Sort in place; within a rank the order stays as collected."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    ranks = [rank for rank, prefix in enumerate(_LONGEST_FIRST) if item.nodeid.startswith(prefix)]
    return ranks[0] if ranks else len(_LONGEST_FIRST)
