"""`milvus-stream collections`: what milvus-stream has made in Milvus, and how to remove it."""

import difflib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from consumers.cli import output as tables
from consumers.cli.inventory import OwnCollection, live_documents, own_collections, partition_rows
from consumers.cli.status import quick
from consumers.config import Settings
from consumers.kafka import group_lag
from consumers.wiring import common as wiring
from pipeline.errors import MilvusStreamError, Mismatch, NotFound, NotLoaded, UsageError
from pipeline.store import MilvusServerApi, check_collection_name, ledger_name, read_ledger_of

_NEAREST = 3


def list_all(settings: Settings) -> list[dict[str, Any]]:
    """Our collections by name. Keys of each, stable for `--json`:

    `name`, `configured` (it is milvus.collection), `rows` (null: not loaded, or gone), `model`, `dimension`,
    `partitions`, `ledger` (its name or null), `note` (null, or what is wrong with it). Raises Unavailable, UsageError.
    """
    with wiring.milvus(settings) as api:
        return [_listed(settings, api, own) for own in own_collections(api)]


def info(settings: Settings, name: str) -> dict[str, Any]:
    """One collection. Keys, stable for `--json`:

    `name`, `model` (stamp; null: not made by milvus-stream), `fields` [{`name`, `type`, `primary`, `dimension`,
    `max_length`}], `dynamic`, `indexes` {field: {`type`, `metric`, `params`, `indexed_rows`, `pending_rows`}}, `rows`,
    `documents` (null: no ledger), `ledger`, `partitions` [{`name`, `from`, `to`, `rows`, `loaded`}].
    Raises NotFound with similar names, Unavailable, UsageError.
    """
    with wiring.milvus(settings) as api:
        own = _find(api, name)
        if own.info is None:
            raise NotFound(f"of collection {name!r} only the ledger {own.ledger} is left; {_leftover(name)}")
        held = partition_rows(api, name)
        indexes = {}
        for field, index in own.info.indexes.items():
            indexed, pending = api.index_progress(name, field)
            progress = {"indexed_rows": indexed, "pending_rows": pending}
            indexes[field] = {"type": index.type, "metric": index.metric, "params": dict(index.params), **progress}
        return {
            "name": name,
            "model": own.model,
            "fields": [
                {name: getattr(field, name) for name in ("name", "type", "primary", "dimension", "max_length")}
                for field in own.info.fields
            ],
            "dynamic": own.info.dynamic,
            "indexes": indexes,
            "rows": sum(one.rows or 0 for one in held),
            "documents": None if own.ledger is None else live_documents(api, name),
            "ledger": own.ledger,
            "partitions": [one.as_dict() for one in held],
        }


def drop(settings: Settings, name: str, *, dry_run: bool, yes: bool) -> None:
    """Remove the collection and its ledger after a question, or say with `dry_run` what would go.

    Raises NotFound with similar names, Mismatch for a collection that is not ours, UsageError without `yes` where
    nobody can be asked, Unavailable. Nothing is changed then.
    """
    with wiring.milvus(settings) as api:
        own = _find(api, name)
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
        # The ledger first: one that outlived its collection would have a worker take every document for stored.
        for gone in (own.ledger, own.name if own.info is not None else None):
            if gone is not None:
                api.drop_collection(gone)
                sys.stdout.write(f"dropped {gone}\n")


