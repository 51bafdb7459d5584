"""Kafka transactions: the errors that end a producer, and a commit with a time limit."""

import threading
from collections.abc import Callable

from kafka import KafkaProducer
from kafka.errors import InvalidProducerEpochError, ProducerFencedError

from pipeline.errors import Unavailable

TRANSACTION_S = 30
"""The broker aborts a longer transaction. After a crash, readers of the topics wait for that or for the next run."""
FENCED = (InvalidProducerEpochError, ProducerFencedError)
_COMMIT_S = 60.0


def commit_in_time(producer: KafkaProducer, remedy: str) -> None:
    """Commit the transaction with a time limit, which kafka-python does not have. Raises Unavailable, KafkaError.

    `remedy`: a sentence on how to go on when it is unknown whether the transaction was committed.
    """
    outcome: list[BaseException | None] = []
    commit: Callable[[], None] = producer.commit_transaction

    def run() -> None:
        try:
            commit()
        except BaseException as error:
            outcome.append(error)
        else:
            outcome.append(None)

    thread = threading.Thread(target=run, name="commit-transaction", daemon=True)
    thread.start()
    thread.join(_COMMIT_S)
    if not outcome:
        raise Unavailable(f"Kafka has not answered the commit of a transaction for {_COMMIT_S:.0f} s. {remedy}")
    if outcome[0] is not None:
        raise outcome[0]
