"""A topic, a collection and worker processes that are ended at named points."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kafka.admin import KafkaAdminClient
from pymilvus import MilvusClient

from pipeline.failpoints import EXIT_CODE
from tests.support.milvus import milvus_client
from tests.support.names import unique
from tests.support.oracle.observed import committed_and_end
from tests.support.oracle.prefix import judge_prefix
from tests.support.oracle.stored import Contract, Scope, Verdict, judge
from tests.support.rigs.load import Sent
from tests.support.rigs.publisher import Publisher, publisher
from tests.support.rigs.site import Site, expel, topics, write_config

_DIMENSION = 8


@dataclass(frozen=True)
class CrashSite(Site):
    """What is judged there is judged with a message that says where and how to come back."""

    seed: int
    admin: KafkaAdminClient
    publisher: Publisher

    @property
    def folder(self) -> Path:
        """Where its processes write their logs."""
        return self.config.parent

    def publish(self, records: Sequence[Sent]) -> None:
        """Returns when all of them are in the topic."""
        self.publisher.publish(records)
        self.publisher.flush(30)

    def crash(self, point: str, *options: str, command: str = "ingest") -> None:
        """Run a worker that is to end at `point`, and see that it did."""
        options = options or ("--until-caught-up",)
        done = self.run(command, *options, point=point)
        assert done.returncode == EXIT_CODE, self.about(f"{point} was not reached: {done.returncode} {done.stderr}")
        self.expel()

    def expel(self) -> None:
        """Take the dead out of their groups, so that who comes next need not wait for the end of their session."""
        for group in self.admin.list_groups():
            if group["group_id"].startswith(self.name):
                expel(self.admin, group["group_id"])

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

    def _judged(self, by: Callable[[Scope, MilvusClient], Verdict], group: str, collection: str) -> Verdict:
        """What is stored, where it is not what it must be read again after a reload.

        Milvus 2.3.5 misses deletes while it loads a segment, and forgets them in memory only (docs/guarantees.md).
        """
        scope = Scope(
            self.kafka, (self.name,), group, self.dead_letter_topic, collection, Contract(dimension=_DIMENSION)
        )
        # A client for each time: idle between two of them, Milvus Lite would throw it out for its keep-alives.
        with closing(milvus_client(self.milvus)) as client:
            verdict = by(scope, client)
            if verdict.harms:
                print(f"{self.name}: {verdict}; loading the collection again")  # noqa: T201
                for name in (collection, f"{collection}__ledger"):
                    client.release_collection(name)
                    client.load_collection(name, timeout=120)
                verdict = by(scope, client)
            return verdict


@contextmanager
def crash_site(folder: Path, kafka: str, milvus: str, seed: int, *, partitions: int = 2) -> Iterator[CrashSite]:
    """Small batches, several chunks a document, a flush every second, and many polls for a hundred records."""
    name = unique("crash")
    config = write_config(
        folder / f"{name}.yaml",
        name,
        kafka,
        milvus,
        {
            "milvus": {"timeout": "2s"},
            "chunking": {"max_tokens": 12, "overlap": 3},
            "embedding": {"model": f"hash:{_DIMENSION}"},
            "batch": {"max_records": 20, "max_wait": "100ms", "buffer_bytes": "16KiB"},
            "telemetry": {"log_format": "json"},
        },
    )
    plain = Site(name, config, kafka, milvus)
    with topics(plain, partitions, dead_letters={}) as admin, publisher(kafka, name) as sender:
        site = CrashSite(name, config, kafka, milvus, seed, admin, sender)
        try:
            yield site
        finally:
            site.expel()
