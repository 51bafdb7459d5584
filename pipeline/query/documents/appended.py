"""The versions of a document in append mode, where every record is one, and nothing but its rows says so."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.query.documents.errors import NoSuchDocument
from pipeline.query.documents.reads import POSITION_FIELDS, DocumentReads, Row, kept, position_in, tenant_of
from pipeline.records import Position


@dataclass(frozen=True, slots=True)
class AppendedVersion:
    """The rows of one record, without texts."""

    source: Position
    rows: tuple[Row, ...]
    """In order of their chunks."""

    @property
    def whole(self) -> bool:
        """Whether no chunk is missing before the last one that is there."""
        return [row["chunk"] for row in self.rows] == list(range(len(self.rows)))


@dataclass(frozen=True, slots=True)
class AppendedVersions:
    """All versions of a document, newest first; at least one."""

    tenant: str | None
    versions: tuple[AppendedVersion, ...]
    warnings: tuple[str, ...]


def find_versions(reads: DocumentReads, doc_id: str, tenant: str | None) -> AppendedVersions:
    """The versions with this doc_id. Raises NoSuchDocument, InvalidRequest where several tenants have one."""
    rows, complete = reads.rows_by_id(doc_id, tenant, POSITION_FIELDS)
    if not rows:
        raise NoSuchDocument("no document with this id is stored")
    by_source: dict[Position, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        by_source[position_in(row)][row["id"]] = row
    versions = [
        AppendedVersion(source, tuple(sorted(of_source.values(), key=lambda row: int(row["chunk"]))))
        for source, of_source in by_source.items()
    ]
    warnings = []
    if not complete:
        warnings.append(f"more than {reads.max_rows:,} rows have this id; the versions shown are some of them")
    if reads.snapshot.released:
        warnings.append("rows in Milvus partitions that are not loaded are not seen")
    return AppendedVersions(tenant_of(rows[0]), tuple(newest_first(versions)), tuple(warnings))


def newest_first(versions: Sequence[AppendedVersion]) -> list[AppendedVersion]:
    """The versions in order.

    1. All of one topic and Kafka partition: by offset.
    2. Else by event time, which is what the rows know of time; at one event time by topic, Kafka partition and offset.
    """
    if len({version.source[:2] for version in versions}) == 1:
        return sorted(versions, key=lambda version: version.source.offset, reverse=True)
    return sorted(versions, key=lambda version: (version.rows[0]["event_time"], version.source), reverse=True)


def whole_rows(
    reads: DocumentReads, versions: Sequence[AppendedVersion], fields: Sequence[str]
) -> Iterator[tuple[AppendedVersion, list[Row], bool]]:
    """(version, its rows with these fields, whether these are all), until the answer would be too large."""
    size = 0
    for version in versions:
        rows: list[Row] = []
        for found in reads.pages([row["id"] for row in version.rows], fields):
            row, row_bytes = kept(found)
            size += row_bytes
            if size > reads.settings.max_answer_bytes:
                yield version, sorted(rows, key=lambda row: int(row["chunk"])), False
                return
            rows.append(row)
        yield version, sorted(rows, key=lambda row: int(row["chunk"])), len(rows) == len(version.rows)
