"""A topic, a collection and worker processes that are ended at named points."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka.admin import KafkaAdminClient, MemberToRemove
from pymilvus import MilvusClient

from pipeline.embedding import HashEmbedder
from pipeline.failpoints import EXIT_CODE
from tests.support.names import unique
from tests.support.oracle.observed import committed_and_end
from tests.support.oracle.stored import Verdict, judge, judge_prefix
from tests.support.rigs.load import Publisher, Sent, publisher

_MODEL = "hash:8"
_EMBEDDER = HashEmbedder(_MODEL)


@dataclass(frozen=True, slots=True)
class CrashSite:
    """What is judged there is judged with a message that says where and how to come back."""

    name: str
    """Of topic, group and collection."""
    seed: int
    folder: Path
    kafka: str
    milvus: str
    admin: KafkaAdminClient
    publisher: Publisher

    @property
    def config(self) -> Path:
        return self.folder / f"{self.name}.yaml"

    def publish(self, records: Sequence[Sent]) -> None:
        """Returns when all of them are in the topic."""
        self.publisher.publish(records)
        self.publisher.flush(30)

    def command(self, command: str, *options: str) -> list[str]:
        """Arguments for python."""
        return ["-m", "consumers.cli", command, "-c", str(self.config), *options]

    def run(self, command: str, *options: str, point: str = "") -> subprocess.CompletedProcess[str]:
        """Run to the end, or to the point."""
        return subprocess.run(
            [sys.executable, *self.command(command, *options)],
            env={**os.environ, **failing_at(point)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def crash(self, point: str, *options: str, command: str = "ingest") -> None:
        """Run a worker that is to end at `point`, and see that it did."""
        options = options or ("--until-caught-up",)
        done = self.run(command, *options, point=point)
        assert done.returncode == EXIT_CODE, self.about(f"{point} was not reached: {done.returncode} {done.stderr}")
        self.expel()

    def expel(self) -> None:
        """Take the dead out of the group, so that who comes next need not wait for the end of their session."""
        members = self.admin.describe_groups([self.name])[self.name]["members"]
        if members:
            self.admin.remove_group_members(self.name, [MemberToRemove(each["member_id"]) for each in members])

    def finish(self) -> None:
        """Run a worker to the end of the topic, in larger batches."""
        done = self.run("ingest", "--until-caught-up", "--set", "batch.max_records=500")
        assert done.returncode == 0, self.about(done.stderr)

    def offsets(self) -> dict[int, tuple[int, int]]:
        """Committed and end offset by Kafka partition."""
        return committed_and_end(self.kafka, self.name, self.name)

    def expect_prefix(self, after: str, *, group: str = "", collection: str = "") -> None:
        """No worker runs: what is committed is stored, and the ledger is true."""
        verdict = self._judged(judge_prefix, group or self.name, collection or self.name)
        assert verdict.harms == 0, self.about(f"after {after}: {verdict}")

    def expect_exact(self, *, collection: str = "") -> Verdict:
        """At rest: exactly what the oracle says."""
        verdict = self._judged(judge, self.name, collection or self.name)
        assert verdict.harms == 0, self.about(str(verdict))
        return verdict

    def about(self, problem: str) -> str:
        """The problem, and what to set to see it again."""
        return f"RECOVERY_SEED={self.seed}, {self.name}: {problem[-6000:]}"

    def _judged(self, by: Callable[..., Verdict], group: str, collection: str) -> Verdict:
        # A client for each time: idle between two of them, Milvus Lite would throw it out for its keep-alives.
        with closing(MilvusClient(self.milvus)) as client:
            return by(self.kafka, self.name, group, f"{self.name}.dlq", client, collection, vector_of=vector_of)


def failing_at(point: str) -> dict[str, str]:
    """The environment in which a worker ends at `name:n`."""
    return {"MILVUS_STREAM_FAILPOINT": point} if point else {}


def vector_of(text: str) -> Any:
    """What the workers of a crash site must store beside a text."""
    return _EMBEDDER.embed_queries([text])[0]


@contextmanager
def crash_site(
    folder: Path, kafka: str, milvus: str, seed: int, *, partitions: int = 2, **sections: Mapping[str, Any]
) -> Iterator[CrashSite]:
    """Small batches, several chunks a document, a flush every second, and many polls for a hundred records."""
    name = unique("crash")
    config = {
        "kafka": {
            "bootstrap_servers": kafka,
            "topics": [name],
            "group_id": name,
            "dead_letter_topic": f"{name}.dlq",
            "session_timeout": "6s",
        },
        "milvus": {"uri": milvus, "collection": name, "flush_interval": "1s", "timeout": "2s"},
        "chunking": {"max_tokens": 12, "overlap": 3},
        "embedding": {"model": _MODEL},
        "batch": {"max_records": 20, "max_wait": "100ms", "buffer_bytes": "16KiB"},
        "telemetry": {"port": 0, "log_format": "json"},
        **sections,
    }
    with (
        closing(KafkaAdminClient(bootstrap_servers=kafka)) as admin,
        publisher(kafka, name) as sender,
    ):
        admin.create_topics({name: {"num_partitions": partitions, "replication_factor": 1}})
        admin.create_topics({f"{name}.dlq": {"num_partitions": 1, "replication_factor": 1}})
        made = CrashSite(name, seed, folder, kafka, milvus, admin, sender)
        made.config.write_text(json.dumps(config))
        try:
            yield made
        finally:
            made.expel()
            admin.delete_groups([each["group_id"] for each in admin.list_groups() if each["group_id"].startswith(name)])
            admin.delete_topics([name, f"{name}.dlq"])
            with closing(MilvusClient(milvus)) as client:
                for collection in client.list_collections():
                    if collection.startswith(name):
                        client.drop_collection(collection)
