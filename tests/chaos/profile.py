"""What a run's groups read, how they read it, and what fills their topics: decided by the seed."""

from dataclasses import dataclass, field
from typing import Any, Literal

from tests.support.oracle.contract import Contract, Scope
from tests.support.rigs.shaped_load import Shape

Name = Literal["plain", "versions", "tenants"]
NAMES: tuple[Name, ...] = ("plain", "versions", "tenants")
SESSION_S = 10.0
DIMENSION = 32
_FORGETS = "20s"
VERSION, TENANT, DELETE = "rev", "owner", "gone"
CHUNKINGS = ({"max_tokens": 24, "overlap": 4}, {"max_tokens": 40, "overlap": 8}, {"max_tokens": 16, "overlap": 2})
"""The first one at the start; a rolling change goes on to the next."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic with the load that fills it."""

    name: str
    partitions: int
    share: float
    """Of the records."""
    shape: Shape


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group with its collection; both have its name."""

    name: str
    topics: tuple[str, ...]
    contract: Contract
    slots: int
    """Places for workers."""
    workers: int
    """Of them at work as a rule."""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def forgets(self) -> bool:
        """Whether deletes are forgotten during a run."""
        return bool(self.settings.get("milvus", {}).get("tombstone_retention") == _FORGETS)

    @property
    def dead_letter_topic(self) -> str:
        return f"{self.name}.dlq"

    def scope(self, bootstrap: str) -> Scope:
        """What the oracle compares."""
        return Scope(bootstrap, self.topics, self.name, self.dead_letter_topic, self.name, self.contract)


@dataclass(frozen=True, slots=True)
class Profile:
    """The topics and groups of a run; the first group is the one that most faults strike."""

    name: Name
    topics: tuple[Topic, ...]
    groups: tuple[Group, ...]


def profile_of(seed: int) -> Profile:
    """The profile of a seed.

    In all of them: in `documents` the key is the id, in `notes` it only routes; the group `chaos` keeps one version
    of both, the group `archive` appends the notes. `plain`: the later record wins, deletes are soon forgotten.
    `versions`: a version field decides, and some documents are in two Kafka partitions. `tenants`: the same with
    tenants, each in one Kafka partition.
    """
    name = NAMES[seed % len(NAMES)]
    version = None if name == "plain" else VERSION
    tenant = TENANT if name == "tenants" else None
    keyed = Shape(version, tenant, DELETE, two_logs=name == "versions")
    routed = Shape(version, tenant, DELETE, key_is_id=False, two_logs=name == "versions")
    topics = (Topic("documents", 6, 0.7, keyed), Topic("notes", 3, 0.3, routed))
    mapping = {"version_field": version, "tenant_field": tenant, "delete_field": DELETE}
    # Who forgets a delete lets an older version in again. Without versions the later record wins, forgotten or not.
    retention = _FORGETS if name == "plain" else "7d"
    contract = Contract(**mapping, dimension=DIMENSION)  # type: ignore[arg-type]
    appending = Contract(**mapping, dimension=DIMENSION, append=True)  # type: ignore[arg-type]
    kept = {"record": mapping, "milvus": {"tombstone_retention": retention}}
    return Profile(
        name,
        topics,
        (
            Group("chaos", ("documents", "notes"), contract, slots=4, workers=3, settings=kept),
            Group("archive", ("notes",), appending, slots=1, workers=1, settings={"record": mapping, "mode": "append"}),
        ),
    )


def settings_of(group: Group) -> dict[str, Any]:
    """The configuration of the group's workers, the addresses of the servers apart."""
    common: dict[str, Any] = {
        "kafka": {
            "topics": list(group.topics),
            "group_id": group.name,
            "dead_letter_topic": group.dead_letter_topic,
            "session_timeout": f"{SESSION_S:.0f}s",
            "metadata_max_age_ms": 10_000,  # further Kafka partitions are found within this time
        },
        "milvus": {"collection": group.name, "timeout": "2s"},
        "embedding": {"model": f"hash:{DIMENSION}"},
        "chunking": dict(CHUNKINGS[0]),
        "batch": {"max_records": 200, "max_wait": "200ms"},
        "telemetry": {"port": 0, "log_format": "json"},
    }
    for section, values in group.settings.items():
        common[section] = {**common.get(section, {}), **values} if isinstance(values, dict) else values
    return common
