"""Single records read again by position, on real Apache Kafka and on the fake."""

from pipeline.records import Position
from tests.support.rigs.kafka import Member, Rig


def test_records_are_found_where_the_topic_still_holds_them(rig: Rig) -> None:
    topic = rig.topic(2)
    for number in range(5):
        rig.produce(topic, b"%d" % number, key=b"k", partition=1)
    rig.flush()
    rig.delete_records(topic, 1, before=2)
    wanted = [Position(topic, 1, offset) for offset in (1, 2, 4, 5)]
    wanted += [Position(topic, 0, 0), Position(topic, 7, 0), Position("no-such-topic", 0, 0)]
    found = rig.lookup().read(dict.fromkeys(wanted, ""))
    assert {at: record.value for at, record in found.items()} == {wanted[1]: b"2", wanted[2]: b"4"}


def test_a_topic_that_was_created_again_has_other_records(rig: Rig) -> None:
    topic = rig.topic()
    rig.produce(topic, b"first", key=b"k")
    rig.flush()
    source = rig.source(rig.settings(topic))
    [record] = Member(source).read(1)
    source.close(5)
    at = Position(topic, 0, 0)
    assert rig.lookup().read({at: record.topic_id})[at].value == b"first"
    rig.recreate(topic)
    rig.produce(topic, b"second", key=b"k")
    rig.flush()
    assert rig.lookup().read({at: record.topic_id}) == {}
    assert rig.lookup().read({at: ""})[at].value == b"second"


def test_nothing_is_read_for_nothing(rig: Rig) -> None:
    assert rig.lookup().read({}) == {}
