"""The step of a search that reranks: which candidates, how long, and what becomes of them where it fails."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import structlog

from pipeline.errors import Unavailable
from pipeline.query.candidates import CandidateSearch, DeadlinePassed
from pipeline.query.ranking import best, rank
from pipeline.query.recency import recent_first
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.query.request.request import SearchRequest
from pipeline.query.request.rerank import DEFAULT_RERANK, MAX_CANDIDATES, RerankOptions
from pipeline.query.rerank.reranker import RERANK, Reranker, RerankFailed, RerankFailure
from pipeline.store import Hit

_NONE = (
    "needs a reranker, which this service does not have: set query.rerank.model or query.rerank.url, or leave it out"
)
_KEPT = "the results are not reranked, and are in the order of the search: "
_WARNINGS: dict[RerankFailure, str] = {
    "timeout": f"{_KEPT}the reranker took longer than it may; allow more with budget_ms, or lower top",
    "overloaded": f"{_KEPT}the reranker has too much to do at the moment",
    "failed": f"{_KEPT}the reranker failed; the log of the service says why",
}
_TOO_MANY = f"{_KEPT}at most {MAX_CANDIDATES} chunks can be, of all texts together; lower limit or group_size"

log = structlog.get_logger(__name__)

Ranked = Sequence[Sequence[Hit]]


@dataclass(frozen=True, slots=True)
class Reranked:
    """The best hits of each query in their last order."""

    hits: list[list[Hit]]
    seconds: float | None = None
    """What reranking took; None: it was not tried."""
    failure: RerankFailure | None = None
    warnings: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the order is the reranker's."""
        return self.seconds is not None and self.failure is None


@dataclass(frozen=True, slots=True)
class RerankStep:
    """The reranking of one search."""

    reranking: "Reranking"
    request: SearchRequest
    options: RerankOptions
    window: int | None
    """Results of each text that are reranked; None: more are wanted than can be."""

    @property
    def candidates(self) -> SearchRequest:
        """The request for the candidates: the same with as many results as are reranked."""
        return self.request if self.window is None else self.request.model_copy(update={"limit": self.window})

    def reranked(self, search: CandidateSearch, ranked: Ranked) -> Reranked:
        """The best of the candidates, by the reranker's order or, with a warning, as they were. Raises ForeignRow.

        Where one query of a list fails, the results of none are reranked: their scores would mean different things.
        """
        if self.window is None:
            return Reranked(self._best(ranked), warnings=(_TOO_MANY,))
        began = self.reranking.clock()
        try:
            with self.reranking.place():
                hits = self._scored(search, ranked, began)
        except RerankFailed as failed:
            log.warning("rerank.failed", reason=failed.reason, why=str(failed))
            took = self.reranking.clock() - began
            return Reranked(self._best(ranked), took, failed.reason, (_WARNINGS[failed.reason],))
        return Reranked(hits, self.reranking.clock() - began)

    def _best(self, ranked: Ranked) -> list[list[Hit]]:
        return [best(hits, group_by=self.request.group_by, limit=self.request.limit) for hits in ranked]

    def _scored(self, search: CandidateSearch, ranked: Ranked, began: float) -> list[list[Hit]]:
        # What follows needs time, too, and an answer in the order of the search is better than none.
        now = search.clock()
        budget_s = min(self.options.budget_ms / 1000, (search.deadline - now) / 2)
        deadline = began + budget_s
        candidates: list[list[Hit]] = [[] for _ in ranked]
        try:
            for query, hit in replace(search, deadline=now + budget_s).whole(ranked):
                candidates[query].append(hit)
        except DeadlinePassed as error:
            raise RerankFailed("timeout", "the candidates were not read in time") from error
        except Unavailable as error:
            raise RerankFailed("failed", f"the candidates could not be read: {error}") from error
        return [
            self._of_query(search, text, hits, deadline) if hits else []
            for text, hits in zip(self.request.queries, candidates, strict=True)
        ]

    def _of_query(self, search: CandidateSearch, text: str, hits: Sequence[Hit], deadline: float) -> list[Hit]:
        scores = self.reranking.scores(text, [hit.fields["text"] for hit in hits], deadline)
        scored = [
            replace(hit, score=score, legs={**hit.legs, RERANK: score}) for hit, score in zip(hits, scores, strict=True)
        ]
        # Stable: equal scores keep the order of the search.
        scored.sort(key=lambda hit: -hit.score)
        request = self.request
        if request.recency is not None:
            scored = recent_first(scored, request.recency.recency, search.now_ms)
        return rank(
            scored, group_by=request.group_by, one_version=False, limit=request.limit, group_size=request.group_size
        )


class Reranking:
    """The configured reranker, for a bounded number of searches at a time. Used by many threads."""

    def __init__(
        self,
        reranker: Reranker,
        *,
        default: bool = False,
        max_waiting: int = 16,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`default`: rerank also searches that do not say. `max_waiting`: searches that may wait for it at a time.

        More keep the order of the search at once, so that searches without reranking have threads left.
        """
        self._reranker = reranker
        self._places = threading.BoundedSemaphore(max_waiting)
        self.default = default
        self.clock = clock

    @contextmanager
    def place(self) -> Iterator[None]:
        """Be one of the searches that read candidates, which take memory, and wait. Raises RerankFailed if none may."""
        if not self._places.acquire(blocking=False):
            raise RerankFailed("overloaded", "as many searches as may wait for the reranker already")
        try:
            yield
        finally:
            self._places.release()

    def scores(self, query: str, texts: Sequence[str], deadline: float) -> list[float]:
        """The scores of the texts. `deadline` is on the clock. Raises RerankFailed."""
        if (left_s := deadline - self.clock()) <= 0:
            raise RerankFailed("timeout")
        return self._reranker.scores(query, texts, left_s)


def rerank_step(reranking: Reranking | None, request: SearchRequest) -> RerankStep | None:
    """How the results of a request are reranked; None: they are not. Raises InvalidRequest at /rerank.

    1. The request says so: it is reranked, or refused where there is no reranker.
    2. It says nothing: as configured, if it has a text.
    """
    options = request.rerank
    if options is None:
        options = reranking is not None and reranking.default and request.query is not None
    if options is False:
        return None
    if reranking is None:
        raise InvalidRequest("/rerank", _NONE)
    chosen = DEFAULT_RERANK if options is True else options
    # A search for similar documents has no text.
    if not any(request.queries):
        return None
    return RerankStep(reranking, request, chosen, chosen.window(request.limit, request.texts * request.group_size))
