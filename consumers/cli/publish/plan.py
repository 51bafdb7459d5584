"""What a run will send: every row is decoded first, and compared with what the last run published."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from consumers.cli.publish.rows import Row
from pipeline.errors import UsageError
from pipeline.intake import Decoder
from pipeline.records import Delete, Position, Rejected, SourceRecord

SHOWN = 1_000
"""Problems that are listed; all are counted."""
_CONFLICTS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Checked:
    """A row that can be published."""

    where: str
    doc_id: str
    value: bytes
    digest: str
    name: str
    """Its name in the manifest: equal ids of two tenants are two documents."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that is not published, and why."""

    where: str
    why: str

    def as_dict(self) -> dict[str, str]:
        """For `--json`."""
        return {"where": self.where, "why": self.why}


@dataclass(frozen=True, slots=True)
class Checker:
    """Decodes rows as ingest will. A missing event time is the time of sending."""

    decoder: Decoder
    topic: str
    now_ms: int
    max_bytes: int
    """The largest record that topic and configuration take."""
    deletes: bool
    """Whether rows may delete: in mode append none can."""

    def check(self, row: Row) -> Checked | Problem:
        """The row with its document's id, or what is wrong with it."""
        if row.value is None:
            return Problem(row.where, row.problem)
        operation = self.decoder.decode(
            SourceRecord(Position(self.topic, 0, 0), self.now_ms, None, row.value), self.now_ms
        )
        if isinstance(operation, Rejected):
            return Problem(row.where, f"{operation.reason}: {operation.message}")
        if isinstance(operation, Delete):
            if not self.deletes:
                return Problem(row.where, "in mode append there is nothing to delete")
            doc_id, tenant = operation.doc_id, operation.tenant
        else:
            doc_id, tenant = operation.document.doc_id, operation.document.tenant
        size = len(doc_id.encode()) + len(row.value)
        if size > self.max_bytes:
            return Problem(
                row.where,
                f"the record has {size:,} bytes; kafka.max_record_bytes and the topic's max.message.bytes allow "
                f"{self.max_bytes:,}",
            )
        name = doc_id if tenant is None else json.dumps([tenant, doc_id])
        return Checked(row.where, doc_id, row.value, blake2b(row.value, digest_size=16).hexdigest(), name)


@dataclass(slots=True)
class Plan:
    """The outcome of the first pass."""

    rows: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    """Of every document in the rows."""
    pending: set[str] = field(default_factory=set)
    """The documents to send."""
    problems: int = 0


def make_plan(
    rows: Callable[[], Iterator[Row]],
    checker: Checker,
    published: Mapping[str, str],
    on_problem: Callable[[Problem], None],
    on_row: Callable[[int], None],
) -> Plan:
    """Check every row. Raises UsageError for ids that rows with different content share."""
    plan = Plan()
    conflicts: set[str] = set()
    for row in rows():
        plan.rows += 1
        on_row(plan.rows)
        checked = checker.check(row)
        if isinstance(checked, Problem):
            plan.problems += 1
            on_problem(checked)
        elif plan.digests.setdefault(checked.name, checked.digest) != checked.digest:
            conflicts.add(checked.name)
        elif published.get(checked.name) != checked.digest:
            plan.pending.add(checked.name)
    if conflicts:
        raise _conflict(rows(), checker, conflicts)
    return plan


def _conflict(rows: Iterable[Row], checker: Checker, names: set[str]) -> UsageError:
    """Which rows share an id, found by a second look: to keep the place of every row would take much memory."""
    shown = sorted(names)[:_CONFLICTS_SHOWN]
    places: dict[str, list[str]] = {name: [] for name in shown}
    for row in rows:
        checked = checker.check(row)
        if isinstance(checked, Checked) and checked.name in places and len(places[checked.name]) < _CONFLICTS_SHOWN:
            places[checked.name].append(checked.where)
    lines = [f"  {name!r}: {', '.join(where)}" for name, where in places.items()]
    more = [f"  and {len(names) - len(shown):,} more"] if len(names) > len(shown) else []
    return UsageError("\n".join(["rows with different content share an id; nothing was sent:", *lines, *more]))


def to_send(rows: Iterable[Row], checker: Checker, plan: Plan) -> Iterator[Checked]:
    """The rows to send, each document once. Raises UsageError where the rows are no more those of the plan."""
    left = set(plan.pending)
    for row in rows:
        checked = checker.check(row)
        if isinstance(checked, Problem):
            continue
        if plan.digests.get(checked.name) != checked.digest:
            raise _changed(checked.where)
        if checked.name in left:
            left.remove(checked.name)
            yield checked
    if left:
        raise _changed("some rows")


def _changed(where: str) -> UsageError:
    return UsageError(f"{where} changed while it was published; run the command again")


def vanished(plan: Plan, published: Mapping[str, str]) -> list[str]:
    """The documents of former runs that no row holds any more."""
    return [name for name in published if name not in plan.digests]


def manifest_before(plan: Plan, published: Mapping[str, str], gone: Iterable[str]) -> dict[str, str]:
    """What is known while records are sent: the digest of a document that may or may not have been sent is empty.

    A run that is cut off may have sent the new version of a document. If its row then gets its old content back, it
    must be sent again, although the run before has published just that.
    """
    return {**published, **dict.fromkeys(gone, ""), **dict.fromkeys(plan.pending, "")}


def manifest_after(plan: Plan, published: Mapping[str, str], deleted: Iterable[str]) -> dict[str, str]:
    """What is published after the run: also what vanished and was not deleted, so that it can be later."""
    gone = set(deleted)
    return {name: digest for name, digest in {**published, **plan.digests}.items() if name not in gone}
