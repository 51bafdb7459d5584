"""Dead letters: rejected records in a topic of their own, with the reason, and their retry.

Audits, commands and the wiring use the names below; the envelope's headers are Kafka Connect's.
"""

from consumers.dead_letters.envelope import DeadLetter, decode_dead_letter
from consumers.dead_letters.limits import DeadLetterLimiter, DeadLetterLimits
from consumers.dead_letters.origins import rejected_positions
from consumers.dead_letters.producer import DeadLetterPolicy, DeadLetterProducer
from consumers.dead_letters.retry import DeadLetterRetry, ReadEntries, RetryReport
from consumers.dead_letters.selection import DeadLetterFilter, RetryOutcome
from consumers.dead_letters.topics import ensure_dead_letter_topic
from consumers.dead_letters.uncommitted_tail import Committed

__all__ = [
    "Committed",
    "DeadLetter",
    "DeadLetterFilter",
    "DeadLetterLimiter",
    "DeadLetterLimits",
    "DeadLetterPolicy",
    "DeadLetterProducer",
    "DeadLetterRetry",
    "ReadEntries",
    "RetryOutcome",
    "RetryReport",
    "decode_dead_letter",
    "ensure_dead_letter_topic",
    "rejected_positions",
]
