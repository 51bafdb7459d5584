"""`milvus-stream dlq retry`: records of dead letters go back to the topics they came from."""

import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from consumers.cli.common.inventory import dead_letter_topic
from consumers.cli.common.output import one_line, progress_line, stdout, table
from consumers.config import Settings
from consumers.dead_letters import (
    Committed,
    DeadLetterFilter,
    DeadLetterRetry,
    ReadEntries,
    RetryOutcome,
    RetryReport,
)
from consumers.kafka import KafkaSettings, TopicFacts, group_lag, topic_facts
from consumers.wiring import connections, documents
from consumers.wiring.modes import mode_of
from pipeline.records import KafkaPartition
from pipeline.store import STALENESS_S, Entry, Key, Ledger, WritePolicy, ledger_name, open_ledger

_SHOWN = 20
_WORDS: Mapping[RetryOutcome, str] = {
    RetryOutcome.RETRIED: "retried",
    RetryOutcome.RETRIED_BEFORE: "retried before",
    RetryOutcome.SUPERSEDED: "left: a newer version of the document is there (--force retries them nevertheless)",
    RetryOutcome.WAITING: "left: the group has not committed the record yet and reads it again",
    RetryOutcome.TRUNCATED: "left: cut short, the whole record is in its topic or lost",
    RetryOutcome.OTHER_TOPIC: "left: from a topic that is not in kafka.topics",
    RetryOutcome.NO_ORIGIN: "left: they do not name the position of the record",
    RetryOutcome.REFUSED: "refused by their topic",
    RetryOutcome.GONE: "gone from the dead-letter topic",
    RetryOutcome.LEFT: "not retried: beyond --limit, or stopped before",
}


def run(
    settings: Settings,
    filters: Sequence[str],
    limit: int | None,
    stop: threading.Event,
    *,
    dry_run: bool,
    force: bool,
) -> RetryReport:
    """Retry dead letters; `force`: even if a newer version of the document is there.

    Raises UsageError (filter, missing topic or right), Unavailable (Kafka, and Milvus for the newer versions), Stopped
    when another run has taken over.
    """
    dead_letter_filter = DeadLetterFilter.parse(filters)
    kafka, topic = dead_letter_topic(settings)
    with _entries(settings, force=force) as read_entries, progress_line() as progress:
        retry = DeadLetterRetry(
            kafka,
            topic,
            decoder=documents.decoder(settings),
            committed=_committed(kafka),
            read_entries=read_entries,
            create_retry_log=settings.kafka.create_dead_letter_topic,
        )
        report = retry.run(dead_letter_filter, limit, stop, dry_run=dry_run, progress=progress)
    _note(report, dead_letter_filter)
    return report


def exit_code(report: RetryReport) -> int:
    """1 where a topic refused records, else 0."""
    return int(report.counts[RetryOutcome.REFUSED] > 0)


def show(report: RetryReport) -> None:
    """Print the counts and the first dead letters that were not retried; with a dry run the first of all."""
    if not report.counts.total():
        return
    console = stdout()
    rows = [(_WORDS[outcome], report.counts[outcome]) for outcome in RetryOutcome if report.counts[outcome]]
    rows += [(f"retried, to be rejected again: {why}", count) for why, count in report.rejected_again.most_common()]
    console.print(table(("nothing was changed: a dry run" if report.dry_run else "dead letters", ""), rows))
    listed = [entry for entry in report.outcomes if report.dry_run or entry["outcome"] not in _QUIET]
    if listed:
        shown = [(entry["position"], entry["origin"], entry["outcome"], entry["why"]) for entry in listed[:_SHOWN]]
        console.print(table(("position", "rejected record", "outcome", "why"), shown))
    if len(listed) > _SHOWN:
        console.print(f"and {len(listed) - _SHOWN:,} more; --json lists all")


_QUIET = (RetryOutcome.RETRIED, RetryOutcome.RETRIED_BEFORE)


def _note(report: RetryReport, dead_letter_filter: DeadLetterFilter) -> None:
    if not report.dead_letters:
        sys.stderr.write("no dead letters\n")
    elif not report.counts.total():
        seen = ", ".join(f"{one_line(name)} ({count})" for name, count in report.reasons.most_common(_SHOWN))
        sys.stderr.write(f"no dead letter passes {dead_letter_filter}; there are the reasons: {seen}\n")
    if report.rejected_again:
        sys.stderr.write(
            "some of these records are rejected again by the present configuration; correct it, or the records, first\n"
        )


def _committed(kafka: KafkaSettings) -> dict[KafkaPartition, Committed]:
    facts = topic_facts(kafka, kafka.topics)
    ids = {name: details.topic_id for name, details in facts.items() if isinstance(details, TopicFacts)}
    return {
        (lag.topic, lag.partition): Committed(lag.committed, lag.start, ids.get(lag.topic, ""))
        for lag in group_lag(kafka)
    }


@contextmanager
def _entries(settings: Settings, *, force: bool) -> Iterator[ReadEntries | None]:
    """A strongly consistent read of ledger entries; None in append mode and with `force`."""
    if force or not mode_of(settings).one_version:
        yield None
        return
    name = settings.milvus.collection
    with connections.milvus(settings) as api:
        has_ledger = api.describe(ledger_name(name)) is not None
        if has_ledger:
            open_ledger(api, name)

        def read_entries(keys: Collection[Key]) -> Mapping[Key, Entry]:
            if not has_ledger:
                return {}
            entries = Ledger(api, name, WritePolicy(), staleness_s=STALENESS_S).read(keys)
            return {key: entry for key, (entry, _) in entries.items() if entry is not None}

        yield read_entries
