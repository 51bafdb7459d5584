"""The cut of a planned batch into two parts that are embedded and written one after the other.

A batch is decoded, folded, compared with the ledger and chunked as a whole, and is cut behind that: so a cut costs
neither a further read of the ledger nor more work for the model, and its size in tokens is known. Each part is a
batch of its own for the later stages, with a number of its own. Pure.

What goes where:

1. An operation, and what the plan says of it, follows the place of its record in the batch.
2. An operation that was folded away goes with the one of its key, so all that is known of a key is in one part.
3. Records without an operation (rejected, or of a Kafka partition that was revoked) and the plan's counts stay in the
   first part.
4. `Decoded.records` is cut at the border itself: the limits of dead letters count records in the order of offsets.
"""

from collections.abc import Collection, Sequence
from typing import TypeVar

from pipeline.ingest.stages import Decoded, Planned, Submitted
from pipeline.records import Position, Put
from pipeline.store import WritePlan

T = TypeVar("T")

WHOLE = 1.5
"""A batch of up to this many windows is not cut: its second part would be small."""


def cut(planned: Planned, tokens: int) -> tuple[Planned, Planned] | None:
    """A first part of about this many tokens, and the rest; None for a batch that stays whole.

    The parts of a batch that is cut again and again are of nearly the same size, so that none is tiny.
    """
    border = _border(planned, tokens)
    return None if border is None else _cut_at(planned, border)


def _border(planned: Planned, tokens: int) -> int | None:
    """The place of the second part's first document among the records."""
    decoded = planned.decoded
    if decoded.restoring or decoded.postponed:
        return None  # these wait for documents that would be in another part
    total = planned.tokens
    if total <= WHOLE * tokens:
        return None
    size = total / round(total / tokens)
    places = {record.position: place for place, record in enumerate(decoded.records)}
    # A plan has keys that are in flight first, so its documents are not in the order of the records.
    puts = planned.plan.to_embed
    before = 0
    for place, tokens_of_one in sorted((places[put.position], n) for put, n in zip(puts, planned.sizes, strict=True)):
        if before >= size:
            return place
        before += tokens_of_one
    return None


def _cut_at(planned: Planned, border: int) -> tuple[Planned, Planned]:
    decoded = planned.decoded
    behind = {record.position for record in decoded.records[border:]}
    keys = {operation.key for operation in decoded.operations if operation.position in behind}
    later = {operation.position for operation in decoded.operations if operation.position in behind}
    later |= {operation.position for operation in decoded.folded if operation.key in keys}
    puts = planned.plan.to_embed

    def part(submitted: Submitted, plan: WritePlan, is_later: bool) -> Planned:
        return Planned(
            Decoded(
                submitted,
                records=decoded.records[border:] if is_later else decoded.records[:border],
                operations=[one for one in decoded.operations if (one.position in later) is is_later],
                folded=[one for one in decoded.folded if (one.position in later) is is_later],
                rejected=frozenset() if is_later else decoded.rejected,
            ),
            plan,
            [entry for entry in planned.refused if (entry.rejected.position in later) is is_later],
            chunks=_of(puts, planned.chunks, later, is_later),
            reusable=_of(puts, planned.reusable, later, is_later),
            sizes=_of(puts, planned.sizes, later, is_later),
            unfinished=planned.unfinished,
        )

    (first, second), (first_plan, second_plan) = decoded.submitted.cut(later), planned.plan.cut(later)
    return part(first, first_plan, False), part(second, second_plan, True)


def _of(puts: Sequence[Put], values: Sequence[T], later: Collection[Position], is_later: bool) -> Sequence[T]:
    """The values of the puts that are in this part."""
    return [value for put, value in zip(puts, values, strict=True) if (put.position in later) is is_later]
