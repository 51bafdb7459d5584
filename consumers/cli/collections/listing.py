"""`milvus-stream collections list` and `info`: the collections that milvus-stream has made in Milvus."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from consumers.cli.common.inventory import (
    OwnCollection,
    count_rows,
    filled_mode,
    find_collection,
    live_documents,
    own_collections,
    partition_rows,
)
from consumers.cli.common.output import one_line, stdout, table
from consumers.config import Settings
from consumers.wiring import connections
from pipeline.errors import NotFound
from pipeline.store import MilvusServerApi, stored_stamp


def list_all(settings: Settings) -> list[dict[str, Any]]:
    """Our collections by name. Keys of each, stable for `--json`:

    `name`, `configured` (it is milvus.collection), `mode` (upsert, append; null: unknown), `rows` (null: not loaded, or
    gone), `model`, `dimension`, `partitions`, `ledger` (its name or null), `note` (null, or what is wrong with it).
    Raises Unavailable, UsageError.
    """
    listed = []
    with connections.milvus(settings) as api:
        for own in own_collections(api):
            with suppress(NotFound):  # it was dropped since it was found
                listed.append(_listed(settings, api, own))
    return listed


def info(settings: Settings, name: str) -> dict[str, Any]:
    """One collection. Keys, stable for `--json`:

    `name`, `mode` (upsert, append; null: unknown), `rules` (settings that decide which rows a document has; null:
    made by a former version and not opened by a worker since), `groups` {consumer group: its topics}, `id` (null: none
    yet), `model` (stamp; null: not made by milvus-stream), `fields` [{`name`, `type`, `primary`, `dimension`,
    `max_length`}], `dynamic`, `indexes` {field: {`type`, `metric`, `params`, `indexed_rows`, `pending_rows`}}, `rows`,
    `documents` (null: no ledger), `ledger`, `partitions` [{`name`, `from`, `to`, `rows`, `loaded`}].
    Raises NotFound with similar names, Unavailable, UsageError.
    """
    with connections.milvus(settings) as api:
        own = find_collection(api, name)
        if own.info is None:
            left = {"the ledger": own.ledger, "the marks": own.marks}
            names = " and ".join(f"{what} {its_name}" for what, its_name in left.items() if its_name is not None)
            raise NotFound(f"of collection {name!r} only {names} remain; {_leftover(own)}")
        held = partition_rows(api, name)
        indexes = {}
        for field, index in own.info.indexes.items():
            indexed, pending = api.index_progress(name, field)
            progress = {"indexed_rows": indexed, "pending_rows": pending}
            indexes[field] = {"type": index.type, "metric": index.metric, "params": dict(index.params), **progress}
        stamp = stored_stamp(api, name)
        return {
            "name": name,
            "mode": filled_mode(api, own),
            "rules": None if stamp is None or stamp.rules is None else dict(stamp.rules),
            "groups": {} if stamp is None else {group: sorted(topics) for group, topics in stamp.fillers.items()},
            "id": None if stamp is None else stamp.collection_id or None,
            "model": own.model,
            "fields": [
                {name: getattr(field, name) for name in ("name", "type", "primary", "dimension", "max_length")}
                for field in own.info.fields
            ],
            "dynamic": own.info.dynamic,
            "indexes": indexes,
            "rows": sum(partition.rows or 0 for partition in held),
            "documents": None if own.ledger is None else live_documents(api, name),
            "ledger": own.ledger,
            "partitions": [partition.as_dict() for partition in held],
        }


def show_list(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the collections as a table."""
    if not rows:
        sys.stderr.write("there is no collection made by milvus-stream\n")
        return
    columns = ("name", "configured", "mode", "rows", "partitions", "model", "dimension", "ledger", "note")
    cells = ([row[column] if row[column] is not None else "" for column in columns] for row in rows)
    stdout().print(table(columns, cells))


def show_info(details: Mapping[str, Any]) -> None:
    """Print one collection."""
    console = stdout()
    model = details["model"]
    model_text = (
        "-: not made by milvus-stream" if model is None else f"{model.get('name')} ({model.get('digest', '')[:12]})"
    )
    documents = "" if details["documents"] is None else f", {details['documents']:,} documents"
    console.print(f"{details['name']}: {details['rows']:,} rows{documents}, ledger {details['ledger'] or '-'}")
    console.print(f"model: {one_line(model_text)}")
    console.print(f"mode: {details['mode'] or 'unknown'}")
    groups = "; ".join(f"{group} from {', '.join(topics)}" for group, topics in sorted(details["groups"].items()))
    console.print(f"filled by: {one_line(groups) or '-'}")
    rules = ", ".join(f"{name}: {value}" for name, value in (details["rules"] or {}).items())
    console.print(f"fixed: {one_line(rules) or '-'}\n")
    columns = ("field", "type", "primary", "dimension", "max bytes")
    fields = (
        [field[key] for key in ("name", "type", "primary", "dimension", "max_length")] for field in details["fields"]
    )
    console.print(table(columns, fields))
    console.print(f"other fields (metadata): {'kept' if details['dynamic'] else 'no place for them'}\n")
    indexes = (
        (field, one["type"], one["metric"], one["indexed_rows"], one["pending_rows"], one["params"])
        for field, one in details["indexes"].items()
    )
    console.print(table(("index on", "type", "metric", "rows in it", "rows waiting", "parameters"), indexes))
    console.print("")
    held = (
        (partition["name"], partition["from"], partition["to"], partition["rows"], partition["loaded"])
        for partition in details["partitions"]
    )
    console.print(table(("Milvus partition", "from", "to", "rows", "loaded"), held))


def _listed(settings: Settings, api: MilvusServerApi, own: OwnCollection) -> dict[str, Any]:
    model = own.model or {}
    return {
        "name": own.name,
        "configured": own.name == settings.milvus.collection,
        "mode": filled_mode(api, own),
        "rows": count_rows(api, own.name) if own.info is not None else None,
        "model": model.get("name"),
        "dimension": model.get("dimension"),
        "partitions": len(api.partitions(own.name)) if own.info is not None else 0,
        "ledger": own.ledger,
        "note": _leftover(own) if own.info is None else None,
    }


def _leftover(own: OwnCollection) -> str:
    problem = (
        "its offsets are remembered without its rows"
        if own.ledger is None
        else "a worker would take its documents for stored"
    )
    return f"{problem}: `milvus-stream collections drop {own.name}` removes the rest"
