"""The binding of a consumer group to the collection that it fills, kept in the metadata of its commits."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from consumers.kafka.client.connection import KafkaSettings, open_admin
from consumers.kafka.groups.commits import Commit, group_commits
from consumers.kafka.topics.admin import existing_topics
from pipeline.errors import Mismatch
from pipeline.records import KafkaPartition

NO_COLLECTION = "none yet"
"""The id of a collection that is not created yet: no commit names it."""


@dataclass(frozen=True, slots=True)
class CollectionBinding:
    """The collection that a group fills, as one of its workers is configured."""

    collection: str
    collection_id: str
    """As the collection's stamp says, or `NO_COLLECTION`; "": none, and nothing is compared."""
    adopt: bool = False
    """Commits that name another collection are made for this one from now on."""

    def check(self, partition: KafkaPartition, commit: Commit) -> None:
        """Raise Mismatch if the offset was committed for what is in another collection."""
        if not self._is_other(commit) or self.adopt:
            return
        raise Mismatch(
            f"{partition[0]}/{partition[1]}: offset {commit.offset} was committed by this group for what it had stored "
            f"in another collection than {self.collection!r} (id {commit.collection_id[:8]} there, "
            f"{self.collection_id[:8]} here): another milvus.collection or milvus.uri, or it was dropped and made "
            "again. Nothing before that offset would be read into this one. Configure the former collection again; or "
            "set kafka.group_id to a new name, whose workers read everything; or, if this one holds what was read "
            "(`milvus-stream replay --into`) or can do without, run `milvus-stream ingest --adopt` once, the workers "
            "stopped"
        )

    def check_all(self, commits: Mapping[KafkaPartition, Commit]) -> None:
        """Raise Mismatch if one of these offsets was committed for what is in another collection."""
        for partition, commit in sorted(commits.items()):
            self.check(partition, commit)

    def adopts(self, commit: Commit) -> bool:
        """Whether the commit is for another collection and becomes one for this collection."""
        return self.adopt and self._is_other(commit)

    def unnamed(self, commits: Mapping[KafkaPartition, Commit]) -> dict[KafkaPartition, int]:
        """The commits to repeat with this collection's id, because they name none."""
        if not self.collection_id:
            return {}
        return {name: commit.offset for name, commit in commits.items() if not commit.collection_id}

    def _is_other(self, commit: Commit) -> bool:
        return bool(commit.collection_id and self.collection_id) and commit.collection_id != self.collection_id


UNBOUND = CollectionBinding("", "")


def fills(settings: KafkaSettings, collection_id: str) -> bool:
    """Whether the group has committed offsets for this collection. Raises Unavailable, UsageError."""
    with closing(open_admin(settings)) as admin:
        commits = group_commits(admin, settings.group_id)
    return any(commit.collection_id == collection_id for commit in commits.values())


def check_commits(settings: KafkaSettings, binding: CollectionBinding) -> None:
    """Raise Mismatch if the group has committed for another collection; also as `topic_commits`.

    Done before the group is written down as one that fills the collection; an assignment does it again.
    """
    binding.check_all(topic_commits(settings))


def topic_commits(settings: KafkaSettings) -> dict[KafkaPartition, Commit]:
    """Read what the group has committed on its topics. Raises UsageError for a missing topic, Unavailable."""
    with closing(open_admin(settings)) as admin:
        existing_topics(admin, settings.topics)
        commits = group_commits(admin, settings.group_id)
    return {name: commit for name, commit in commits.items() if name[0] in settings.topics}
