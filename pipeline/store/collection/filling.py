"""The opening of a collection for filling: its stamp is compared first, and who fills it is written down."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import blake2b

import structlog

from pipeline.errors import Mismatch, NotLoaded, Unavailable
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.keywords import DEFAULT_KEYWORDS, KeywordSettings
from pipeline.store.collection.marks import Marks
from pipeline.store.collection.opening import open_collection, open_ledger, open_marks
from pipeline.store.collection.schema import ledger_name, marks_name
from pipeline.store.collection.stamp import CollectionStamp, compare, described_stamp, filler_problems, stamp_fields
from pipeline.store.milvus.api import MilvusApi

log = structlog.get_logger(__name__)

HasMembers = Callable[[str], bool]
"""Whether a consumer group has members. Raises Unavailable, UsageError."""

_UPSERT, _APPEND = "upsert", "append"
_TIERS = "partitioning.tiers"
_GROUP_PREFIX = "group/"
_GO_ON = (
    "Restore these settings, or set milvus.collection to a new name and kafka.group_id to a new group, which reads "
    "everything into it. For a further group that reads topics which no other one reads, or that takes the place of a "
    "group without members, run `milvus-stream ingest --adopt` once"
)


def open_for_filling(
    api: MilvusApi,
    name: str,
    own: CollectionStamp,
    index: IndexSettings,
    *,
    keywords: KeywordSettings = DEFAULT_KEYWORDS,
    adopt: HasMembers | None = None,
    admit: Callable[[CollectionStamp], None] | None = None,
) -> CollectionStamp:
    """Open the collection, its ledger and its marks for a process of the stamp `own`; creates what is missing.

    Returns the collection's stamp. Raises Mismatch where `own` differs from it, UsageError, Unavailable. `adopt`: the
    own group becomes a further one that fills the collection, and takes over topics of groups without members. `admit`
    is called before the own group is written down, and raises if it may not fill this collection.
    """
    new = replace(own, fillers={}, collection_id=uuid.uuid4().hex)
    dimension = own.model["dimension"]
    info = open_collection(
        api, name, own.model, dimension, index, create=True, keywords=keywords, more=stamp_fields(new)
    )
    marks = api.describe(marks_name(name))
    stored = described_stamp(info, marks) or new
    if stored.rules is None and api.describe(ledger_name(name)) is not None:
        open_ledger(api, name)  # loads it: what it holds shows the mode
    _check(api, name, stored, own)
    # Nothing but the marks can hold the stamp of a collection that a former version made. They are created by exactly
    # one of several workers that find it without one; the others compare with what that one wrote.
    if stored.rules is None and marks is None:
        log.info("collection.stamped", collection=name, what="made by a former version; it now names its settings")
        new = replace(new, append_ids=stored.append_ids)
    marks = open_marks(api, name, new if stored.rules is None else stored)
    stored = described_stamp(info, marks) or new
    _check(api, name, stored, own)
    if own.mode == _UPSERT:
        open_ledger(api, name)
    if admit is not None:
        admit(stored)
    return _registered(api, name, stored, own, adopt)


def check_filled(api: MilvusApi, name: str, own: CollectionStamp) -> CollectionStamp:
    """Compare an existing collection with `own`, and return its stamp; changes nothing.

    Raises Mismatch where they differ or it is none of milvus-stream, Unavailable.
    """
    stored = stored_stamp(api, name)
    if stored is None:
        raise Mismatch(f"collection {name!r} was not made by milvus-stream. Set milvus.collection to another name")
    _check(api, name, stored, own)
    refuse(name, compare(stored, own))
    return stored


def stored_stamp(api: MilvusApi, name: str) -> CollectionStamp | None:
    """The stamp of a collection with the groups that fill it; None: there is none, or not of milvus-stream."""
    info, marks = api.describe(name), api.describe(marks_name(name))
    stamp = None if info is None else described_stamp(info, marks)
    if stamp is None or marks is None or not stamp.collection_id:
        return stamp
    return replace(stamp, fillers=_fillers(Marks(api, name), stamp.collection_id))


def mode_by_data(api: MilvusApi, name: str) -> str | None:
    """The mode in which a collection without a stamp was filled; None: it is empty, or not loaded.

    Upsert mode writes a ledger row before any row of a document, and append mode none.
    """
    try:
        ledger = ledger_name(name)
        # A ledger row of a former version that is a flush mark has a lower number.
        entries = "kafka_partition >= -1"
        if api.describe(ledger) is not None and api.query(ledger, entries, ["count(*)"], strong=True)[0]["count(*)"]:
            return _UPSERT
        return _APPEND if api.count(name) else None
    except NotLoaded:
        return None


def refuse(name: str, problems: list[str]) -> None:
    """Raise Mismatch if there are problems."""
    if problems:
        raise Mismatch(f"collection {name!r} is filled otherwise than configured: {'; '.join(problems)}. {_GO_ON}")


def unstamped_problems(api: MilvusApi, name: str, own: CollectionStamp) -> list[str]:
    """The contradictions between `own` and what a former version stored, one clause each."""
    mode = mode_by_data(api, name)
    if mode is not None and mode != own.mode:
        evidence = "its ledger names documents" if mode == _UPSERT else "it has rows, and no ledger row of a document"
        return [f"{evidence}, so it was filled in mode {mode}; configured is {own.mode}"]
    tiers = {} if own.rules is None else own.rules
    if mode == _APPEND and tiers.get(_TIERS):
        return [
            f"it was filled in mode append by a version that had no {_TIERS}, and a record read again must find its "
            f"Milvus partition: set {_TIERS} to []"
        ]
    return []


def _check(api: MilvusApi, name: str, stored: CollectionStamp, own: CollectionStamp) -> None:
    """Raise Mismatch for anything but the groups."""
    refuse(name, compare(replace(stored, fillers={}), own))
    if stored.rules is None:
        refuse(name, unstamped_problems(api, name, own))


# --- the groups that fill a collection -------------------------------------------------------------------------------


def _registered(
    api: MilvusApi, name: str, stored: CollectionStamp, own: CollectionStamp, adopt: HasMembers | None
) -> CollectionStamp:
    """The stamp with the own group among those that fill the collection. Raises Mismatch if it may not be one."""
    if not stored.collection_id:
        return stored
    marks = Marks(api, name)
    stored = replace(stored, fillers=_fillers(marks, stored.collection_id))
    if adopt is None:
        refuse(name, filler_problems(stored, own))
    others = stored.fillers if adopt is None else _taken_over(name, stored, own, adopt)
    fillers = {**others, **own.fillers}
    changed = {group: topics for group, topics in fillers.items() if stored.fillers.get(group) != topics}
    if not changed:
        return stored
    marks.write("stamp", {_mark_name(group): _payload(stored, group, topics) for group, topics in changed.items()})
    # Of two groups that write at one moment the later one sees both, and perhaps both do: who sees it withdraws.
    now = replace(stored, fillers=_fillers(marks, stored.collection_id))
    if problems := filler_problems(now, own):
        before = {group: stored.fillers.get(group, frozenset()) for group in own.fillers}
        marks.write("stamp", {_mark_name(group): _payload(stored, group, topics) for group, topics in before.items()})
        refuse(name, problems)
    log.info("collection.groups", collection=name, groups={group: sorted(topics) for group, topics in fillers.items()})
    try:
        api.flush(marks_name(name))
    except Unavailable as error:  # a limit of flushes, say; the next flush of the workers includes it
        log.debug("collection.groups_unflushed", error_type=type(error).__name__)
    return now


def _taken_over(
    name: str, stored: CollectionStamp, own: CollectionStamp, has_members: HasMembers
) -> dict[str, frozenset[str]]:
    """The fillers without the own topics. Raises Mismatch if a group with members reads one of them."""
    fillers: dict[str, frozenset[str]] = {}
    for group, topics in stored.fillers.items():
        taken = topics & frozenset().union(*own.fillers.values()) if group not in own.fillers else frozenset()
        if taken and has_members(group):
            raise Mismatch(
                f"collection {name!r}: group {group} reads {', '.join(sorted(taken))} into it and has members. Two "
                "groups never read one topic into one collection: stop its workers first, or configure other topics"
            )
        if taken:
            log.warning("collection.topics_taken_over", collection=name, of_group=group, topics=sorted(taken))
        fillers[group] = topics - taken
    return fillers


def _fillers(marks: Marks, collection_id: str) -> dict[str, frozenset[str]]:
    """Groups and their topics by the marks; those of a dropped collection of the same name do not count."""
    payloads = [mark.payload for mark in marks.read("stamp").values()]
    return {
        str(payload["group"]): frozenset(map(str, payload["topics"]))
        for payload in payloads
        if payload.get("collection") == collection_id and payload.get("topics")
    }


def _payload(stored: CollectionStamp, group: str, topics: frozenset[str]) -> Mapping[str, object]:
    return {"collection": stored.collection_id, "group": group, "topics": sorted(topics)}


def _mark_name(group: str) -> str:
    """A name of limited length for a group, which may have thousands of characters."""
    return _GROUP_PREFIX + blake2b(group.encode(), digest_size=16).hexdigest()
