"""A reranker that a test drives: what it scores, and how it fails."""

from collections.abc import Callable, Sequence

from pipeline.query import Reranker, RerankFailed


def backwards(texts: Sequence[str]) -> list[float]:
    """The last text is the best."""
    return [(number + 1) / (len(texts) + 1) for number in range(len(texts))]


class ScriptedReranker(Reranker):
    """Scores by a function of the texts; notes every call, and fails with `failure`."""

    def __init__(self, score: Callable[[Sequence[str]], list[float]] = backwards) -> None:
        self.score = score
        self.failure: RerankFailed | None = None
        self.calls: list[tuple[str, list[str], float]] = []
        self.closed = False

    def scores(self, query: str, texts: Sequence[str], timeout_s: float) -> list[float]:
        self.calls.append((query, list(texts), timeout_s))
        if self.failure is not None:
            raise self.failure
        return self.score(texts)

    def close(self) -> None:
        self.closed = True
