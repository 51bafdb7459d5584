"""Further requests made of a generated one: values replaced, bytes damaged, headers and methods changed.

Generating one by its schema takes many times as long as answering it; these cost nothing.
"""

import gzip
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from tests.fuzz.sent import Sent

JSON = "application/json"
HOSTILE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**53,
    2**63,
    -(2**63) - 1,
    10**400,
    0.5,
    -0.0,
    1e308,
    "",
    " ",
    "a",
    "\0",
    "\u202e",
    "\ud800",
    "é" * 300,
    "x" * 9_000,
    '"] or 1 == 1 or ["',
    "$meta",
    "doc_id",
    "event_time",
    "2026-11-22",
    "9999-12-31T23:59:60Z",
    "1h",
    "%",
    "\\",
    "{{7*7}}",
    [],
    {},
    [[]],
    [None],
    {"": ""},
    {"type": "eq", "key": "lang", "value": "en"},
    {"type": "not", "filter": {"type": "exists", "key": "lang"}},
)
"""What programs stumble over."""
_DEPTH = 200
_NEEDED = ("query", "input", "doc_id")


def variants(sent: Sent, known: Mapping[str, Any], chance: random.Random) -> Iterator[Sent]:
    """Endless further requests; `known`: values by key that the worker's collection has, so that some are accepted."""
    kinds = _WITH_BODY if sent.body is not None else _WITHOUT_BODY
    while True:
        yield chance.choice(kinds)(sent, known, chance)


def with_known(sent: Sent, known: Mapping[str, Any], chance: random.Random) -> Sent:
    """The request with values that the collection has, wherever it has such keys."""
    for name, values in known.items():
        value = chance.choice(values)
        if sent.body is None and f"{name}=" in sent.path and isinstance(value, str):
            before, _, rest = sent.path.partition(f"{name}=")
            sent = replace(sent, path=f"{before}{name}={value}{rest[rest.find('&') :] if '&' in rest else ''}")
    body = _decoded(sent)
    if not isinstance(body, dict):
        return sent
    given = [name for name in known if name in body] or chance.sample([*known], min(1, len(known)))
    return _with_body(sent, {**body, **{name: chance.choice(known[name]) for name in given}})


def _plain(sent: Sent, known: Mapping[str, Any], chance: random.Random) -> Sent:
    """A request of known values only."""
    needed = {name: chance.choice(known[name]) for name in _NEEDED if name in known}
    others = chance.sample([*known], min(len(known), chance.randint(0, 3)))
    return _with_body(sent, {**{name: chance.choice(known[name]) for name in others}, **needed})


def _replaced(sent: Sent, _: Mapping[str, Any], chance: random.Random) -> Sent:
    """One value anywhere in the body is another one."""
    body = _decoded(sent)
    return _with_body(sent, _replaced_in(body, chance))


def _replaced_in(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice([*value])
        if chance.random() < 0.1:
            return {name: member for name, member in value.items() if name != key}
        return {**value, key: _replaced_in(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        at = chance.randrange(len(value))
        return [*value[:at], _replaced_in(value[at], chance), *value[at + 1 :]]
    return chance.choice(HOSTILE)


def _added(sent: Sent, known: Mapping[str, Any], chance: random.Random) -> Sent:
    body = _decoded(sent)
    name = chance.choice([*known, "limit", "filter", "explain", "count", "facets", "cursor", "nothing"])
    return _with_body(sent, {**body, name: chance.choice(HOSTILE)} if isinstance(body, dict) else body)


def _damaged(sent: Sent, _: Mapping[str, Any], chance: random.Random) -> Sent:
    body = bytearray(sent.body or b"")
    for _step in range(chance.randint(1, 4)):
        at = chance.randrange(len(body) + 1)
        body[at : at + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 3))
    return replace(sent, body=bytes(body))


def _cut(sent: Sent, _: Mapping[str, Any], chance: random.Random) -> Sent:
    body = sent.body or b""
    return replace(sent, body=body[: chance.randrange(len(body) + 1)])


def _deep(sent: Sent, _: Mapping[str, Any], chance: random.Random) -> Sent:
    opened, closed = chance.choice([(b"[", b"]"), (b'{"filter":', b"}"), (b'{"type":"and","filters":[', b"]}")])
    return replace(sent, body=opened * _DEPTH + (sent.body or b"null") + closed * _DEPTH)


def _twice(sent: Sent, _: Mapping[str, Any], __: random.Random) -> Sent:
    """Every key of the body twice."""
    body = (sent.body or b"").strip()
    return replace(sent, body=body[:-1] + b"," + body[1:] if body.startswith(b"{") and len(body) > 2 else body)


def _packed(sent: Sent, _: Mapping[str, Any], chance: random.Random) -> Sent:
    body = gzip.compress(sent.body or b"", mtime=0)
    if chance.random() < 0.3:
        body = body[: chance.randrange(len(body) + 1)]
    return replace(sent, body=body, headers={**sent.headers, "content-encoding": "gzip"})


def _typed(sent: Sent, _: Mapping[str, Any], chance: random.Random) -> Sent:
    name, value = chance.choice(
        [
            ("content-type", "text/plain"),
            ("content-type", "application/json; charset=utf-16"),
            ("content-type", ""),
            ("content-encoding", "br"),
            ("content-encoding", "gzip"),
            ("accept", "text/html"),
            ("accept-encoding", "gzip"),
            ("origin", "https://evil.example"),
            ("sec-fetch-site", "cross-site"),
            ("authorization", "Bearer nothing"),
            ("range", "bytes=0-1"),
        ]
    )
    return replace(sent, headers={**sent.headers, name: value})


def _method(sent: Sent, _: Mapping[str, Any], __: random.Random) -> Sent:
    return replace(sent, method="HEAD") if sent.method == "GET" else sent


def _address(sent: Sent, _: Mapping[str, Any], chance: random.Random) -> Sent:
    """Something in the path or the parameters."""
    part = chance.choice(
        ["%00", "%ff", "%2F", "%2e%2e", "a" * 2_000, "?", "&k=1", "&timeout_ms=-1", "%F0%9F%99%82", "/"]
    )
    return replace(sent, path=sent.path + part)


_Kind = Callable[[Sent, Mapping[str, Any], random.Random], Sent]
_WITH_BODY: tuple[_Kind, ...] = (
    *(with_known,) * 4,
    *(_plain,) * 6,
    *(_replaced,) * 6,
    *(_added,) * 3,
    _damaged,
    _cut,
    _deep,
    _twice,
    _packed,
    _typed,
    _address,
)
_WITHOUT_BODY: tuple[_Kind, ...] = (with_known, _typed, _method, _address)


def _decoded(sent: Sent) -> Any:
    try:
        return json.loads(sent.body or b"null")
    except (ValueError, RecursionError):
        return None


def _with_body(sent: Sent, body: Any) -> Sent:
    return replace(sent, body=json.dumps(body).encode(), headers={**sent.headers, "content-type": JSON})
