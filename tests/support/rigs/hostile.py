"""Strings that break out of a literal, a log line, a terminal or a template wherever one of them is not escaped."""

_ESC = "\x1b"

EXPRESSIONS = (
    'id != ""', '" or 1==1', '" or id != "" or "" == "', "' or '1'=='1", '") or (id != ""',
    '") or exists $meta["x"] or ("', '$meta["x"]', "$meta", "$meta[0]", '$meta["a"]["b"]',
    'x"] == "y" or id != "" or $meta["x', 'id in ["a"]',
    'not (id == "")', 'like "%"', "%", "_", "%_%", "*", ".*", "event_time > 0", 'json_contains($meta["x"], 1)',
    "array_length(x)", "count(*)", "1==1", "true", "false", "null", "None", "nan", "inf", "-1", "0", "1e309", "0x10",
    "9223372036854775808", "&&", "||", "!", "==", "<>", ";drop", "--", "/*x*/", "#", "//", "in", "and", "or", "not",
    "exists", "like", 'a"] or id != "" or $meta["' * 6,
)  # fmt: skip
PATHS = (
    "][", "][x", "x][", 'a"][', '"][', '][""', "a][b", 'a"]["b', 'a\\"][\\"b', "a']['b", "]][[", "]", "[", '"]', '\\"]',
    "a]", "[a", "]a[", "] [", "[]", "[0]", '["a"]', "a.b", ".", "..", "/", "~0", "~1", "../../etc/passwd",
    "/etc/passwd", "C:\\x",
)  # fmt: skip
OUR_WORDS = (
    "id", "doc_id", "vector", "event_time", "distance", "entity", "pk", "score", "offset", "keys", "fields", "text",
    "__class__",
)  # fmt: skip
QUOTES = (
    '"', "'", "\\", "\\\\", '\\"', "\\'", '"\\', 'a"b', "a\\b", "a\\nb", "a\\u0041", "\\x41", "\\101", "a\\",
    "``", "“”", "«»", '\\"\\"\\"', '"""', "'''", '"' * 100, "\\" * 100,
)  # fmt: skip
CONTROLS = (
    "a\nb", "a\rb", "a\r\nb", "a\tb", "a\x00b", "\x00", "a\x01b", "a\x07b", "a\x08b", "a\x0bb", "a\x0cb", "a\x7fb",
    "a\x85b", "a\x9b31mb", "\x9b2J", "a\u2028b", "a\u2029b", "\ufeffa", "a\u200bb", "a\u202eb", "a\u2066b\u2069",
    " a ", "\u00a0a", "\u3000", f"{_ESC}[31mred{_ESC}[0m", f"{_ESC}]0;title\x07", f"{_ESC}[2J{_ESC}[H", f"{_ESC}c",
    f"{_ESC}]8;;http://evil{_ESC}\\click{_ESC}]8;;{_ESC}\\", f"{_ESC}]52;c;ZXZpbA==\x07", f'{_ESC}P$q"p{_ESC}\\',
)  # fmt: skip
MARKUP = (
    "[red]x[/red]", "[link=http://evil]x[/link]", "[/]", "[/red]", "[bold", "[[", ":smile:", "[@click=app.bell]x[/]",
    "\\[red]", "[/]" * 30, "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)",
)  # fmt: skip
TEMPLATES = (
    "${HOME}", "$(id)", "`id`", "{{7*7}}", "{%x%}", "%(x)s", "%s%s%n", "{0.__class__}", "<%= 7 %>", "#{7}", "{event}",
    "{}", "${jndi:ldap://127.0.0.1/a}", "=1+1", "=cmd|'/c calc'!A1", "+1", "-1+1", "@SUM(1)", "file:/etc/passwd", "a/b",
    "a~b", "a,b", "a:b", "a|b", "a&b=c", "a?b",
)  # fmt: skip
LOG_LINES = (
    "\r\nX-Evil: 1", '{"level":"error"}', "2026-01-01T00:00:00Z [error] forged", '"}\n{"forged":1',
    "x\n2026-01-01T00:00:00Z [error] forged",
)  # fmt: skip
UNICODE = (
    "é", "e\u0301", "İ", "ß", "ﬁ", "𝕏", "👩‍👩‍👧", "\U0010ffff", "\U0010fffe", "\ud7ff\ue000", "\uffff", "\ufdd0", "𐀀",
    "ا\u0644", "ａ", "ⅷ", "٣", "²", "x" * 250, "é" * 120,
)  # fmt: skip

HOSTILE = (*EXPRESSIONS, *PATHS, *OUR_WORDS, *QUOTES, *CONTROLS, *MARKUP, *TEMPLATES, *LOG_LINES, *UNICODE)
assert len(set(HOSTILE)) == len(HOSTILE)
