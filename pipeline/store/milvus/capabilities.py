"""The ways in which Milvus servers differ, each with a name; decided once from the version and the kind of server."""

from dataclasses import dataclass
from typing import Literal

Version = tuple[int, int, int]
UNKNOWN: Version = (0, 0, 0)
"""The version of a build that does not say it: what not every version has is then not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a server can do, and what it does differently from others."""

    # --- searching
    bm25: bool
    """A BM25 function can fill a sparse field from a text."""
    bm25_scores_are_negative: bool
    """In a keyword search a lower score is better."""
    text_match: bool
    """Rows can be filtered by the words of a text."""
    analyzers: Literal["any", "tokenizers", "none"]
    """What can cut a text into words: Milvus's analyzers; a tokenizer and stop words; nothing can be set."""
    unknown_comparisons: bool
    """The order of a value of another type is unknown, and so is its opposite. Elsewhere it is false."""
    json_in_texts: bool
    """A path or a function of lists reads a text that is itself JSON."""
    lists_by_plain_name: bool
    """A function of lists takes metadata by a plain name only, not as `$meta["name"]`."""
    cagra_index: bool
    """The index type GPU_CAGRA exists. Lite accepts the name of any index."""
    slow_unflushed_search: bool
    """Rows not flushed yet are searched one by one in Python."""

    # --- loading
    needs_load: bool
    """Milvus partitions are loaded and released one by one. Lite always loads a whole collection."""
    reloads_after_restart: bool
    """What was loaded before a restart is loaded again by the server itself."""

    # --- collections and indexes
    collection_appears_late: bool
    """A name is taken some milliseconds before the new collection can be found."""
    builds_indexes_later: bool
    """Rows are indexed in the background, so the number of rows that wait is worth reading."""

    # --- rows
    insert_replaces_rows: bool
    """Insert replaces a row by id, and upsert keeps what only the old row had. Elsewhere insert adds a second row."""
    stores_repeated_ids: bool
    """An id can be stored twice in a Milvus partition; 2.3.5 then leaves other rows out of an answer."""
    answers_older_rows: bool
    """An upsert can lose its delete while a segment is loaded, and then a query answers any of the two rows."""
    counts_by_partition: bool
    """`count(*)` obeys the Milvus partitions that are named."""
    refuses_missing_names: bool
    """A query or flush that names what does not exist is an error, not an empty answer."""
    has_clock: bool
    """The server has a clock that orders writes and reads."""

    # --- flushing
    limits_flushes: bool
    """More than one flush of a collection within ten seconds is refused by default."""


def capabilities_of(version: Version, *, lite: bool) -> Capabilities:
    """The capabilities of a server; the version numbers of Lite count from another start and decide nothing."""
    return Capabilities(
        bm25=lite or version >= (2, 5, 0),
        bm25_scores_are_negative=lite,
        text_match=lite or version >= (2, 5, 0),
        analyzers="tokenizers" if lite else "any" if version >= (2, 5, 0) else "none",
        unknown_comparisons=lite,
        json_in_texts=lite,
        lists_by_plain_name=lite,
        cagra_index=lite or version >= (2, 4, 0),
        slow_unflushed_search=lite,
        needs_load=not lite,
        reloads_after_restart=not lite,
        collection_appears_late=lite,
        builds_indexes_later=not lite,
        insert_replaces_rows=lite,
        stores_repeated_ids=not lite,
        answers_older_rows=not lite and UNKNOWN < version < (2, 4, 0),
        counts_by_partition=not lite,
        refuses_missing_names=not lite,
        has_clock=not lite,
        limits_flushes=not lite and not UNKNOWN < version < (2, 4, 0),
    )
