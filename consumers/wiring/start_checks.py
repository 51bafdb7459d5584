"""The checks of a start that need no model, made before one is loaded: that takes seconds to minutes.

What needs the model's identity is checked afterwards, when the collection is opened. Nothing here creates a collection:
one with a mistyped name would be left behind.
"""

from contextlib import suppress
from dataclasses import replace

from consumers.config import Settings
from consumers.dead_letters import ensure_dead_letter_topic
from consumers.kafka import NO_COLLECTION, CollectionBinding, check_topics, fills, topic_commits
from consumers.wiring.canary import canary_records
from consumers.wiring.collection import index_settings, keyword_settings
from consumers.wiring.connections import kafka_settings
from consumers.wiring.stamp import stamp_without_model
from consumers.wiring.start_warnings import log_warnings
from pipeline.errors import Unavailable, UsageError
from pipeline.query import Searcher
from pipeline.store import (
    CollectionInfo,
    CollectionStamp,
    MilvusServerApi,
    check_collection,
    check_filled,
    check_made_here,
    no_collection,
    stored_stamp,
)


def check_ingest(settings: Settings, api: MilvusServerApi, *, adopt: bool, workers: int = 1) -> None:
    """Check topics, offsets and collection of an ingest worker; creates the dead-letter topic where it is missing.

    `workers`: those that a supervisor has started, of which this is the one that warns for all.

    Raises UsageError (setting, topic), Unavailable, Mismatch (a collection of other settings or of another group).
    """
    kafka = kafka_settings(settings)
    # Read before the collection: another worker may create it and commit for it at this moment.
    commits = topic_commits(kafka)
    stored = _check_filled(settings, api, adopt=adopt)
    collection_id = NO_COLLECTION if stored is None else stored.collection_id
    CollectionBinding(settings.milvus.collection, collection_id, adopt).check_all(commits)
    ensure_dead_letter_topic(kafka, settings.kafka.dead_letter_topic, create=settings.kafka.create_dead_letter_topic)
    log_warnings(settings, kafka, api, workers=workers)


def check_replay(settings: Settings, target: Settings, api: MilvusServerApi) -> None:
    """Check topics and collection of a replay; `target`: `settings` with the collection to be written.

    Raises UsageError, Unavailable, Mismatch.
    """
    kafka = kafka_settings(settings)
    check_topics(kafka)
    stored = _check_filled(target, api, adopt=False)
    elsewhere = target.milvus.collection != settings.milvus.collection
    if elsewhere and stored is not None and stored.collection_id and fills(kafka, stored.collection_id):
        raise UsageError(
            f"the workers of group {kafka.group_id} fill {target.milvus.collection!r}, not the configured collection: "
            "set milvus.collection to it and replay without --into, so that the replay looks for them"
        )


def check_audit(settings: Settings, api: MilvusServerApi) -> None:
    """Check topics and collection of an audit. Raises UsageError, Unavailable, Mismatch, NotFound."""
    check_topics(kafka_settings(settings))
    if _check_filled(settings, api, adopt=False) is None:
        raise no_collection(settings.milvus.collection)


def check_search(settings: Settings, api: MilvusServerApi) -> None:
    """Check that there is a collection to search. Raises Unavailable where there is none yet, Mismatch."""

    def accept(info: CollectionInfo) -> None:
        check_made_here(info)

    Searcher(api, settings.milvus.collection, accept=accept).check()


def check_serve(settings: Settings, api: MilvusServerApi) -> None:
    """Check canary and collection of a query worker; the latter may be created later. Raises UsageError, Mismatch."""
    if settings.query.canary is not None:
        canary_records(settings)
    with suppress(Unavailable):
        check_search(settings, api)


def _check_filled(settings: Settings, api: MilvusServerApi, *, adopt: bool) -> CollectionStamp | None:
    """The stamp of the collection, compared with everything but the model; None: it does not exist yet.

    `adopt`: which groups fill it is checked when it is opened.
    """
    name = settings.milvus.collection
    existing = check_collection(api, name, index_settings(settings), keyword_settings(settings))
    stored = None if existing is None else stored_stamp(api, name)
    if stored is None:
        return None
    own = stamp_without_model(settings, stored)
    return check_filled(api, name, replace(own, fillers={}) if adopt else own)
