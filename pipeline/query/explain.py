"""How an answer was found: what a search notes while it runs, and the explanation made of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from pipeline.query.answer import (
    ExplainedIndex,
    ExplainedQuery,
    ExplainedRerank,
    ExplainedResult,
    Explanation,
    FusionUsed,
    Place,
    Result,
    Searched,
)
from pipeline.query.candidates import RankedCandidates
from pipeline.query.fusion import DENSE
from pipeline.query.method import SearchMethod
from pipeline.query.ranking import newest_versions, results_in
from pipeline.store import Hit


class Phases:
    """The time that each phase of a search took, in milliseconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self.ms: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """Note the time since the end of the phase before."""
        now = self._clock()
        self.ms[phase] = round((now - self._began) * 1000, 3)
        self._began = now


def explained(
    method: SearchMethod,
    candidates: RankedCandidates,
    *,
    checked: Sequence[Sequence[Hit]],
    reranked: bool,
    results: Sequence[Sequence[Result]],
    searched: Searched,
    phases_ms: Mapping[str, float],
) -> Explanation:
    """The explanation of `results`; `checked` are the ranked hits after their check with the ledger.

    `reranked`: whether the results are in another order than these.
    """
    trace, ranked = candidates.trace, candidates.hits
    assert trace.retrieved is not None  # noqa: S101 - a search without an answer of Milvus has raised
    request, retrieved = method.request, trace.retrieved
    orders = retrieved.legs or {method.mode: retrieved.hits}
    queries = []
    for number, text in enumerate(request.queries):
        eligible = trace.eligible[number]
        older = len(eligible) - len(newest_versions(eligible)) if method.one_version else 0
        older += left_out(ranked[number], checked[number], limit=request.limit, group_by=request.group_by)
        fusion = method.fusion(text) if method.mode == "hybrid" else None
        used = None if fusion is None else FusionUsed(fusion.k, fusion.weights)
        of_query = {name: of_queries[number] for name, of_queries in orders.items()}
        fused = None if fusion is None else retrieved.hits[number]
        before = checked[number] if reranked else None
        queries.append(ExplainedQuery(used, older, _explained(results[number], of_query, fused, before)))
    by_vectors = DENSE in orders
    return Explanation(
        mode=method.mode,
        index=ExplainedIndex(method.index.type, method.index.metric) if by_vectors else None,
        params=method.parameters.of(method.index, trace.rounds[-1].limit) if by_vectors else {},
        consistency="strong" if method.request.strong else "bounded",
        partitions=searched,
        phases_ms=phases_ms,
        rounds=trace.rounds,
        candidates=sum(done.rows for done in trace.rounds),
        queries=tuple(queries),
    )


def left_out(before: Sequence[Hit], after: Sequence[Hit], *, limit: int, group_by: Literal["doc_id"] | None) -> int:
    """How many hits of `before` are missing in `after`, without those that only the limit cut off its end."""
    remaining = {hit.id for hit in after}
    end = len(before)
    if results_in(after, group_by) >= limit:
        end = max(number for number, hit in enumerate(before) if hit.id in remaining)
    return sum(hit.id not in remaining for hit in before[:end])


def _explained(
    results: Sequence[Result],
    orders: Mapping[str, Sequence[Hit]],
    fused: Sequence[Hit] | None,
    before: Sequence[Hit] | None,
) -> tuple[ExplainedResult, ...]:
    places: dict[str, dict[str, Place]] = {}
    for name, hits in orders.items():
        for rank, hit in enumerate(hits, 1):
            places.setdefault(hit.id, {}).setdefault(name, Place(rank, hit.score))
    scores = {} if fused is None else {hit.id: hit.score for hit in fused}
    ranks = {} if before is None else {hit.id: rank for rank, hit in enumerate(before, 1)}
    return tuple(
        ExplainedResult(
            result.id,
            places.get(result.id, {}),
            scores.get(result.id),
            ExplainedRerank(ranks[result.id], after) if result.id in ranks else None,
        )
        for after, result in enumerate(results, 1)
    )
