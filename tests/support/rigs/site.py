"""A topic, a group and a collection of one name on real servers, their configuration, and commands that use it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka.admin import KafkaAdminClient, MemberToRemove

from consumers.config import Settings, load_settings
from tests.support.milvus import milvus_client

Sections = Mapping[str, Any]


def failing_at(point: str) -> dict[str, str]:
    """The environment in which a process ends at `name:n`."""
    return {"MILVUS_STREAM_FAILPOINT": point} if point else {}


@dataclass(frozen=True)
class Site:
    """Where it is; tests add what they publish and look at."""

    name: str
    """Of topic, group and collection."""
    config: Path
    kafka: str
    milvus: str

    @property
    def dead_letter_topic(self) -> str:
        return f"{self.name}.dlq"

    def settings(self, *sets: str) -> Settings:
        """What a process with this configuration finds."""
        return load_settings(self.config, {}, sets)

    def arguments(self, command: str, *options: str) -> list[str]:
        """For python."""
        return ["-m", "consumers.cli", *command.split(), "-c", str(self.config), *options]

    def run(self, command: str, *options: str, point: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command to its end, or to the point at which it fails."""
        return subprocess.run(
            [sys.executable, *self.arguments(command, *options)],
            env={**os.environ, **failing_at(point)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def command(self, command: str, *options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command that ends with this exit code."""
        done = self.run(command, *options)
        assert done.returncode == code, f"{done.returncode}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
        return done


def write_config(path: Path, name: str, kafka: str, milvus: str, sections: Sections | None = None) -> Path:
    """The configuration of a site; `sections` replace single settings in it. Returns `path`."""
    config: dict[str, Any] = {
        "kafka": {
            "bootstrap_servers": kafka,
            "topics": [name],
            "group_id": name,
            "dead_letter_topic": f"{name}.dlq",
            "session_timeout": "6s",
        },
        "milvus": {"uri": milvus, "collection": name.replace("-", "_"), "flush_interval": "1s"},
        "embedding": {"model": "hash:16"},
        "telemetry": {"port": 0},
    }
    for section, values in (sections or {}).items():
        config[section] = {**config.get(section, {}), **values} if isinstance(values, Mapping) else values
    path.write_text(json.dumps(config))  # which is YAML
    return path


@contextmanager
def topics(site: Site, partitions: int, dead_letters: Mapping[str, Any] | None = None) -> Iterator[KafkaAdminClient]:
    """Create the topic, and with `dead_letters` (its configuration) that of dead letters.

    At the end nothing that begins with the site's name is left, on neither server.
    """
    with closing(KafkaAdminClient(bootstrap_servers=site.kafka)) as admin:
        create: dict[str, Any] = {site.name: {"num_partitions": partitions, "replication_factor": 1}}
        if dead_letters is not None:
            create[site.dead_letter_topic] = {"num_partitions": 1, "replication_factor": 1, "configs": dead_letters}
        admin.create_topics(create, wait_for_metadata=True)
        try:
            yield admin
        finally:
            _remove(admin, site)


def expel(admin: KafkaAdminClient, group: str) -> None:
    """Take the dead out of a group, so that who comes next need not wait for the end of their session."""
    members = admin.describe_groups([group])[group]["members"]
    if members:
        admin.remove_group_members(group, [MemberToRemove(member["member_id"]) for member in members])


def _remove(admin: KafkaAdminClient, site: Site) -> None:
    groups = [group["group_id"] for group in admin.list_groups() if group["group_id"].startswith(site.name)]
    for group in groups:
        expel(admin, group)
    admin.delete_groups(groups)
    admin.delete_topics([topic for topic in admin.list_topics() if topic.startswith(site.name)])
    with closing(milvus_client(site.milvus)) as client:
        for collection in client.list_collections():
            if collection.startswith(site.name.replace("-", "_")):
                client.drop_collection(collection)
