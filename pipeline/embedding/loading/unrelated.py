"""How similar a model finds texts that have nothing to do with each other; measured once, and remembered.

Every model has its own scale: unrelated texts have a cosine of 0.1 with one and of 0.7 with another.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from pipeline.embedding.embedder import Embedder, EmbeddingSettings, whole_texts
from pipeline.embedding.loading.tuning_cache import write_whole

RARE_PERCENTILE = 99.5
"""A similarity that one in two hundred unrelated pairs exceeds.

Some topics do have to do with each other. So with MiniLM it is 0.43, and of 100 queries of random characters one has a
text above it among 4,000, while 0.5 to 0.7 is usual for a text that answers a query.
"""
_TEXTS = 200
_AT_A_TIME = 4
_MIN_CHARS = 40
_VERSION = 1
"""Number of this measurement; what another one has written is measured again."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UnrelatedSimilarity:
    """The cosines of queries and texts that are unrelated, by one model."""

    usual: float
    """Their median."""
    rare: float
    """Their percentile `RARE_PERCENTILE`, above `usual`."""


def unrelated_similarity(model: Embedder, settings: EmbeddingSettings) -> UnrelatedSimilarity | None:
    """The similarities of an earlier start with this model, or those measured now, which takes seconds.

    None for the model `hash:N`, which finds nothing by meaning, and for one that finds all texts alike.
    """
    if model.engine == "none":
        return None
    path = _path(settings, model)
    if (known := _read(path)) is None:
        log.info("model.measuring_similarity", what="once for this model")
        known = measured(model)
        if known is not None:
            _write(path, known)
    return known


def measured(model: Embedder) -> UnrelatedSimilarity | None:
    """Measure: names of the topics of Python's documentation as queries, with texts of other topics."""
    queries, texts = _queries_and_texts()
    by_query = model.embed_queries([query for _, query in queries])
    chunks = whole_texts(model, [text for _, text in texts])
    # By the runner of the queries and a few at a time, because a start of a query worker waits, and its memory grows.
    by_text = np.concatenate(
        [model.embed_few(chunks[at : at + _AT_A_TIME]) for at in range(0, len(chunks), _AT_A_TIME)]
    )
    other = np.array([[topic != of_text for of_text, _ in texts] for topic, _ in queries])
    return summarized((_unit(by_query) @ _unit(by_text).T)[other])


def summarized(cosines: NDArray[np.float32]) -> UnrelatedSimilarity | None:
    """What is kept of the cosines; None where they say nothing."""
    finite = cosines[np.isfinite(cosines)].astype(np.float64)
    if len(finite) == 0:
        return None
    usual, rare = (float(value) for value in np.percentile(finite, [50, RARE_PERCENTILE]))
    return UnrelatedSimilarity(usual, rare) if rare - usual > 1e-4 else None


def _queries_and_texts() -> tuple[Sequence[tuple[str, str]], Sequence[tuple[str, str]]]:
    """(topic, its name as words), and (topic, a paragraph), evenly from all."""
    from pydoc_data.topics import topics  # noqa: PLC0415 - a megabyte of text

    queries = [(topic, topic.replace("-", " ")) for topic in sorted(topics)]
    paragraphs = [(topic, part.strip()) for topic in sorted(topics) for part in topics[topic].split("\n\n")]
    long = [(topic, part) for topic, part in paragraphs if len(part) > _MIN_CHARS]
    return queries, long[:: max(1, len(long) // _TEXTS)][:_TEXTS]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _path(settings: EmbeddingSettings, model: Embedder) -> Path:
    # Not by precision: bf16 moves a cosine by less than 0.01, and an image is prepared on another machine. int8 has a
    # fingerprint of its own.
    digest = hashlib.sha256(f"{_VERSION} {RARE_PERCENTILE} {model.stamp.fingerprint}".encode()).hexdigest()
    return settings.cache_folder / "similarity" / f"{digest[:32]}.json"


def _read(path: Path) -> UnrelatedSimilarity | None:
    """What was written there; None where there is nothing, or not what `_write` writes."""
    try:
        content = json.loads(path.expanduser().read_bytes())
        known = UnrelatedSimilarity(**content)
        usable = all(type(value) is float for value in content.values()) and -1 <= known.usual < known.rare <= 1
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, ValueError, TypeError, AttributeError) as error:  # RuntimeError: no home folder
        log.warning("similarity.unreadable", path=str(path), error=str(error), what="measuring again")
        return None
    if not usable:
        log.warning("similarity.foreign", path=str(path), what="measuring again")
    return known if usable else None


def _write(path: Path, known: UnrelatedSimilarity) -> None:
    """A folder that cannot be written to is only logged."""
    try:
        write_whole(path.expanduser(), json.dumps(asdict(known)))
    except (OSError, RuntimeError) as error:
        log.info("similarity.not_remembered", path=str(path), error=str(error))
