"""JMESPath filters and glob patterns in the form of our filters: what they mean, and what is refused."""

import itertools
from typing import Any

import jmespath
import pytest

from consumers.query.pathway_filter import pathway_filter
from pipeline.query import InvalidRequest, parse_request
from tests.support.rigs.search import leaf


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("lang == 'en'", leaf("eq", "lang", "en")),
        ('lang != `"en"`', leaf("ne", "lang", "en")),
        ("lang == `en`", leaf("eq", "lang", "en")),
        ("n >= `2`", leaf("gte", "n", 2)),
        ("`2` < n", leaf("gt", "n", 2)),
        ("ok == `true`", leaf("eq", "ok", True)),
        ("\"content-type\" == 'a`b'", leaf("eq", "content-type", "a`b")),
        ('contains(`["a", "b"]`, lang)', leaf("in", "lang", ["a", "b"])),
        ("contains(tags, 'x')", leaf("contains", "tags", "x")),
        ("starts_with(path, 'docs/')", leaf("prefix", "path", "docs/")),
        ("globmatch('docs/**', path)", leaf("prefix", "path", "docs/")),
        ("globmatch('docs/a.md', path)", leaf("eq", "path", "docs/a.md")),
        ("!(lang == 'en')", leaf("ne", "lang", "en")),
        ('!contains(`["a"]`, lang)', leaf("nin", "lang", ["a"])),
        ("modified_at >= `10`", leaf("gte", "event_time", 10_000)),
        ("modified_at > `10`", leaf("gte", "event_time", 11_000)),
        ("modified_at < `10`", leaf("lt", "event_time", 10_000)),
        ("`10` >= modified_at", leaf("lt", "event_time", 11_000)),
        ("!(modified_at >= `10`)", leaf("lt", "event_time", 10_000)),
    ],
)
def test_one_condition(text: str, wanted: dict[str, Any]) -> None:
    assert pathway_filter(text, None) == wanted


def test_chains_are_flat() -> None:
    assert pathway_filter(" && ".join(f"n != `{number}`" for number in range(100)), None) == {
        "type": "and",
        "filters": [leaf("ne", "n", number) for number in range(100)],
    }


def test_both_filters_are_joined() -> None:
    joined = {"type": "and", "filters": [leaf("eq", "lang", "en"), leaf("prefix", "path", "docs/")]}
    assert pathway_filter("lang == 'en'", "docs/**/*") == joined
    assert pathway_filter(None, "docs/a.md") == leaf("eq", "path", "docs/a.md")
    for everything in ("", None):
        assert pathway_filter(everything, everything) is None
    assert pathway_filter(None, "**/*") is None


def holds(wanted: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a row matches a filter, by the meaning in docs/search-api.md."""
    kind = wanted["type"]
    if kind in ("and", "or"):
        return (all if kind == "and" else any)(holds(part, row) for part in wanted["filters"])
    value = row.get(wanted["key"])
    match kind:
        case "eq" | "ne":
            return (value == wanted["value"]) is (kind == "eq")
        case "in" | "nin":
            return (value in wanted["value"]) is (kind == "in")
        case "prefix":
            return isinstance(value, str) and value.startswith(wanted["value"])
    if not isinstance(value, int):
        return False
    least, most = {"gt": (1, 9), "gte": (0, 9), "lt": (-9, -1), "lte": (-9, 0)}[kind]
    other: int = wanted["value"]
    return least <= (value > other) - (value < other) <= most


@pytest.mark.parametrize(
    "text",
    [
        "lang == 'en' && n > `1` || lang == 'de'",
        "lang == 'en' && (n > `1` || lang == 'de')",
        "!(lang == 'en' || n == `1`)",
        "!(lang != 'en' && !(n == `2`))",
        "!!(n == `1`)",
        "`1` <= n && n < `3`",
        'contains(`["en", "fr"]`, lang) && !contains(`[1, 3]`, n)',
        "starts_with(lang, 'e') || n == `0`",
    ],
)
def test_a_filter_means_what_jmespath_means(text: str) -> None:
    wanted = pathway_filter(text, None)
    assert wanted is not None
    assert parse_request({"query": "q", "filter": wanted}).filter is not None
    rows = [
        {key: value for key, value in (("lang", lang), ("n", n)) if value is not None}
        for lang, n in itertools.product(["en", "de", "fr"], [None, 0, 1, 2, 3])
    ]
    found = [holds(wanted, row) for row in rows]
    assert found == [bool(jmespath.search(text, row)) for row in rows]
    assert len(set(found)) == 2


@pytest.mark.parametrize(
    "text",
    [
        "lang",
        "lang ==",
        "lang = 'en'",
        "'en' == 'en'",
        "lang == other",
        "owner.name == 'a'",
        "tags[0] == 'a'",
        "tags[?x == 'a']",
        "length(tags) > `2`",
        "contains(lang, other)",
        "contains('abc', lang)",
        "contains(lang)",
        "ends_with(path, '.md')",
        "globmatch('**', path)",
        "globmatch('*.md', path)",
        "!(n > `1`)",
        "!starts_with(lang, 'e')",
        "modified_at > `1.5`",
        "modified_at > 'yesterday'",
        "lang == 'en' | n",
        "[lang]",
        "{a: lang}",
        "@",
        "&lang",
        "(" * 3_000,
        "!" * 4_000 + "a",
        "x" * 4_097,
        "lang == 'en'" + " && (lang == 'en'" * 200,
        'lang == `"\ud800"`',
    ],
)
def test_what_has_no_filter_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_request({"query": "q", "filter": pathway_filter(text, None)})
    assert refused.value.at in ("/metadata_filter", "/filter/value")
    assert "yesterday" not in str(refused.value)


@pytest.mark.parametrize(
    "pattern", ["*.md", "docs/*", "docs**", "a?", "[ab]/**", "{a,b}/**", "!(a)/**", "**/x/**", "a/*/**"]
)
def test_what_milvus_cannot_match_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        pathway_filter(None, pattern)
    assert refused.value.at == "/filepath_globpattern"
