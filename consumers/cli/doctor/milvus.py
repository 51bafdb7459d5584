"""The model and Milvus checks of `doctor`: server, collection, index, Milvus partitions, clock."""

import time
from contextlib import ExitStack, suppress
from dataclasses import replace

from consumers.cli.common.inventory import quick_kafka
from consumers.cli.common.output import span
from consumers.cli.doctor.findings import CLOCK_SKEW_MS, Findings
from consumers.config import Settings
from consumers.kafka import NO_COLLECTION, group_lag
from consumers.wiring import connections, documents
from consumers.wiring.collection import index_settings, keyword_settings, partitioning
from consumers.wiring.modes import mode_named, mode_of
from consumers.wiring.stamp import own_stamp
from consumers.wiring.start_warnings import server_warnings
from pipeline.errors import MilvusStreamError, NotFound
from pipeline.records import VECTOR_FIELD
from pipeline.store import (
    MANY_PARTITIONS,
    CollectionInfo,
    CollectionStamp,
    MilvusServerApi,
    check_filled,
    check_keywords,
    check_server,
    granularity,
    index_problem,
    interval,
    keyword_differences,
    ledger_name,
    mode_by_data,
    open_collection,
    open_ledger,
    reserved_partitions,
    stored_stamp,
)

_NEARLY_FULL = 0.8


def examine_model(settings: Settings, findings: Findings) -> CollectionStamp | None:
    """Load the model as a worker would; the worker's stamp, or None if it cannot be loaded.

    Loading it is the check: damaged weights, a device without memory or a missing library show in nothing less.
    """
    own: CollectionStamp | None = None
    with findings.checking("model", "a worker does not start without its model"), documents.embedder(settings) as model:
        own, stamp = own_stamp(settings, model), model.stamp
        seen = f"{stamp.name}: {stamp.dimension} dimensions, {model.dtype} on {model.device}"
        if stamp.name.startswith("hash:"):
            do = "set embedding.model to a real model for anything but tests"
            findings.warning(
                "model", f"{seen}. NO MODEL: vectors are digests, search finds equal texts, no meaning", do
            )
        else:
            findings.ok("model", seen)
    return own


def examine_milvus(settings: Settings, own: CollectionStamp | None, findings: Findings, now_ms: int) -> None:
    """Add the findings about Milvus; without the `own` stamp of a worker the collection's is not compared."""
    with ExitStack() as stack:
        try:
            api = stack.enter_context(connections.milvus(settings))
        except MilvusStreamError as error:
            findings.failed("milvus.reachable", error, "check milvus.uri, milvus.token and the network")
            return
        _server(settings, api, findings)
        info = None
        with findings.checking("milvus.collection"):
            info = api.describe(settings.milvus.collection)
            if info is None:
                _no_collection(settings, api, findings)
            else:
                _collection(settings, api, own, info, findings)
        if info is not None:
            with findings.checking("milvus.index"):
                _index(settings, api, info, findings)
            with findings.checking("milvus.partitions"):
                _partitions(settings, api, findings, now_ms)


def _server(settings: Settings, api: MilvusServerApi, findings: Findings) -> None:
    server = api.server
    kind = "Milvus Lite: one process, for one machine" if server.lite else "a full server"
    keywords = "" if server.capabilities.bm25 else ", no keyword search (needs 2.5)"
    seen = f"{settings.milvus.uri.rpartition('@')[2]} answers: {server.version}, {kind}{keywords}"
    findings.ok("milvus.reachable", seen)
    for warning in server_warnings(api):
        findings.warning(warning.check, warning.seen, warning.do)
    with findings.checking("milvus.index", "correct milvus.index"):
        check_server(index_settings(settings), server)
    with findings.checking("clock.milvus"):
        before = time.time_ns()
        server_ms = api.clock_ms()
        our_ms = (before + time.time_ns()) // 2_000_000
        if server_ms is None:
            return
        ahead = server_ms - our_ms
        if abs(ahead) > CLOCK_SKEW_MS:
            seen = f"the server's clock is {span(abs(ahead) / 1000)} {'ahead of' if ahead > 0 else 'behind'} this one"
            findings.warning("clock.milvus", seen, "synchronise the clocks (NTP) of the machines")
        else:
            findings.ok("clock.milvus", f"the server's clock and this one differ by {abs(ahead)} ms")


