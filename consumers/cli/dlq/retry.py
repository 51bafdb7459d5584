"""`milvus-stream dlq retry`: dead letters back into the topics they came from."""

import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from consumers.cli.inventory import dead_letter_topic
from consumers.cli.output import one_line, progress_line, stdout, table
from consumers.config import Settings
from consumers.dead_letters.retry import DeadLetterRetry, RetryReport, Stored
from consumers.dead_letters.selection import LetterFilter, Outcome
from consumers.dead_letters.uncommitted_tail import Committed
from consumers.kafka import KafkaSettings, TopicFacts, group_lag, topic_facts
from consumers.wiring import connections, documents
from consumers.wiring.modes import mode_of
from pipeline.records import KafkaPartition
from pipeline.store import STALENESS_S, Entry, Key, Ledger, WritePolicy, ledger_name, open_ledger

_SHOWN = 20
_WORDS: Mapping[Outcome, str] = {
    Outcome.PUT_BACK: "put back",
    Outcome.RETRIED_BEFORE: "put back before",
    Outcome.SUPERSEDED: "left: a newer version of the document is there (--force puts them back all the same)",
    Outcome.WAITING: "left: the group has not committed the record yet and reads it again by itself",
    Outcome.TRUNCATED: "left: cut short, the whole record is in its topic or lost",
    Outcome.OTHER_TOPIC: "left: from a topic that is not in kafka.topics",
    Outcome.NO_ORIGIN: "left: they do not name the position of their record",
    Outcome.REFUSED: "refused by their topic",
    Outcome.GONE: "gone from the dead-letter topic since",
    Outcome.LEFT: "not reached: beyond --limit, or stopped before",
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
    """Put dead letters back; `force`: even where a newer version of the document is there.

    Raises UsageError (filter, missing topic or right), Unavailable (Kafka, and Milvus for the newer versions), Stopped
    when another run has taken over.
    """
    wanted = LetterFilter.parse(filters)
    kafka, topic = dead_letter_topic(settings)
    with _stored(settings, force=force) as stored, progress_line() as progress:
        retry = DeadLetterRetry(
            kafka,
            topic,
            decoder=documents.decoder(settings),
            committed=_committed(kafka),
            stored=stored,
            create_notes=settings.kafka.create_dead_letter_topic,
        )
        report = retry.run(wanted, limit, stop, dry_run=dry_run, progress=progress)
    _note(report, wanted)
    return report


def exit_code(report: RetryReport) -> int:
    """1 where a topic refused records, else 0."""
    return int(report.counts[Outcome.REFUSED] > 0)


def show(report: RetryReport) -> None:
    """Print the counts and the first dead letters, with a dry run all that would be done."""
    if not report.counts.total():
        return
    console = stdout()
    rows = [(_WORDS[outcome], report.counts[outcome]) for outcome in Outcome if report.counts[outcome]]
    rows += [(f"put back, to be rejected again: {why}", count) for why, count in report.rejected_again.most_common()]
    console.print(table(("nothing was changed: a dry run" if report.dry_run else "dead letters", ""), rows))
    reported = [entry for entry in report.told if report.dry_run or entry["outcome"] not in _QUIET]
    if reported:
        rows_shown = [
            (entry["position"], entry["origin"], entry["outcome"], entry["why"]) for entry in reported[:_SHOWN]
        ]
        console.print(table(("position", "rejected record", "outcome", "why"), rows_shown))
    if len(reported) > _SHOWN:
        console.print(f"and {len(reported) - _SHOWN:,} more; --json lists all")


_QUIET = (Outcome.PUT_BACK, Outcome.RETRIED_BEFORE)


def _note(report: RetryReport, wanted: LetterFilter) -> None:
    if not report.letters:
        sys.stderr.write("no dead letters\n")
    elif not report.counts.total():
        seen = ", ".join(f"{one_line(name)} ({count})" for name, count in report.seen.most_common(_SHOWN))
        sys.stderr.write(f"no dead letter passes {wanted}; there are the reasons: {seen}\n")
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
def _stored(settings: Settings, *, force: bool) -> Iterator[Stored | None]:
    """What the ledger says of documents, read strongly; None where nothing can be newer or nobody wants to know."""
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
