"""A mixed load: an endless stream of everything that producers do to documents, good and bad."""

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

POISON_HEADER = "poison"
"""Marks a record that must become a dead letter: who checks need not decode it to know."""

POISON: tuple[bytes, ...] = (
    b'{"id": "broken", "text": ',
    b"\xff\xfe not utf-8 {",
    b'{"id": "no-text"}',
    b'{"id": "", "text": "empty id"}',
    b'{"id": "nan", "text": "x", "n": NaN}',
    b'{"id": "half", "text": "\\ud83d"}',
    b'{"id": "future", "text": "x", "event_time": "2099-01-01T00:00:00Z"}',
    b'{"id": "when", "text": "x", "event_time": "noon"}',
    b'{"id": "blank", "text": "  \\n "}',
    b'{"id": ["list"], "text": "x"}',
    b'{"id": "number", "text": 7}',
    b'{"id": "big", "text": "x", "n": 99999999999999999999}',
    b'{"id": "deep", "text": "x", "a": ' + b"[" * 60 + b"]" * 60 + b"}",
)
_WORDS = ("harbour", "lantern", "copper", "violet", "ridge", "meadow", "signal", "anchor", "ember", "quartz", "Öl")
_LENGTHS = (3, 8, 20, 45, 90)
DAYS = 4
_WEIGHTS = {
    "new": 28,
    "rewrite": 10,
    "move": 10,
    "shrink": 9,
    "grow": 9,
    "metadata": 6,
    "again": 6,
    "delete": 8,
    "recreate": 5,
    "in_a_row": 3,
    "hot": 3,
    "poison": 3,
}


@dataclass(frozen=True, slots=True)
class Sent:
    """One record to produce."""

    key: bytes | None
    value: bytes | None
    poison: bool = False
    kind: str = ""
    partition: int | None = None
    """None: the producer's own choice by the key."""
    timestamp_ms: int | None = None
    """None: the time at which it is sent."""

    @property
    def headers(self) -> list[tuple[str, str | bytes | None]]:
        """What it is produced with."""
        return [("trace", b"\x00\x01"), *([(POISON_HEADER, b"1")] if self.poison else [])]