def _no_collection(settings: Settings, api: MilvusServerApi, findings: Findings) -> None:
    name = settings.milvus.collection
    if mode_of(settings).one_version and api.describe(ledger_name(name)) is not None:
        findings.problem(
            "milvus.collection",
            f"{name} is gone but its ledger is there: a worker would take its documents for stored and skip them",
            f"`milvus-stream collections drop {name}` removes the rest",
        )
    else:
        with findings.checking("milvus.keywords", "correct milvus.analyzer or milvus.enable_match"):
            check_keywords(keyword_settings(settings), api.server)
        findings.ok("milvus.collection", f"{name} does not exist yet; the first worker creates it")
    _group(settings, NO_COLLECTION, findings)


def _collection(
    settings: Settings, api: MilvusServerApi, own: CollectionStamp | None, info: CollectionInfo, findings: Findings
) -> None:
    name, stored = settings.milvus.collection, stored_stamp(api, settings.milvus.collection)
    for difference in keyword_differences(info, keyword_settings(settings), api.server):
        do = "nothing, or set milvus.collection to a new name: Milvus cannot change it"
        findings.warning("milvus.keywords", difference, do)
    if own is not None:
        with findings.checking("milvus.collection", "see the message: a worker refuses to start"):
            index, dimension, keywords = index_settings(settings), own.model["dimension"], keyword_settings(settings)
            open_collection(api, name, own.model, dimension, index, create=False, keywords=keywords)
            findings.ok("milvus.collection", f"{name} fits schema and model ({own.model['name']})")
    elif stored is None:
        do = "set milvus.collection to another name"
        findings.problem("milvus.collection", f"{name} was not made by milvus-stream: a worker refuses it", do)
    else:
        do = "repair the model first, then run doctor again"
        seen = f"{name} holds vectors of {stored.model.get('name')}; whether they fit is unknown without the model"
        findings.warning("milvus.collection", seen, do)
    if stored is None:
        return
    _stamp(settings, api, own, stored, findings)
    mode = stored.mode or mode_by_data(api, name) or settings.mode
    if not mode_named(mode).one_version:
        return
    check = "milvus.ledger"
    with findings.checking(check, "see the message: a worker refuses to start"):
        try:
            open_ledger(api, name, create=False)
        except NotFound:
            do = "drop the collection and replay its topics"
            findings.problem(check, f"{name} has no ledger: nobody knows which rows in it are of which version", do)
        else:
            findings.ok(check, f"{ledger_name(name)} is there")


def _stamp(
    settings: Settings,
    api: MilvusServerApi,
    own: CollectionStamp | None,
    stored: CollectionStamp,
    findings: Findings,
) -> None:
    """What decides which rows a document has, as the collection says it; and whether the group's offsets are for it."""
    name, check = settings.milvus.collection, "milvus.stamp"
    with findings.checking(check, "see the message: a worker refuses to start"):
        if own is not None:
            check_filled(api, name, replace(own, model=stored.model))  # the model has a finding of its own
        if stored.rules is None:
            findings.ok(check, f"{name} was made by a former version; the next worker writes down how it is filled")
            return
        groups = "; ".join(f"{group} from {', '.join(sorted(topics))}" for group, topics in stored.fillers.items())
        findings.ok(check, f"{name} is filled in mode {stored.mode} by {groups or 'no group yet'}")
    _group(settings, stored.collection_id, findings)


