"""How an answer was found: what a search notes while it runs, and the explanation made of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.query.answer import (
    ExplainedIndex,
    ExplainedQuery,
    ExplainedResult,
    Explanation,
    FetchRound,
    FusionUsed,
    Mode,
    Place,
    Result,
    Searched,
)
from pipeline.query.fusion import DENSE, Fusion
from pipeline.query.ranking import newest_versions, results_in
from pipeline.query.request.request import SearchRequest
from pipeline.query.retrievers import Retrieved
from pipeline.query.search_parameters import SearchParameters
from pipeline.store import Hit, IndexInfo


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


@dataclass(frozen=True, slots=True)
class FetchTrace:
    """The reads of candidates, and what the last one found."""

    rounds: tuple[FetchRound, ...] = ()
    retrieved: Retrieved | None = None
    eligible: Sequence[Sequence[Hit]] = ()
    """Of each query, the hits that were ranked."""

    def after(self, limit: int, retrieved: Retrieved, eligible: Sequence[Sequence[Hit]]) -> "FetchTrace":
        """The trace with one more read, for `limit` rows of each query."""
        orders = retrieved.legs.values() or [retrieved.hits]
        rows = sum(len(hits) for of_queries in orders for hits in of_queries)
        return FetchTrace((*self.rounds, FetchRound(limit, rows)), retrieved, eligible)


@dataclass(frozen=True, slots=True)
class Explainer:
    """What a search was made of; explains its results."""

    request: SearchRequest
    mode: Mode
    index: IndexInfo
    """Of the vectors."""
    parameters: SearchParameters
    fusion: Callable[[str], Fusion]
    """Of a text, in a hybrid search."""
    one_version: bool

    def explanation(
        self,
        trace: FetchTrace,
        *,
        checked: Sequence[Sequence[Hit]],
        ranked: Sequence[Sequence[Hit]],
        results: Sequence[Sequence[Result]],
        searched: Searched,
        phases: Phases,
    ) -> Explanation:
        """The explanation of `results`; `ranked` are the hits before the check with the ledger, `checked` after it."""
        assert trace.retrieved is not None  # noqa: S101 - a search without an answer of Milvus has raised
        orders = trace.retrieved.legs or {self.mode: trace.retrieved.hits}
        queries = []
        for number, text in enumerate(self.request.queries):
            older = self._older(trace.eligible[number]) + left_out(
                ranked[number], checked[number], limit=self.request.limit, group_by=self.request.group_by
            )
            fusion = self.fusion(text) if self.mode == "hybrid" else None
            used = None if fusion is None else FusionUsed(fusion.k, fusion.weights)
            of_query = {name: of_queries[number] for name, of_queries in orders.items()}
            fused = None if fusion is None else trace.retrieved.hits[number]
            queries.append(ExplainedQuery(used, older, _explained(results[number], of_query, fused)))
        by_vectors = DENSE in orders
        return Explanation(
            mode=self.mode,
            index=ExplainedIndex(self.index.type, self.index.metric) if by_vectors else None,
            params=self.parameters.of(self.index, trace.rounds[-1].limit) if by_vectors else {},
            consistency="bounded",
            partitions=searched,
            phases_ms=phases.ms,
            rounds=trace.rounds,
            candidates=sum(done.rows for done in trace.rounds),
            queries=tuple(queries),
        )

    def _older(self, hits: Sequence[Hit]) -> int:
        return len(hits) - len(newest_versions(hits)) if self.one_version else 0


def left_out(before: Sequence[Hit], after: Sequence[Hit], *, limit: int, group_by: str | None) -> int:
    """How many hits of `before` are missing in `after`, without those that only the limit cut off its end."""
    remaining = {hit.id for hit in after}
    end = len(before)
    if results_in(after, group_by) >= limit:
        end = max(number for number, hit in enumerate(before) if hit.id in remaining)
    return sum(hit.id not in remaining for hit in before[:end])


def _explained(
    results: Sequence[Result], orders: Mapping[str, Sequence[Hit]], fused: Sequence[Hit] | None
) -> tuple[ExplainedResult, ...]:
    places: dict[str, dict[str, Place]] = {}
    for name, hits in orders.items():
        for rank, hit in enumerate(hits, 1):
            places.setdefault(hit.id, {}).setdefault(name, Place(rank, hit.score))
    scores = {} if fused is None else {hit.id: hit.score for hit in fused}
    return tuple(ExplainedResult(result.id, places.get(result.id, {}), scores.get(result.id)) for result in results)
