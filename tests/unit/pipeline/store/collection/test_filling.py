"""What a collection says of how it is filled, and who may fill it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pipeline.errors import Mismatch
from pipeline.store.collection.filling import check_filled, mode_by_data, open_for_filling, stored_stamp
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.opening import open_collection, open_ledger
from pipeline.store.collection.schema import marks_name
from pipeline.store.collection.stamp import CollectionStamp
from tests.support.documents import DIMENSION, delete, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.stores import Store, write

NAME = "docs"
INDEX = IndexSettings("FLAT", "COSINE", {})
MODEL = {"name": "model", "digest": "abc", "dimension": DIMENSION}
UPSERT = {"mode": "upsert", "record.id_field": "id", "record.tenant_field": None, "record.version_field": None}
APPEND = {
    "mode": "append",
    "chunking.max_tokens": 128,
    "partitioning.by": "day",
    "partitioning.tiers": ("60d by month",),
}


def own(rules: dict[str, Any] = UPSERT, group: str = "one", *topics: str) -> CollectionStamp:
    return CollectionStamp(MODEL, rules, {group: frozenset(topics or ("documents",))})


def opened(api: FakeMilvus, stamp: CollectionStamp, adopt: Callable[[str], bool] | None = None) -> CollectionStamp:
    return open_for_filling(api, NAME, stamp, INDEX, adopt=adopt)


def former(rules: dict[str, Any]) -> tuple[FakeMilvus, Store]:
    """A collection that a former version made, in the mode of these rules."""
    api = FakeMilvus()
    open_collection(api, NAME, MODEL, DIMENSION, INDEX, create=True)
    if rules["mode"] == "upsert":
        open_ledger(api, NAME)
    return api, Store(api, NAME)


def refused(api: FakeMilvus, stamp: CollectionStamp, *words: str) -> None:
    """Neither a worker nor an audit goes on, and nothing is changed."""
    before = {name: api.stored(name) for name in api.collections()}
    attempts: list[Callable[[], CollectionStamp]] = [
        lambda: opened(api, stamp),
        lambda: check_filled(api, NAME, stamp),
    ]
    for attempt in attempts:
        with pytest.raises(Mismatch) as caught:
            attempt()
        assert caught.value.exit_code == 4
        assert "--adopt" in str(caught.value)
        for word in words:
            assert word in str(caught.value)
    assert {name: api.stored(name) for name in api.collections()} == before


def test_a_new_collection_carries_its_stamp_and_is_opened_again() -> None:
    api = FakeMilvus()
    made = opened(api, own())
    assert made == replace(own(), collection_id=made.collection_id)
    assert len(made.collection_id) == 32
    assert opened(api, own()) == made
    assert check_filled(api, NAME, own()) == made
    assert stored_stamp(api, NAME) == made


def test_a_collection_that_is_made_again_has_another_id() -> None:
    api = FakeMilvus()
    first = opened(api, own())
    for name in api.collections():
        if name != marks_name(NAME):
            api.drop_collection(name)
    second = opened(api, own())
    assert second.collection_id != first.collection_id
    assert second.fillers == own().fillers


def test_groups_of_a_dropped_collection_of_the_same_name_do_not_count() -> None:
    api = FakeMilvus()
    opened(api, own())
    api.drop_collection(NAME)
    assert opened(api, own(UPSERT, "other")).fillers == {"other": frozenset({"documents"})}


@pytest.mark.parametrize(
    ("rules", "shown"),
    [
        ({**UPSERT, "record.id_field": "key"}, "record.id_field is 'id' there and 'key' here"),
        ({**UPSERT, "record.tenant_field": "t"}, "record.tenant_field is null there and 't' here"),
        ({**UPSERT, "record.version_field": "v"}, "record.version_field is null there and 'v' here"),
        (APPEND, "mode is 'upsert' there and 'append' here"),
    ],
)
def test_another_rule_is_refused(rules: dict[str, Any], shown: str) -> None:
    api = FakeMilvus()
    opened(api, own())
    refused(api, own(rules), shown)


@pytest.mark.parametrize(
    ("name", "value"), [("chunking.max_tokens", 64), ("partitioning.by", "month"), ("partitioning.tiers", ())]
)
def test_in_append_mode_chunking_and_partitioning_are_rules_too(name: str, value: object) -> None:
    api = FakeMilvus()
    opened(api, own(APPEND))
    assert opened(api, own(APPEND)).mode == "append"
    refused(api, own({**APPEND, name: value}), name)


def test_an_append_collection_gets_no_ledger_from_a_worker_of_another_mode() -> None:
    api = FakeMilvus()
    opened(api, own(APPEND))
    refused(api, own(UPSERT), "mode is 'append' there and 'upsert' here")
    assert sorted(api.collections()) == [NAME, marks_name(NAME)]


def test_a_rule_of_a_newer_version_is_refused_and_one_it_does_not_know_is_not() -> None:
    api = FakeMilvus()
    opened(api, own({**UPSERT, "record.new": 1}))
    refused(api, own(), "newer version", "record.new")
    api = FakeMilvus()
    opened(api, own())
    assert opened(api, own({**UPSERT, "record.new": 1})).rules == UPSERT


def test_another_model_is_refused() -> None:
    api = FakeMilvus()
    opened(api, own())
    with pytest.raises(Mismatch, match="another model"):
        opened(api, replace(own(), model=MODEL | {"digest": "other"}))


# --- collections of former versions ----------------------------------------------------------------------------------


def test_a_collection_of_a_former_version_is_stamped_by_the_first_worker() -> None:
    api, store = former(UPSERT)
    write(store.upsert_writer(), [put("a", "one", 0)])
    assert check_filled(api, NAME, own()).rules is None
    made = opened(api, own())
    assert (made.rules, made.append_ids, made.fillers) == (UPSERT, "topic-name", own().fillers)
    assert opened(api, own()) == made
    refused(api, own({**UPSERT, "record.tenant_field": "t"}), "record.tenant_field")


def test_workers_that_stamp_it_at_one_moment_agree() -> None:
    api, _ = former(UPSERT)
    others: list[CollectionStamp] = []

    def meanwhile(operation: str, collection: str, when: str) -> None:
        if (operation, collection, when) == ("create_collection", marks_name(NAME), "before") and not others:
            others.append(CollectionStamp({}, None))
            others.append(opened(api, own()))

    api.hook = meanwhile
    assert opened(api, own()) == others[1]


def test_its_mode_is_seen_in_its_data_and_a_contradiction_is_refused() -> None:
    api, store = former(UPSERT)
    assert mode_by_data(api, NAME) is None
    write(store.upsert_writer(), [put("a", "one", 0)])
    assert mode_by_data(api, NAME) == "upsert"
    refused(api, own(APPEND), "its ledger names documents")
    api, store = former(APPEND)
    write(store.append_writer(), [put("a", "one", 0)])
    assert mode_by_data(api, NAME) == "append"
    refused(api, own(UPSERT), "no ledger row")
    open_ledger(api, NAME)
    refused(api, own(UPSERT), "no ledger row")


def test_a_ledger_that_knows_only_deleted_documents_is_of_mode_upsert() -> None:
    api, store = former(UPSERT)
    write(store.upsert_writer(), [put("a", "one", 0)])
    write(store.upsert_writer(), [delete("a", 1)])
    assert mode_by_data(api, NAME) == "upsert"


def test_an_append_collection_of_a_former_version_keeps_its_partitions_and_its_ids() -> None:
    """That version had no tiers: a record read again would go to another Milvus partition under the same id."""
    api, store = former(APPEND)
    write(store.append_writer(), [put("a", "one", 0)])
    refused(api, own(APPEND), "partitioning.tiers to []")
    assert opened(api, own({**APPEND, "partitioning.tiers": ()})).append_ids == "topic-name"


def test_a_description_stays_json_that_names_the_model() -> None:
    api = FakeMilvus()
    made = opened(api, own())
    info = api.describe(NAME)
    assert info is not None
    assert json.loads(info.description) == {
        "milvus_stream": 1,
        "model": MODEL,
        "id": made.collection_id,
        "rules": UPSERT,
        "append_ids": "topic-id",
    }


# --- groups ----------------------------------------------------------------------------------------------------------


def test_another_group_is_refused_and_adopted_with_other_topics() -> None:
    api = FakeMilvus()
    opened(api, own(UPSERT, "one", "a"))
    refused(api, own(UPSERT, "two", "b"), "group two does not fill it", "one from a")
    both = {"one": frozenset("a"), "two": frozenset("b")}
    assert opened(api, own(UPSERT, "two", "b"), lambda group: True).fillers == both
    assert opened(api, own(UPSERT, "two", "b")).fillers == both
    assert opened(api, own(UPSERT, "one", "a")).fillers == both


def test_two_groups_never_read_one_topic() -> None:
    api = FakeMilvus()
    opened(api, own(UPSERT, "one", "a", "b"))
    with pytest.raises(Mismatch, match="group one reads b into it and has members"):
        opened(api, own(UPSERT, "two", "b", "c"), lambda group: True)
    opened(api, own(UPSERT, "two", "c"), lambda group: True)
    refused(api, own(UPSERT, "two", "b", "c"), "group one reads b into it")
    refused(api, own(UPSERT, "one", "a", "b", "c"), "group two reads c into it")


def test_the_topics_of_a_group_without_members_are_taken_over() -> None:
    api = FakeMilvus()
    opened(api, own(UPSERT, "one", "a", "b"))
    taken = opened(api, own(UPSERT, "two", "b"), lambda group: False)
    assert taken.fillers == {"one": frozenset("a"), "two": frozenset("b")}
    refused(api, own(UPSERT, "one", "a", "b"), "group two reads b into it")
    all_taken = opened(api, own(UPSERT, "two", "a", "b"), lambda group: False)
    assert all_taken.fillers == {"two": frozenset("ab")}
    refused(api, own(UPSERT, "one", "a"), "group one does not fill it")


def test_the_topics_of_a_group_follow_its_configuration() -> None:
    api = FakeMilvus()
    opened(api, own(UPSERT, "one", "a"))
    assert opened(api, own(UPSERT, "one", "a", "b")).fillers == {"one": frozenset("ab")}
    assert opened(api, own(UPSERT, "one", "b")).fillers == {"one": frozenset("b")}


def test_of_two_groups_at_one_moment_at_most_one_fills_it() -> None:
    api = FakeMilvus()
    opened(api, own(UPSERT, "first", "z"))
    opened(api, own(UPSERT, "first", "z"), lambda group: False)
    rival: list[str] = []

    def meanwhile(operation: str, collection: str, when: str) -> None:
        if (operation, collection, when) == ("upsert", marks_name(NAME), "before") and not rival:
            rival.append("two")
            opened(api, own(UPSERT, "two", "a"), lambda group: False)

    api.hook = meanwhile
    with pytest.raises(Mismatch, match="group two reads a into it"):
        opened(api, own(UPSERT, "one", "a"), lambda group: False)
    assert set(opened(api, own(UPSERT, "two", "a")).fillers) == {"first", "two"}
