"""The half of `doctor` that looks at the model and at Milvus: server, collection, index, Milvus partitions, clock."""

import time
from contextlib import ExitStack
from dataclasses import asdict

from consumers.cli.doctor.findings import CLOCK_SKEW_MS, Findings
from consumers.cli.output import span
from consumers.config import Settings
from consumers.wiring import connections, documents
from consumers.wiring.collection import index_settings
from consumers.wiring.modes import mode_of
from pipeline.embedding import ModelStamp
from pipeline.errors import MilvusStreamError, NotFound
from pipeline.records import VECTOR_FIELD
from pipeline.store import (
    MANY_PARTITIONS,
    CollectionInfo,
    MilvusServerApi,
    check_server,
    granularity,
    index_problem,
    interval,
    ledger_name,
    open_collection,
    open_ledger,
    read_stamp,
)

_TESTED_SINCE = (2, 3, 0)
_NEARLY_FULL = 0.8


def examine_model(settings: Settings, found: Findings) -> ModelStamp | None:
    """Load the model as a worker would; its stamp, or None if it cannot be loaded."""
    stamp: ModelStamp | None = None
    with found.checking("model", "a worker does not start without its model"), documents.embedder(settings) as model:
        stamp = model.stamp
        seen = f"{stamp.name}: {stamp.dimension} dimensions, {model.dtype} on {model.device}"
        if stamp.name.startswith("hash:"):
            do = "set embedding.model to a real model for anything but tests"
            found.warning("model", f"{seen}. NO MODEL: vectors are digests, search finds equal texts, no meaning", do)
        else:
            found.ok("model", seen)
    return stamp


def examine_milvus(settings: Settings, stamp: ModelStamp | None, found: Findings, now_ms: int) -> None:
    """Add what there is to say about Milvus; without a `stamp` the collection's model is not compared."""
    with ExitStack() as stack:
        try:
            api = stack.enter_context(connections.milvus(settings))
        except MilvusStreamError as error:
            found.failed("milvus.reachable", error, "check milvus.uri, milvus.token and the network")
            return
        _server(settings, api, found)
        info = None
        with found.checking("milvus.collection"):
            info = api.describe(settings.milvus.collection)
            if info is None:
                _no_collection(settings, api, found)
            else:
                _collection(settings, api, stamp, info, found)
        if info is not None:
            with found.checking("milvus.index"):
                _index(settings, api, info, found)
            with found.checking("milvus.partitions"):
                _partitions(settings, api, found, now_ms)


def _server(settings: Settings, api: MilvusServerApi, found: Findings) -> None:
    server = api.server
    kind = "Milvus Lite: one process, for one machine" if server.lite else "a full server"
    keywords = "" if server.capabilities.bm25 else ", no keyword search (needs 2.5)"
    seen = f"{settings.milvus.uri.rpartition('@')[2]} answers: {server.version}, {kind}{keywords}"
    found.ok("milvus.reachable", seen)
    if server.capabilities.loses_deletes:
        seen = f"{server.version} can lose deletes while it loads or compacts segments, so that older rows stay"
        do = "upgrade Milvus; until then a long milvus.flush_interval and `milvus-stream audit --repair` help"
        if server.number < _TESTED_SINCE:
            seen, do = f"{server.version} was never tested with this", "upgrade to 2.3 or newer"
        found.warning("milvus.version", seen, do)
    with found.checking("milvus.index", "correct milvus.index"):
        check_server(index_settings(settings), server)
    with found.checking("clock.milvus"):
        before = time.time_ns()
        told = api.clock_ms()
        ours = (before + time.time_ns()) // 2_000_000
        if told is None:
            return
        ahead = told - ours
        if abs(ahead) > CLOCK_SKEW_MS:
            seen = f"the server's clock is {span(abs(ahead) / 1000)} {'ahead of' if ahead > 0 else 'behind'} this one"
            found.warning("clock.milvus", seen, "synchronise the clocks (NTP) of the machines")
        else:
            found.ok("clock.milvus", f"the server's clock and this one differ by {abs(ahead)} ms")


def _no_collection(settings: Settings, api: MilvusServerApi, found: Findings) -> None:
    name = settings.milvus.collection
    if mode_of(settings).one_version and api.describe(ledger_name(name)) is not None:
        found.problem(
            "milvus.collection",
            f"{name} is gone but its ledger is there: a worker would take its documents for stored and skip them",
            f"`milvus-stream collections drop {name}` removes the rest",
        )
    else:
        found.ok("milvus.collection", f"{name} does not exist yet; the first worker creates it")


