"""The positions of the rejected records in a dead-letter topic."""

from collections.abc import Iterator

from consumers.dead_letters.envelope import decode_dead_letter
from consumers.dead_letters.selection import origin_of
from consumers.kafka import KafkaSettings, TopicFacts, read_range, topic_facts, topic_ranges
from pipeline.records import Position


def rejected_positions(settings: KafkaSettings, dead_letter_topic: str) -> Iterator[Position]:
    """Read the position of every rejected record; none if the topic does not exist. Raises Unavailable, UsageError."""
    if not isinstance(topic_facts(settings, (dead_letter_topic,))[dead_letter_topic], TopicFacts):
        return
    for record in read_range(settings, topic_ranges(settings, (dead_letter_topic,))):
        position = origin_of(decode_dead_letter(record))
        if position is not None:
            yield position
