"""`milvus-stream collections drop`: remove a collection, its ledger and its marks."""

import sys
from collections.abc import Sequence

import typer

from consumers.cli.common.inventory import OwnCollection, count_rows, find_collection, quick_kafka
from consumers.config import Settings
from consumers.kafka import group_lag
from consumers.wiring import connections
from pipeline.errors import MilvusStreamError, Mismatch, UsageError
from pipeline.store import MilvusServerApi


def drop(settings: Settings, name: str, *, dry_run: bool, yes: bool) -> None:
    """Remove the collection, its ledger and its marks after a question, or say with `dry_run` what would go.

    Raises NotFound with similar names, Mismatch for a collection that is not ours, UsageError without `yes` where
    nobody can be asked, Unavailable. Nothing is changed then.
    """
    with connections.milvus(settings) as api:
        own = find_collection(api, name)
        if own.info is not None and own.model is None:
            raise Mismatch(
                f"collection {name!r} was not made by milvus-stream (it says of no model), so it is not dropped here"
            )
        plan = _plan(settings, api, own)
        if dry_run:
            sys.stdout.write("".join(f"would drop {line}\n" for line in plan))
            sys.stderr.write(_consequence(settings, name))
            return
        _confirm(plan, _consequence(settings, name), yes=yes)
        # The ledger first: one that outlived its collection would have a worker take every document for stored. The
        # marks last: as long as they are there, a worker notices that what they speak of is gone.
        for gone in (own.ledger, own.name if own.info is not None else None, own.marks):
            if gone is not None:
                api.drop_collection(gone)
                sys.stdout.write(f"dropped {gone}\n")


def _plan(settings: Settings, api: MilvusServerApi, own: OwnCollection) -> list[str]:
    lines = []
    if own.info is not None:
        rows = count_rows(api, own.name)
        count = "an unknown number of" if rows is None else f"{rows:,}"
        where = settings.milvus.uri.rpartition("@")[2]
        lines.append(f"collection {own.name} on {where}: {count} rows in {len(api.partitions(own.name))} partitions")
    if own.ledger is not None:
        lines.append(f"its ledger {own.ledger}")
    if own.marks is not None:
        lines.append(f"its marks {own.marks}")
    return lines


def _consequence(settings: Settings, name: str) -> str:
    """What the group does afterwards, where it is the collection that the configured group fills."""
    if name != settings.milvus.collection:
        return ""
    kafka = quick_kafka(settings)
    try:
        read = sorted({lag.topic for lag in group_lag(kafka) if lag.committed})
    except MilvusStreamError as error:
        return f"note: whether group {kafka.group_id} has read its topics could not be asked: {error}\n"
    if not read:
        return ""
    return (
        f"note: group {kafka.group_id} has committed offsets on {', '.join(read)}, so its workers stop rather than "
        "go on in a new collection without what is dropped now. To fill one from the beginning, set kafka.group_id to "
        "a new name; or stop the workers and reset the group: kafka-consumer-groups.sh --bootstrap-server "
        f"{kafka.bootstrap_servers} --group {kafka.group_id} {' '.join(f'--topic {topic}' for topic in read)} "
        "--reset-offsets --to-earliest --execute\n"
    )


def _confirm(plan: Sequence[str], consequence: str, *, yes: bool) -> None:
    """Go on, or end with UsageError (nobody to ask) or exit code 1 (the answer was no)."""
    if not yes and not sys.stdin.isatty():
        raise UsageError(f"this drops {' and '.join(plan)}. Nothing was changed: add --yes to do it, or see --dry-run")
    sys.stderr.write("".join(f"to be dropped: {line}\n" for line in plan) + consequence)
    if not yes:
        typer.confirm("Drop it?", abort=True, err=True)
