"""Which dead letters the sending thread gives to Kafka; the sending itself is tested on a broker."""

from collections.abc import Iterator, Sequence

import pytest

from consumers.dead_letters import DeadLetter, DeadLetterPolicy, DeadLetterProducer, decode_dead_letter
from consumers.dead_letters.envelope import OutgoingDeadLetter, retimed
from consumers.kafka import KafkaSettings
from pipeline.backoff import Backoff
from pipeline.records import Position, Receipt, Rejected, SourceRecord
from tests.support.fakes.kafka import FakeBroker
from tests.support.waiting import eventually

TOPIC = "dlq"
Batches = Sequence[OutgoingDeadLetter]


class Outbox:
    """A dead-letter topic of a FakeBroker that is away at first, and that may refuse timestamps."""

    def __init__(self) -> None:
        self.broker = FakeBroker()
        self.broker.create_topic(TOPIC)
        self.away = True
        self.refuses_timestamps = False
        self.attempts = 0
        self.refusal: str | None = None

    def send(self, dead_letters: Batches) -> tuple[Batches, Batches]:
        self.attempts += 1
        self.refusal = "the topic is away" if self.away else None
        if self.away:
            return [], dead_letters
        if self.refuses_timestamps and any(dead_letter.timestamp_ms >= 0 for dead_letter in dead_letters):
            return [], [retimed(dead_letter) for dead_letter in dead_letters]
        for sent in dead_letters:
            stamp = None if sent.timestamp_ms < 0 else sent.timestamp_ms
            self.broker.produce(TOPIC, sent.value, key=sent.key, headers=sent.headers, timestamp_ms=stamp)
        return dead_letters, []

    def read(self) -> Iterator[DeadLetter]:
        return map(decode_dead_letter, self.broker.read(TOPIC))

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def outbox(monkeypatch: pytest.MonkeyPatch) -> Outbox:
    outbox = Outbox()
    monkeypatch.setattr("consumers.dead_letters.producer._Outbox", lambda *_: outbox)
    monkeypatch.setattr("consumers.dead_letters.producer.newest_dead_letters", lambda *_: outbox.read())
    return outbox


def rejected(offset: int, batch: int) -> Rejected:
    record = SourceRecord(Position("t", 0, offset), 7_000, b"key", b"%d" % offset, (), "id")
    return Rejected(record, "decode", "bad_json", "no JSON", batch=batch)


@pytest.mark.parametrize("refuses_timestamps", [False, True])
@pytest.mark.parametrize("first", [[0], [0, 1]])
def test_a_record_that_is_read_again_while_its_dead_letter_waits_is_sent_once(
    outbox: Outbox, first: list[int], refuses_timestamps: bool
) -> None:
    receipts: list[Receipt] = []
    outbox.refuses_timestamps = refuses_timestamps
    policy = DeadLetterPolicy(backoff=Backoff(0.01, 0.01))
    channel = DeadLetterProducer(
        KafkaSettings("unused:1", ("t",), "group"), TOPIC, on_confirmed=receipts.append, policy=policy
    )
    channel.start()
    try:
        for offset in first:
            channel.send(rejected(offset, batch=1))
        eventually(lambda: outbox.attempts >= 1)
        channel.assigned()
        seen = outbox.attempts
        eventually(lambda: outbox.attempts >= seen + 2)  # the topic was read again
        for offset in (0, 1):
            channel.send(rejected(offset, batch=2))
        outbox.away = False
        eventually(lambda: sum(len(receipt.positions) for receipt in receipts) == len(first) + 2)
    finally:
        channel.close(5)
    assert {receipt.batch: len(receipt.positions) for receipt in receipts}.keys() == {1, 2}
    assert [record.value for record in outbox.broker.read(TOPIC)] == [b"0", b"1"]