def _collection(
    settings: Settings, api: MilvusServerApi, stamp: ModelStamp | None, info: CollectionInfo, found: Findings
) -> None:
    name, stored = settings.milvus.collection, read_stamp(info)
    if stamp is not None:
        with found.checking("milvus.collection", "see the message: a worker refuses to start"):
            index = index_settings(settings)
            open_collection(api, name, asdict(stamp), stamp.dimension, index, create=False)
            found.ok("milvus.collection", f"{name} fits schema and model ({stamp.name})")
    elif stored is None:
        do = "set milvus.collection to another name"
        found.problem("milvus.collection", f"{name} was not made by milvus-stream: a worker refuses it", do)
    else:
        do = "repair the model first, then ask again"
        seen = f"{name} holds vectors of {stored.get('name')}; whether they fit is unknown without the model"
        found.warning("milvus.collection", seen, do)
    check = "milvus.ledger"
    if not mode_of(settings).one_version:
        if api.describe(ledger_name(name)) is not None:
            do = "set mode: upsert again, or milvus.collection to a new name"
            found.warning(check, f"{name} has a ledger, so it was filled in mode upsert; configured is append", do)
        return
    with found.checking(check, "see the message: a worker refuses to start"):
        try:
            open_ledger(api, name, create=False)
        except NotFound:
            do = "set mode: append if it was filled so, else drop the collection and replay its topics"
            found.problem(check, f"{name} has no ledger: nobody knows which rows in it are of which version", do)
        else:
            found.ok(check, f"{ledger_name(name)} is there")


def _index(settings: Settings, api: MilvusServerApi, info: CollectionInfo, found: Findings) -> None:
    index = info.indexes.get(VECTOR_FIELD)
    if index is None:
        found.problem("milvus.index", f"there is no index on {VECTOR_FIELD}", "start a worker: it creates the index")
        return
    indexed, pending = progress = api.index_progress(info.name)
    problem = index_problem(index, api.server, progress)
    if problem is not None:
        found.warning("milvus.index", problem, "wait a minute and ask again; if it stays so, see the server's log")
    else:
        found.ok("milvus.index", f"{index.type}, {index.metric}: {indexed:,} rows in it, {pending:,} waiting")
    if index.type != settings.milvus.index.type:
        found.warning(
            "milvus.index",
            f"the stored index is {index.type}, configured is {settings.milvus.index.type}: the stored one stays",
            f"write {index.type}, or set milvus.collection to a new name and replay into it",
        )


def _partitions(settings: Settings, api: MilvusServerApi, found: Findings, now_ms: int) -> None:
    section, name, check = settings.partitioning, settings.milvus.collection, "milvus.partitions"
    held = api.partitions(name)
    seen = f"{len(held)} Milvus partitions, partitioning.max_partitions is {section.max_partitions}"
    coarser = "set partitioning.by to something coarser and replay into a new collection, or drop old partitions"
    if len(held) >= section.max_partitions:
        found.problem(check, f"{seen}: records of any other time become dead letters", coarser)
    elif len(held) > _NEARLY_FULL * section.max_partitions:
        found.warning(check, f"{seen}: when it is reached, records of new times become dead letters", coarser)
    elif len(held) > MANY_PARTITIONS:
        found.warning(check, f"{seen}: searches over more than {MANY_PARTITIONS} of them get slow", coarser)
    else:
        found.ok(check, seen)
    others = sorted({by or "foreign" for by in map(granularity, held)} - {section.by})
    if others:
        seen = f"there are Milvus partitions by {', '.join(others)} beside those by {section.by}"
        found.warning(check, seen, "searches by time look into both; replay into a new collection to have one kind")
    if api.server.capabilities.needs_load and (released := len(held) - len(api.loaded_partitions(name))):
        do = "load the collection: a worker does at its start, unless they were released on purpose"
        found.warning(check, f"{released} of {len(held)} Milvus partitions are not loaded: searches miss them", do)
    if section.max_event_age is not None:
        floor = now_ms - round(section.max_event_age.total_seconds() * 1000)
        past = sorted(one for one in held if (times := interval(one)) is not None and times[1] <= floor)
        if past:
            seen = f"{len(past)} Milvus partitions are past partitioning.max_event_age, the oldest is {past[0]}"
            do = "drop them in Milvus: workers refuse new records of that age, and remove none"
            found.warning("milvus.retention", seen, do)
        else:
            found.ok("milvus.retention", "no Milvus partition is past partitioning.max_event_age")