def _group(settings: Settings, collection_id: str, findings: Findings) -> None:
    """Whether the group's offsets are for this collection."""
    with suppress(MilvusStreamError):  # what is wrong with Kafka is found by its own checks
        for lag in group_lag(quick_kafka(settings)):
            if lag.collection_id not in {"", collection_id}:
                findings.problem(
                    "kafka.collection",
                    f"{lag.topic}/{lag.partition}: group {settings.kafka.group_id} has committed offset "
                    f"{lag.committed} for another collection than {settings.milvus.collection}: what it read before is "
                    "not in here, and a worker stops",
                    "configure the former milvus.collection again, or a new kafka.group_id, which reads everything; "
                    "or, if this one holds what was read, run `milvus-stream ingest --adopt` once",
                )
                break


def _index(settings: Settings, api: MilvusServerApi, info: CollectionInfo, findings: Findings) -> None:
    index = info.indexes.get(VECTOR_FIELD)
    if index is None:
        findings.problem("milvus.index", f"there is no index on {VECTOR_FIELD}", "start a worker: it creates the index")
        return
    indexed, pending = progress = api.index_progress(info.name)
    problem = index_problem(index, api.server, progress)
    if problem is not None:
        findings.warning(
            "milvus.index", problem, "wait a minute and run doctor again; if it stays so, see the server's log"
        )
    else:
        findings.ok("milvus.index", f"{index.type}, {index.metric}: {indexed:,} rows in it, {pending:,} waiting")
    if index.type != settings.milvus.index.type:
        findings.warning(
            "milvus.index",
            f"the stored index is {index.type}, configured is {settings.milvus.index.type}: the stored one stays",
            f"write {index.type}, or set milvus.collection to a new name and replay into it",
        )


def _partitions(settings: Settings, api: MilvusServerApi, findings: Findings, now_ms: int) -> None:
    section, name, check = settings.partitioning, settings.milvus.collection, "milvus.partitions"
    held = api.partitions(name)
    seen = f"{len(held)} Milvus partitions, partitioning.max_partitions is {section.max_partitions}"
    coarser = "set partitioning.by to something coarser and replay into a new collection, or drop old partitions"
    if len(held) >= section.max_partitions:
        findings.problem(check, f"{seen}: ingest waits at the first record of a new time", coarser)
    elif len(held) > _NEARLY_FULL * section.max_partitions:
        reserved = reserved_partitions(section.max_partitions)
        what = f"the last {reserved} are for event times near their record, other new ones become dead letters"
        findings.warning(check, f"{seen}: {what}", coarser)
    elif len(held) > MANY_PARTITIONS:
        findings.warning(check, f"{seen}: searches over more than {MANY_PARTITIONS} of them get slow", coarser)
    else:
        findings.ok(check, seen)
    own = partitioning(settings).granularities
    others = sorted({by or "foreign" for by in map(granularity, held)} - own)
    if others:
        seen = f"there are Milvus partitions by {', '.join(others)} beside those by {', '.join(sorted(own))}"
        findings.warning(check, seen, "searches by time read both; replay into a new collection to have one kind")
    if api.server.capabilities.needs_load and (released := len(held) - len(api.loaded_partitions(name))):
        do = "load the collection: a worker does at its start, unless they were released on purpose"
        findings.warning(check, f"{released} of {len(held)} Milvus partitions are not loaded: searches miss them", do)
    if section.max_event_age is not None:
        floor = now_ms - round(section.max_event_age.total_seconds() * 1000)
        expired = sorted(
            partition for partition in held if (times := interval(partition)) is not None and times[1] <= floor
        )
        if expired:
            seen = f"{len(expired)} Milvus partitions are past partitioning.max_event_age, the oldest is {expired[0]}"
            do = "drop them in Milvus: workers refuse new records of that age, and remove none"
            findings.warning("milvus.retention", seen, do)
        else:
            findings.ok("milvus.retention", "no Milvus partition is past partitioning.max_event_age")