def show_list(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the collections as a table."""
    if not rows:
        sys.stderr.write("there is no collection made by milvus-stream\n")
        return
    columns = ("name", "configured", "rows", "partitions", "model", "dimension", "ledger", "note")
    cells = ([row[column] if row[column] is not None else "" for column in columns] for row in rows)
    tables.stdout().print(tables.table(columns, cells))


def show_info(found: Mapping[str, Any]) -> None:
    """Print one collection."""
    console = tables.stdout()
    model = found["model"]
    told = "-: not made by milvus-stream" if model is None else f"{model.get('name')} ({model.get('digest', '')[:12]})"
    documents = "" if found["documents"] is None else f", {found['documents']:,} documents"
    console.print(f"{found['name']}: {found['rows']:,} rows{documents}, ledger {found['ledger'] or '-'}")
    console.print(f"model: {tables.printable(told)}\n")
    columns = ("field", "type", "primary", "dimension", "max bytes")
    fields = (
        [field[key] for key in ("name", "type", "primary", "dimension", "max_length")] for field in found["fields"]
    )
    console.print(tables.table(columns, fields))
    console.print(f"other fields (metadata): {'kept' if found['dynamic'] else 'no place for them'}\n")
    indexes = (
        (field, one["type"], one["metric"], one["indexed_rows"], one["pending_rows"], one["params"])
        for field, one in found["indexes"].items()
    )
    console.print(tables.table(("index on", "type", "metric", "rows in it", "rows waiting", "parameters"), indexes))
    console.print("")
    held = ((one["name"], one["from"], one["to"], one["rows"], one["loaded"]) for one in found["partitions"])
    console.print(tables.table(("Milvus partition", "from", "to", "rows", "loaded"), held))


def _find(api: MilvusServerApi, name: str) -> OwnCollection:
    """The collection, ours or not, with its ledger if there is one; NotFound with similar names of ours."""
    check_collection_name(name)
    present = api.collections()
    ledger = ledger_name(name) if ledger_name(name) in present else None
    described = api.describe(name)
    if described is not None and described.name != name:
        raise UsageError(f"{name!r} is an alias: name the collection {described.name!r} itself")
    owner = None if described is None else read_ledger_of(described)
    if owner is not None:
        raise UsageError(f"{name!r} is the ledger of {owner!r}: name that collection, its ledger goes with it")
    if ledger is not None:
        told = api.describe(ledger)
        ledger = ledger if told is not None and read_ledger_of(told) == name else None
    if described is None and ledger is None:
        near = difflib.get_close_matches(name, [own.name for own in own_collections(api)], n=_NEAREST)
        hint = f"did you mean {' or '.join(near)}?" if near else "see `milvus-stream collections list`"
        raise NotFound(f"there is no collection {name!r}; {hint}")
    return OwnCollection(name, described, ledger)


def _listed(settings: Settings, api: MilvusServerApi, own: OwnCollection) -> dict[str, Any]:
    model = own.model or {}
    return {
        "name": own.name,
        "configured": own.name == settings.milvus.collection,
        "rows": _count(api, own.name) if own.info is not None else None,
        "model": model.get("name"),
        "dimension": model.get("dimension"),
        "partitions": len(api.partitions(own.name)) if own.info is not None else 0,
        "ledger": own.ledger,
        "note": _leftover(own.name) if own.info is None else None,
    }


def _leftover(name: str) -> str:
    return f"a worker would take its documents for stored: `milvus-stream collections drop {name}` removes the rest"


def _count(api: MilvusServerApi, name: str) -> int | None:
    try:
        return api.count(name)
    except NotLoaded:
        return None


def _plan(settings: Settings, api: MilvusServerApi, own: OwnCollection) -> list[str]:
    lines = []
    if own.info is not None:
        rows = _count(api, own.name)
        told = "an unknown number of" if rows is None else f"{rows:,}"
        where = settings.milvus.uri.rpartition("@")[2]
        lines.append(f"collection {own.name} on {where}: {told} rows in {len(api.partitions(own.name))} partitions")
    if own.ledger is not None:
        lines.append(f"its ledger {own.ledger}")
    return lines


def _consequence(settings: Settings, name: str) -> str:
    """What the group does afterwards, where it is the collection that the configured group fills."""
    if name != settings.milvus.collection:
        return ""
    kafka = quick(wiring.kafka_settings(settings))
    try:
        read = sorted({lag.topic for lag in group_lag(kafka) if lag.committed})
    except MilvusStreamError as error:
        return f"note: whether group {kafka.group_id} has read its topics could not be asked: {error}\n"
    if not read:
        return ""
    return (
        f"note: group {kafka.group_id} has committed offsets on {', '.join(read)}, so its workers go on from there and "
        "do not read again what is dropped now. To fill a new collection from the beginning, set kafka.group_id to a "
        "new name; or stop the workers and reset the group: kafka-consumer-groups.sh --bootstrap-server "
        f"{kafka.bootstrap_servers} --group {kafka.group_id} {' '.join(f'--topic {topic}' for topic in read)} "
        "--reset-offsets --to-earliest --execute\n"
    )


def _confirm(plan: Sequence[str], consequence: str, *, yes: bool) -> None:
    """Go on, or end with UsageError (nobody to ask) or exit code 1 (the answer was no)."""
    if not yes and not sys.stdin.isatty():
        raise UsageError(
            f"this drops {' and '.join(plan)}. Nothing was changed: add --yes to do it, or --dry-run to look"
        )
    sys.stderr.write("".join(f"to be dropped: {line}\n" for line in plan) + consequence)
    if not yes:
        typer.confirm("Drop it?", abort=True, err=True)
