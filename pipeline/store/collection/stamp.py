"""The stamp of a collection: everything that decides which rows a document has, and which groups fill it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pipeline.store.milvus.api import CollectionInfo

STAMP_FORMAT = 1
MODE = "mode"
"""The rule that decides which other rules there are."""
AppendIds: TypeAlias = Literal["topic-name", "topic-id"]
"""What names the topic in the ids of appended rows: former versions took its name, which a recreated topic has too."""

_MODEL_NAME = "name"
"""Shown in messages only: a folder and a hub id may name the same model."""


@dataclass(frozen=True, slots=True)
class CollectionStamp:
    """All that decides which rows a document has, as a collection says it or as a process is configured."""

    model: Mapping[str, Any]
    """The model of the vectors."""
    rules: Mapping[str, Any] | None
    """Settings by name; None: made by a version that did not write them."""
    fillers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Consumer group -> the topics that it reads into the collection; of a process: its own group."""
    collection_id: str = ""
    """Random, made with the collection: one that is dropped and made again has another. "": none yet, or a process."""
    append_ids: AppendIds = "topic-id"

    @property
    def mode(self) -> str | None:
        """The mode in which the collection is filled; None: not known by the stamp."""
        return None if self.rules is None else str(self.rules.get(MODE))


def model_problems(stored: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """The differences of two models that make their vectors incomparable, one clause each."""
    own = as_stored(own)
    differing = sorted(key for key in (stored.keys() | own.keys()) - {_MODEL_NAME} if stored.get(key) != own.get(key))
    if not differing:
        return []
    sides = "; ".join(f"{key} is {stored.get(key)!r} there and {own.get(key)!r} here" for key in differing)
    return [
        f"it holds vectors of another model ({stored.get(_MODEL_NAME)!r} there, {own.get(_MODEL_NAME)!r} here): {sides}"
    ]


def compare(stored: CollectionStamp, own: CollectionStamp) -> list[str]:
    """The reasons why a process may not fill the collection, one clause each; empty if it may.

    1. Another model.
    2. Another rule. Where the mode differs, the other rules do not matter.
    3. A rule that is unknown here: a newer version wrote it.
    4. Another group fills it, and the own one is not known; or another group reads an own topic into it.
    """
    return [*model_problems(stored.model, own.model), *rule_problems(stored, own), *filler_problems(stored, own)]


def rule_problems(stored: CollectionStamp, own: CollectionStamp) -> list[str]:
    """The rules that differ, one clause each. A rule that the collection does not know yet is no difference."""
    if stored.rules is None or own.rules is None:
        return []
    theirs, ours = stored.rules, as_stored(own.rules)
    differing = [name for name in theirs if theirs[name] != ours.get(name, theirs[name])]
    if MODE in differing:
        differing = [MODE]
    elif unknown := sorted(theirs.keys() - ours.keys()):
        return [f"it was made by a newer version, with {', '.join(unknown)}, which is unknown here"]
    return [f"{name} is {_shown(theirs[name])} there and {_shown(ours[name])} here" for name in differing]


def filler_problems(stored: CollectionStamp, own: CollectionStamp) -> list[str]:
    """The conflicts with groups that fill the collection, one clause each."""
    problems = []
    for group, topics in own.fillers.items():
        others = {name: theirs for name, theirs in stored.fillers.items() if name != group}
        if others and group not in stored.fillers:
            known = "; ".join(f"{name} from {_listed(theirs)}" for name, theirs in sorted(others.items()))
            problems.append(f"group {group} does not fill it, other groups do: {known}")
        for name, theirs in sorted(others.items()):
            if shared := topics & theirs:
                problems.append(f"group {name} reads {_listed(shared)} into it, too: two writers of one document")
    return problems


def as_stored(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they are read back from a description: a tuple becomes a list."""
    read: dict[str, Any] = json.loads(json.dumps(dict(values)))
    return read


def stamp_fields(stamp: CollectionStamp) -> dict[str, Any]:
    """The part of a description that both the collection and its marks carry."""
    if stamp.rules is None:
        return {}
    return {"id": stamp.collection_id, "rules": dict(stamp.rules), "append_ids": stamp.append_ids}


def read_stamp(info: CollectionInfo) -> dict[str, Any] | None:
    """The model of a collection's vectors; None where the description does not name one."""
    model = read_description(info).get("model")
    return model if isinstance(model, dict) else None


def described_stamp(info: CollectionInfo, marks: CollectionInfo | None) -> CollectionStamp | None:
    """The stamp in a collection's description, or where a former version made it, in that of its marks.

    None: not made by milvus-stream. Fillers are not in it.
    """
    model = read_stamp(info)
    if model is None:
        return None
    for described in (info, marks):
        found = {} if described is None else read_description(described)
        rules, collection_id = found.get("rules"), found.get("id")
        if isinstance(rules, dict) and isinstance(collection_id, str):
            append_ids: AppendIds = "topic-id" if found.get("append_ids") == "topic-id" else "topic-name"
            return CollectionStamp(model, rules, collection_id=collection_id, append_ids=append_ids)
    return CollectionStamp(model, None, append_ids="topic-name")


def read_description(info: CollectionInfo) -> dict[str, Any]:
    """A description written by milvus-stream; empty for any other text."""
    try:
        description = json.loads(info.description)
    except json.JSONDecodeError:
        return {}
    return description if isinstance(description, dict) and "milvus_stream" in description else {}


def _shown(value: Any) -> str:
    return "null" if value is None else json.dumps(value) if isinstance(value, list) else repr(value)


def _listed(topics: frozenset[str]) -> str:
    return ", ".join(sorted(topics))
