"""What the planning thread reads while the writing thread writes."""

import pytest

from pipeline.store.writing.ledger.ledger import Ledger
from pipeline.store.writing.protocol.decisions import final, intent
from pipeline.store.writing.requests.upsert_requests import WritePolicy
from tests.support.documents import put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.stores import Store

KEY = (None, "d")
NEW = put("d", "one", 1)
BEGUN = intent(None, NEW, {"d20261122": 1})


@pytest.fixture
def ledger(store: Store) -> Ledger:
    """Of a live worker, with a document in flight that it has never stored."""
    ledger = Ledger(store.api, store.name, WritePolicy(), owned=lambda: [NEW.position[:2]])
    ledger.cache(ledger.read([KEY]))
    return ledger


@pytest.mark.parametrize("outage", [False, True])
def test_what_is_written_while_the_next_batch_is_planned_is_what_that_batch_finds(
    ledger: Ledger, fake: FakeMilvus, outage: bool
) -> None:
    read = ledger.read([KEY])  # the next batch is planned
    assert BEGUN is not None
    ledger.write([BEGUN])
    ledger.write([final(NEW, None, {}, "model", BEGUN)])
    ledger.release([KEY])
    if outage:
        ledger.invalidate()
    ledger.cache(read)  # its plan is made
    calls = len(fake.calls)
    ledger.refresh([KEY])
    assert (len(fake.calls) > calls) is outage, "what this worker has written itself is not read again"
    entry = ledger.entry(KEY)
    assert entry is not None
    assert (entry.position, entry.pending) == (NEW.position, False)
    assert ledger.before(KEY) == (entry, True)


def test_an_entry_read_before_an_outage_is_doubtful_after_it(ledger: Ledger) -> None:
    other = (None, "other")
    read = ledger.read([other])
    ledger.invalidate()  # the writing thread has met an outage
    ledger.cache(read)
    assert ledger.doubtful(other)
