"""`milvus-stream status`: the group's progress and what is stored, read from outside.

No group is joined and no model loaded. Where Kafka or Milvus is away the other half is reported all the same.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.text import Text

from consumers.cli.common.inventory import live_documents, partition_rows, quick_kafka, waiting_since
from consumers.cli.common.output import one_line, span, stdout, table
from consumers.config import Settings
from consumers.kafka import KafkaSettings, MissingTopic, group_lag, topic_facts, topic_ranges
from consumers.wiring import connections
from consumers.wiring.modes import mode_named
from pipeline.errors import MilvusStreamError, Unavailable
from pipeline.store import described_stamp, marks_name, mode_by_data

_SHOWN_PARTITIONS = 20


def collect(settings: Settings, now_ms: int | None = None) -> dict[str, Any]:
    """Everything `status --json` prints. These keys are stable:

    `mode`, `warnings` (sentences), `model` {`configured`, `stored` (stamp or null), `hash`},
    `kafka` {`error`, `bootstrap_servers`, `group`, `lag`, `partitions`: [{`topic`, `partition`, `start`, `end`,
    `committed` (null: never), `lag`, `age_s` (of the first record not committed; null: none, or unknown)}]},
    `dead_letters` {`error`, `topic`, `exists`, `count`},
    `milvus` {`error`, `address`, `version`, `collection`, `exists`, `mode` (of its documents; null: unknown), `rows`,
    `documents`, `partitions`: [{`name`, `from`, `to`, `rows` (null: not loaded), `loaded`}]}.
    `error` is null or {`message`, `exit_code`}; what could not be found out is then null or empty.
    """
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    kafka = quick_kafka(settings)
    milvus, stored = _milvus(settings)
    model = settings.embedding.model
    report: dict[str, Any] = {
        "mode": settings.mode,
        "warnings": [],
        "model": {"configured": model, "stored": stored, "hash": model.startswith("hash:")},
        "kafka": _kafka(kafka, now_ms),
        "dead_letters": {"error": None, "topic": settings.kafka.dead_letter_topic, "exists": None, "count": None},
        "milvus": milvus,
    }
    if (failed := report["kafka"]["error"]) and failed["exit_code"] == Unavailable.exit_code:
        report["dead_letters"]["error"] = failed
    else:
        _dead_letters(kafka, report["dead_letters"])
    report["warnings"] = list(_warnings(report))
    return report


def exit_code(report: Mapping[str, Any]) -> int:
    """0; 3 if Kafka or Milvus cannot be reached; else the code of the first error met."""
    failures = [report[part]["error"] for part in ("kafka", "milvus", "dead_letters") if report[part]["error"]]
    codes: list[int] = [failure["exit_code"] for failure in failures]
    return Unavailable.exit_code if Unavailable.exit_code in codes else next(iter(codes), 0)


@contextmanager
def _error_into(part: dict[str, Any]) -> Iterator[None]:
    """Puts an error into this part of the report instead of raising it."""
    try:
        yield
    except MilvusStreamError as error:
        part["error"] = {"message": str(error), "exit_code": error.exit_code}


def _kafka(kafka: KafkaSettings, now_ms: int) -> dict[str, Any]:
    part: dict[str, Any] = {
        "error": None,
        "bootstrap_servers": kafka.bootstrap_servers,
        "group": kafka.group_id,
        "lag": None,
        "partitions": [],
    }
    with _error_into(part):
        lags = group_lag(kafka)
        since = waiting_since(kafka, lags)
        part["lag"] = sum(lag.lag for lag in lags)
        for lag in lags:
            began = since.get((lag.topic, lag.partition))
            part["partitions"].append(
                {
                    "topic": lag.topic,
                    "partition": lag.partition,
                    "start": lag.start,
                    "end": lag.end,
                    "committed": lag.committed,
                    "lag": lag.lag,
                    "age_s": None if began is None else max(0.0, round((now_ms - began) / 1000, 1)),
                }
            )
    return part


def _dead_letters(kafka: KafkaSettings, part: dict[str, Any]) -> None:
    topic = part["topic"]
    with _error_into(part):
        if isinstance(topic_facts(kafka, [topic])[topic], MissingTopic):
            part["exists"], part["count"] = False, 0
            return
        part["count"] = sum(end - start for start, end in topic_ranges(kafka, [topic]).values())
        part["exists"] = True


def _milvus(settings: Settings) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """That part of the report, and the stamp of the collection's model."""
    stamp: dict[str, Any] | None = None
    name = settings.milvus.collection
    part: dict[str, Any] = {
        "error": None,
        "address": settings.milvus.uri.rpartition("@")[2],
        "version": None,
        "collection": name,
        "exists": None,
        "mode": None,
        "rows": None,
        "documents": None,
        "partitions": [],
    }
    with _error_into(part), connections.milvus(settings) as api:
        part["version"] = api.server.version
        info = api.describe(name)
        part["exists"] = info is not None
        if info is None:
            return part, None
        found = described_stamp(info, api.describe(marks_name(name)))
        if found is not None:
            stamp = dict(found.model)
            part["mode"] = found.mode or mode_by_data(api, name)
        held = partition_rows(api, name)
        part["partitions"] = [partition.as_dict() for partition in held]
        part["rows"] = sum(partition.rows or 0 for partition in held)
        if mode_named(part["mode"] or settings.mode).one_version:
            part["documents"] = live_documents(api, name)
    return part, stamp


