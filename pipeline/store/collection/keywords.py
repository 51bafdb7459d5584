"""What a new collection does with the words of its texts: a keyword index, the analyzer, and filters by words."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import UsageError
from pipeline.records import SPARSE_FIELD
from pipeline.store.collection.stamp import read_description
from pipeline.store.milvus.api import CollectionInfo, ServerInfo

BUILT_IN = ("standard", "english", "chinese")
"""Milvus's analyzers by name."""
DESCRIBED = "keywords"
"""The key of these settings in a collection's description."""
_PARTS = ("type", "tokenizer", "filter", "stop_words")
_MAX_BYTES = 16_384
_WORD, _UNSPACED = re.compile(r"\w+"), re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class KeywordSettings:
    """Settings of a new collection; that of an existing one never changes."""

    sparse: Literal["auto", "off"] = "auto"
    """`auto`: with the field `sparse` where the server fills it."""
    analyzer: str | Mapping[str, Any] = "standard"
    """The name of a built-in analyzer, or parameters as Milvus takes them in `analyzer_params`."""
    enable_match: bool = False
    """Filters by words, `text_match`."""

    def __post_init__(self) -> None:
        """Raises UsageError for an analyzer that is none."""
        if isinstance(self.analyzer, str):
            if self.analyzer not in BUILT_IN:
                known = ", ".join(BUILT_IN)
                raise UsageError(f"milvus.analyzer is {self.analyzer!r}: write {known}, or a mapping of parameters")
            return
        known_parts = ", ".join(_PARTS)
        if not self.analyzer or not self.analyzer.keys() & {"type", "tokenizer"}:
            raise UsageError("milvus.analyzer: a mapping needs tokenizer, or the type of a built-in analyzer")
        if unknown := sorted(map(str, self.analyzer.keys() - set(_PARTS))):
            raise UsageError(f"milvus.analyzer has {unknown[0]!r}, which Milvus does not know; known are {known_parts}")
        try:
            size = len(json.dumps(dict(self.analyzer), allow_nan=False).encode())
        except (TypeError, ValueError) as error:
            raise UsageError(f"milvus.analyzer is not JSON: {error}") from error
        if size > _MAX_BYTES:
            raise UsageError(f"milvus.analyzer has {size:,} bytes as JSON; at most {_MAX_BYTES:,} are stored")

    @property
    def word(self) -> re.Pattern[str]:
        """What goes to the analyzer as one word of a filter; how a custom one cuts is not known here."""
        return _WORD if isinstance(self.analyzer, str) else _UNSPACED

    def text_options(self, *, bm25: bool) -> dict[str, Any]:
        """Options of the column `text`; empty where nothing reads its words."""
        options: dict[str, Any] = {}
        if not bm25 and not self.enable_match:
            return options
        options["enable_analyzer"] = True
        if self.analyzer != "standard":
            options["analyzer_params"] = (
                {"type": self.analyzer} if isinstance(self.analyzer, str) else dict(self.analyzer)
            )
        if self.enable_match:
            options["enable_match"] = True
        return options

    def described(self) -> dict[str, Any]:
        """As a collection's description names them: the field shows `sparse`, and what is absent is the default."""
        analyzer = self.analyzer if isinstance(self.analyzer, str) else dict(self.analyzer)
        if analyzer == "standard" and not self.enable_match:
            return {}
        return {DESCRIBED: {"analyzer": analyzer, "enable_match": self.enable_match}}


DEFAULT_KEYWORDS = KeywordSettings()


def check_keywords(settings: KeywordSettings, server: ServerInfo) -> None:
    """Raise UsageError for settings with which this server cannot create a collection."""
    capabilities = server.capabilities
    if settings.enable_match and not capabilities.text_match:
        raise UsageError(
            f"milvus.enable_match needs Milvus 2.5 or newer, or Lite; the server is {server.version}. Leave it out"
        )
    if settings.analyzer == "standard" or capabilities.analyzers == "any":
        return
    if capabilities.analyzers == "none":
        raise UsageError(f"milvus.analyzer needs Milvus 2.5 or newer; the server is {server.version}. Leave it out")
    if isinstance(settings.analyzer, str):
        raise UsageError(
            f"milvus.analyzer {settings.analyzer} needs a Milvus server; Milvus Lite has standard, and a mapping with "
            "tokenizer standard or jieba"
        )
    if settings.enable_match:
        raise UsageError("milvus.enable_match on Milvus Lite needs milvus.analyzer standard: it matches by no other")


def keyword_settings_of(info: CollectionInfo) -> KeywordSettings:
    """The settings that a collection was created with."""
    has_index = any(field.name == SPARSE_FIELD for field in info.fields)
    stored = read_description(info).get(DESCRIBED)
    stored = stored if isinstance(stored, dict) else {}
    analyzer, enable_match = stored.get("analyzer", "standard"), stored.get("enable_match") is True
    try:
        return KeywordSettings("auto" if has_index else "off", analyzer, enable_match)
    except (UsageError, TypeError, AttributeError):  # a newer version knows another analyzer
        return KeywordSettings("auto" if has_index else "off", enable_match=enable_match)


def keyword_differences(info: CollectionInfo, wanted: KeywordSettings, server: ServerInfo) -> list[str]:
    """What a new collection would have otherwise, one clause each, as "setting: stored, configured"."""
    stored = keyword_settings_of(info)
    differences = []
    if wanted.sparse == "off" and stored.sparse == "auto":
        differences.append("milvus.sparse: the collection has a keyword index, configured is off")
    if wanted.sparse == "auto" and stored.sparse == "off" and server.capabilities.bm25:
        differences.append("milvus.sparse: the collection has no keyword index, configured is auto")
    if stored.analyzer != wanted.analyzer:
        differences.append(f"milvus.analyzer: {_shown(stored)} there, {_shown(wanted)} configured")
    if stored.enable_match != wanted.enable_match:
        there, here = (str(value).lower() for value in (stored.enable_match, wanted.enable_match))
        differences.append(f"milvus.enable_match: {there} there, {here} configured")
    return differences


def _shown(settings: KeywordSettings) -> str:
    return settings.analyzer if isinstance(settings.analyzer, str) else "a mapping of its own"
