"""The stamp that a process is configured with: the settings that decide which rows a document has."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from consumers.config import Settings
from consumers.wiring.modes import mode_of
from pipeline.embedding import Embedder
from pipeline.store import CollectionStamp
from pipeline.timestamps import format_duration

_UNITS = ("hour", "day", "week", "month", "year", "none")
_MAX_TOKENS = "chunking.max_tokens"


def own_stamp(settings: Settings, model: Embedder) -> CollectionStamp:
    """The stamp of a process with these settings, which fills a collection for the group of these settings."""
    return CollectionStamp(asdict(model.stamp), _rules(settings, model.tokenizer.max_tokens), _fillers(settings))


def stamp_without_model(settings: Settings, stored: CollectionStamp) -> CollectionStamp:
    """The stamp of a process with these settings as if its model were that of the collection stamped `stored`.

    So everything but the model can be compared before one is loaded.
    """
    return CollectionStamp(stored.model, _rules(settings, (stored.rules or {}).get(_MAX_TOKENS)), _fillers(settings))


def _fillers(settings: Settings) -> Mapping[str, frozenset[str]]:
    return {settings.kafka.group_id: frozenset(settings.kafka.topics)}


def _rules(settings: Settings, model_tokens: int | None) -> Mapping[str, Any]:
    """The settings by name, each as it acts: equal values have equal rows.

    In upsert mode chunking, partitioning and the fields of text and time may change: a new version replaces all rows
    of the old one, wherever they are. In append mode nothing would remove what a record read again leaves behind.
    """
    record, chunking, partitioning = settings.record, settings.chunking, settings.partitioning
    rules: dict[str, Any] = {
        "mode": settings.mode,
        # Of a text the key is the id, of Debezium's rows the only field of the key; all other formats take the fields
        # that are named here.
        "record.format": record.format if record.format in ("text", "debezium") else "not text",
        "record.id_field": record.id_field,
        "record.tenant_field": record.tenant_field,
        "record.version_field": record.version_field,
    }
    if mode_of(settings).one_version:
        identity = {record.id_field, record.tenant_field, record.version_field}
        return rules | {"record.fields": {name: paths for name, paths in record.fields.items() if name in identity}}
    coarser = _UNITS[_UNITS.index(partitioning.by) + 1 :]
    tiers = [f"{format_duration(tier.older_than)} by {tier.by}" for tier in partitioning.tiers if tier.by in coarser]
    return rules | {
        "record.text_field": record.text_field,
        "record.time_field": record.time_field,
        "record.fields": dict(record.fields),
        "record.text_template": record.text_template,
        _MAX_TOKENS: chunking.max_tokens or model_tokens,
        "chunking.overlap": chunking.overlap,
        "partitioning.by": partitioning.by,
        "partitioning.tiers": tiers,
    }
