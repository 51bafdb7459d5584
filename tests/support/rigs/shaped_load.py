"""A mixed load in the shapes that a mapping of fields allows: versions, tenants, routing keys, times of Kafka."""

import random
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from typing_extensions import override

from tests.support.rigs.load import POISON, Load, Sent, encoded

BAD_DATES: tuple[bytes, ...] = tuple(
    b'{"id": "when", "text": "x", "event_time": %s}' % time
    for time in (b'"2026-02-30"', b'"2025-13-01T00:00:00Z"', b"-1", b"1795339800250000", b'"24:00"', b"true", b"[1]")
)
_ODD_DATES = ("1969-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2012-02-29")
"""Valid, and each in a Milvus partition of its own."""
_TENANTS = ("acme", "Straße", "o'neill")
_AGES_DAYS = (3, 40, 41, 200, 800)
"""Of Kafka timestamps that are not the time of sending."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How the records of a topic look, under the names of the settings that read them."""

    version_field: str | None = None
    """Half of the documents have versions that do not rise with their records."""
    tenant_field: str | None = None
    """Every id is that of three documents, of one tenant each."""
    delete_field: str | None = None
    """Deletes by this field; without a tenant every second one by a null value where the key is the id."""
    key_is_id: bool = True
    """False: the key only routes."""
    two_logs: bool = False
    """Some documents are in two Kafka partitions; only with a version field."""


class ShapedLoad(Load):
    """Deterministic by its seed and the present day. Every record names its Kafka partition.

    The event times are some days before now. One record in eight has a Kafka timestamp of long ago; some documents have
    no event time of their own, so that this timestamp is theirs.
    """

    def __init__(self, seed: int, partitions: int, shape: Shape, prefix: str) -> None:
        self.partitions = partitions
        """Kafka partitions that new documents may be in; may grow."""
        self._shape = shape
        self._prefix = prefix
        self._own = random.Random(f"{seed} {prefix}")
        self._today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        self.first_day = self._today - timedelta(days=8)
        self._logs: dict[str, tuple[int, ...]] = {}
        self._versions: dict[str, int] = {}
        self._serial = 0
        super().__init__(seed, partitions)

    # --- documents ---------------------------------------------------------------------------------------------------

    @override
    def _hot_id(self, number: int, partitions: int) -> str:
        name = f"{self._prefix}-hot-{number}"
        self._logs[name] = (number,)
        return name

    @override
    def _new_id(self) -> str:
        self._number += 1
        # Quotes, a space and a letter outside ASCII: ids are anybody's text.
        return f"{self._prefix}-{self._number} 'é\""

    @override
    def _new_body(self, doc_id: str) -> dict[str, Any]:
        tenant, identifier = self._identity(doc_id)
        body = {**super()._new_body(doc_id), "id": identifier}
        if self._shape.tenant_field:
            body[self._shape.tenant_field] = tenant
        chance = self._own.random()
        if chance < 0.06:
            del body["event_time"]
        elif chance < 0.09:
            body["event_time"] = self._own.choice(_ODD_DATES)
        return body

    @override
    def _changed(self, before: dict[str, Any], kind: str) -> dict[str, Any]:
        return super()._changed(before, "rewrite" if kind == "move" and "event_time" not in before else kind)

    def _identity(self, name: str) -> tuple[str, str]:
        """Tenant and id; three names in a row differ in the tenant only."""
        if not self._shape.tenant_field:
            return "", name
        number = (
            zlib.crc32(name.encode())
            if "-hot-" in name
            else int(name.removeprefix(f"{self._prefix}-").partition(" ")[0])
        )
        return _TENANTS[number % 3], name.replace(f"-{number} ", f"-{number // 3} ")

    # --- records -----------------------------------------------------------------------------------------------------

    @override
    def _put(self, doc_id: str, body: dict[str, Any], kind: str) -> Sent:
        field = self._shape.version_field
        if field is not None and (kind != "again" or field not in body):
            body[field] = self._next_version(doc_id)
        if self._text_only(kind, doc_id):
            return self._sent(doc_id, body["text"].encode(), "text", aged=True)
        return self._sent(doc_id, encoded(body), kind, aged="event_time" not in body)

    @override
    def _delete(self, doc_id: str, before: dict[str, Any] | None) -> Sent:
        shape = self._shape
        by_null = shape.key_is_id and not self._is_in_two_logs(doc_id)
        if shape.delete_field is None or (by_null and self._own.random() < (0.05 if shape.tenant_field else 0.5)):
            return self._sent(doc_id, None, "delete")
        tenant, identifier = self._identity(doc_id)
        body: dict[str, Any] = {"id": identifier, shape.delete_field: True}
        if shape.tenant_field:
            body[shape.tenant_field] = tenant
        if shape.version_field:
            body[shape.version_field] = self._next_version(doc_id)
        return self._sent(doc_id, encoded(body), "delete")

    @override
    def _poison(self) -> Sent:
        made = super()._poison()
        if self._own.random() < 0.4:
            made = Sent(made.key, self._own.choice((*POISON, *BAD_DATES)), poison=True, kind="poison")
        return Sent(made.key, made.value, poison=True, kind="poison", timestamp_ms=self._timestamp(False))

    def _sent(self, name: str, value: bytes | None, kind: str, *, aged: bool = False) -> Sent:
        key = self._identity(name)[1] if self._shape.key_is_id else f"route-{zlib.crc32(name.encode()) % 10}"
        partition = self._own.choice(self._partitions_of(name))
        return Sent(key.encode(), value, kind=kind, partition=partition, timestamp_ms=self._timestamp(aged))

    def _partitions_of(self, name: str) -> tuple[int, ...]:
        """Chosen when a document is new, so that further Kafka partitions move none."""
        if name not in self._logs:
            first = zlib.crc32(name.encode()) % self.partitions
            two = self._is_in_two_logs(name)
            self._logs[name] = (first, (first + 1) % self.partitions) if two else (first,)
        return self._logs[name]

    def _is_in_two_logs(self, name: str) -> bool:
        shape = self._shape
        return shape.two_logs and shape.version_field is not None and zlib.crc32(name[::-1].encode()) % 25 == 0

    def _text_only(self, kind: str, name: str) -> bool:
        """Whether the value is the bare text; its id is the key."""
        shape = self._shape
        plain = shape.key_is_id and not (shape.version_field or shape.tenant_field)
        return plain and kind == "rewrite" and self._own.random() < 0.2

    def _next_version(self, name: str) -> int:
        self._serial += 1
        self._versions[name] = rising = self._versions.get(name, 0) + 1
        if zlib.crc32(name.encode()) % 2 == 0:
            rising -= self._own.choice((0, 0, 0, 1, 2, 5))
        return rising * 10**9 + self._serial  # no two are equal

    def _timestamp(self, aged: bool) -> int | None:
        """Of long ago, where `aged` or by chance."""
        if not aged and self._own.random() > 0.125:
            return None
        moment = self._today - timedelta(days=self._own.choice(_AGES_DAYS), seconds=self._own.randrange(86_400))
        return int(moment.timestamp() * 1000)