class Load:
    """Deterministic by its seed. A document's key is its id, so that all its records are in one Kafka partition.

    The kinds: a new document; an update on the same day, to another day, to fewer or more chunks, of metadata only;
    the same again; a delete; one created anew after it; several records of one key in a row; one hot key for each Kafka
    partition; and poison, some of it under the key of a good document.
    """

    def __init__(self, seed: int, partitions: int) -> None:
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        self.first_day = today - timedelta(days=DAYS)
        """Of the four days on which the documents' event times are: so near that each has a Milvus partition."""
        self._random = random.Random(seed)
        self._seed = seed
        self._number = 0
        self._current: dict[str, dict[str, Any]] = {}
        self._ids: list[str] = []
        self._deleted: list[str] = []
        self._hot = [self._hot_id(number, partitions) for number in range(partitions)]
        self._stream = self._records()

    def next_records(self, count: int) -> list[Sent]:
        """The next records of the stream."""
        return list(islice(self._stream, count))

    def _hot_id(self, number: int, partitions: int) -> str:
        # librdkafka and this agree: a keyed record goes to crc32(key) modulo the number of Kafka partitions.
        names = (f"hot-{self._seed}-{attempt}" for attempt in range(1_000_000))
        return next(name for name in names if zlib.crc32(name.encode()) % partitions == number)

    def _records(self) -> Iterator[Sent]:
        kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
        while True:
            kind = self._random.choices(kinds, weights)[0]
            match kind:
                case "poison":
                    yield self._poison()
                case "in_a_row":
                    doc_id = self._any()
                    for _ in range(self._random.randint(2, 6)):
                        yield self._change(doc_id, self._random.choice(("rewrite", "move", "delete", "again", "grow")))
                case "hot":
                    changes = ("rewrite", "move", "shrink", "grow", "again", "delete")
                    yield self._change(self._random.choice(self._hot), self._random.choice(changes))
                case "new":
                    yield self._change(self._new_id(), kind)
                case "recreate":
                    doc_id = self._deleted.pop(self._random.randrange(len(self._deleted))) if self._deleted else ""
                    yield self._change(doc_id or self._new_id(), "recreate" if doc_id else "new")
                case _:
                    yield self._change(self._any(), kind)

    def _new_id(self) -> str:
        self._number += 1
        # Quotes, a space and a letter outside ASCII: ids are anybody's text. Some are numbers.
        return str(self._number) if self._number % 10 == 0 else f"doc-{self._seed}-{self._number} 'é\""

    def _any(self) -> str:
        """A document that is stored; one of the latest more often than not, so that batches overlap."""
        if not self._ids:
            return self._new_id()
        return self._random.choice(self._ids[-12:] if self._random.random() < 0.6 else self._ids)

    def _change(self, doc_id: str, kind: str) -> Sent:
        before = self._current.get(doc_id)
        if kind == "delete":
            if before is not None:
                del self._current[doc_id]
                self._ids.remove(doc_id)
                self._deleted.append(doc_id)
            return self._delete(doc_id, before)
        if before is None:
            body = self._new_body(doc_id)
            self._ids.append(doc_id)
            if doc_id in self._deleted:
                self._deleted.remove(doc_id)
        else:
            body = self._changed(before, kind)
        self._current[doc_id] = body
        return self._put(doc_id, body, kind)

    def _put(self, doc_id: str, body: dict[str, Any], kind: str) -> Sent:
        return Sent(doc_id.encode(), encoded(body), kind=kind)

    def _delete(self, doc_id: str, before: dict[str, Any] | None) -> Sent:
        return Sent(doc_id.encode(), None, kind="delete")

    def _new_body(self, doc_id: str) -> dict[str, Any]:
        body: dict[str, Any] = {"id": int(doc_id) if doc_id.isdecimal() else doc_id}
        text = f"{doc_id} {self._text(self._random.choice(_LENGTHS))}"  # no two documents have the same
        return {**body, "text": text, "event_time": self._moment(), **self._meta()}

    def _changed(self, before: dict[str, Any], kind: str) -> dict[str, Any]:
        if kind == "again":
            return before
        words = before["text"].split()
        body = {**before, **self._meta()}
        match kind:
            case "shrink":
                body["text"] = " ".join(words[: max(3, len(words) // 3)])
            case "grow" if len(words) < 300:
                body["text"] = f"{before['text']} {self._text(self._random.choice((15, 40)))}"
            case "grow" | "rewrite":
                body["text"] = f"{body['id']} {self._text(min(len(words), 90))}"
            case "move":
                while body["event_time"][:10] == before["event_time"][:10]:
                    body["event_time"] = self._moment()
        return body

    def _meta(self) -> dict[str, Any]:
        number = self._random.randrange(2**40)
        return {
            "number": number,
            "even": number % 2 == 0,
            "score": number / 4096,
            "tags": self._random.sample(_WORDS, 2),
            "nested": {"deep": [number % 7, None, "ß"]},
            "chunk": number % 5,
        }

    def _text(self, words: int) -> str:
        text = " ".join(self._random.choice(_WORDS) for _ in range(words))
        return text.replace("quartz ember", "quartz.\n\nEmber")

    def _moment(self) -> str:
        return (self.first_day + timedelta(seconds=self._random.randrange(DAYS * 86_400))).isoformat()

    def _poison(self) -> Sent:
        kind = self._random.randrange(4)
        if kind == 0 and self._ids:
            return Sent(
                self._any().encode(), b'{"text": "under the key of a good document"', poison=True, kind="poison"
            )
        if kind == 1:
            return Sent(self._random.choice((None, b"")), None, poison=True, kind="poison")
        self._number += 1
        return Sent(f"poison-{self._number}".encode(), self._random.choice(POISON), poison=True, kind="poison")


def encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()