def _warnings(report: Mapping[str, Any]) -> Iterator[str]:
    model, stored = report["model"], report["model"]["stored"]
    names = [str((stored or {}).get("name", "")), model["configured"]]
    hashed = next((name for name in names if name.startswith("hash:")), None)
    if hashed is not None:
        yield (
            f"NO MODEL: vectors of {hashed} are digests of the text. Search finds equal texts and no meaning; set "
            "embedding.model to a real model for anything but tests"
        )
    if stored and stored.get("name") != model["configured"]:
        yield (
            f"the collection was made with the model {stored.get('name')}, configured is {model['configured']}; "
            "`milvus-stream doctor` checks whether they are the same"
        )
    if report["milvus"]["exists"] and stored is None and report["milvus"]["error"] is None:
        yield f"collection {report['milvus']['collection']} was not made by milvus-stream: workers will refuse it"
    mode = report["milvus"]["mode"]
    if mode is not None and mode != report["mode"]:
        yield (
            f"collection {report['milvus']['collection']} is filled in mode {mode}, configured is {report['mode']}: "
            "workers will refuse it"
        )
    for partition in report["kafka"]["partitions"]:
        at = partition["committed"]
        if at is not None and not partition["start"] <= at <= partition["end"]:
            yield (
                f"{partition['topic']}/{partition['partition']}: the group is at offset {at}, but the topic holds "
                f"{partition['start']} to {partition['end']}: records are gone, and a worker will stop with the size "
                "of the gap"
            )
    released = [partition["name"] for partition in report["milvus"]["partitions"] if not partition["loaded"]]
    if released:
        yield f"{len(released)} Milvus partitions are not loaded, searches do not see them: {', '.join(released[:5])}"


# --- printing ----------------------------------------------------------------------------------------------------


def show(report: Mapping[str, Any]) -> None:
    """Print the report for people."""
    console = stdout()
    for warning in report["warnings"]:
        console.print(Text(f"! {one_line(warning)}", style="bold yellow"))
    kafka, milvus, dead_letters, model = (report[part] for part in ("kafka", "milvus", "dead_letters", "model"))
    lag = "" if kafka["lag"] is None else f", lag {kafka['lag']:,}"
    console.print(f"Kafka   {kafka['bootstrap_servers']}, group {kafka['group']}{lag}")
    _show_error(kafka)
    if kafka["partitions"]:
        columns = ("topic", "partition", "committed", "end", "lag", "waiting")
        rows = (
            [*(partition[key] for key in columns[:-1]), span(partition["age_s"])] for partition in kafka["partitions"]
        )
        console.print(table(columns, rows))
    console.print(f"\nMilvus  {milvus['address']}, version {milvus['version'] or '-'}, {_stored(milvus)}")
    _show_error(milvus)
    held = milvus["partitions"]
    if held:
        last = held[-_SHOWN_PARTITIONS:]
        title = f"the last {len(last)} of {len(held)}; all of them: --json" if len(held) > len(last) else None
        rows = (
            [partition["name"], partition["from"], partition["to"], partition["rows"], partition["loaded"]]
            for partition in last
        )
        console.print(table(("Milvus partition", "from", "to", "rows", "loaded"), rows, title=title))
    count = {None: "unknown", False: "the topic does not exist yet"}.get(
        dead_letters["exists"], f"{dead_letters['count']}"
    )
    console.print()
    console.print(f"dead letters  {count} ({dead_letters['topic']})")
    if dead_letters["error"] != kafka["error"]:
        _show_error(dead_letters)
    stored = model["stored"]
    stored_model = (
        f"{stored.get('name')}, {stored.get('dimension')} dimensions" if stored else "no collection with one yet"
    )
    console.print(f"model   stored: {one_line(stored_model)}; configured: {one_line(model['configured'])}")
    console.print(f"mode    {report['mode']}")


def _stored(milvus: Mapping[str, Any]) -> str:
    name = milvus["collection"]
    if not milvus["exists"]:
        return f"collection {name}" + (" does not exist yet" if milvus["exists"] is False else "")
    documents = "" if milvus["documents"] is None else f" of {milvus['documents']:,} documents"
    rows = "-" if milvus["rows"] is None else f"{milvus['rows']:,}"
    return f"collection {name}: {rows} rows{documents} in {len(milvus['partitions'])} Milvus partitions"


def _show_error(part: Mapping[str, Any]) -> None:
    if part["error"]:
        stdout().print(Text(f"        {one_line(part['error']['message'])}", style="bold red"))
