"""Stage 2 of the ingest flow: embed the chunks of several batches, or of a part of one, at a time."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline import failpoints
from pipeline.embedding import Embedder
from pipeline.ingest.context import FlowContext
from pipeline.ingest.cutting import WHOLE, cut
from pipeline.ingest.queues.ordered_executor import OrderedExecutor
from pipeline.ingest.stages import Barrier, Embedded, Planned
from pipeline.ingest.window_size import WindowSize
from pipeline.records import Chunk, EmbeddedPut

WINDOW_TOKENS = 65_536
"""Default of the tokens up to which batches are collected: many forward passes on a CPU, where passes are small."""
_WINDOWS_AT_ONCE = 2
"""The second window's passes use the cores that the first one's last passes leave idle, and keep a GPU's queue full."""


class EmbedStage:
    """Embeds windows of planned batches, two at a time, and passes the batches on in the order of submission.

    A window is about half a second of the model (`WindowSize`), so that the first rows of a backlog are written while
    the rest of it waits for the model:

    1. A batch of more than that is cut: its first part is the window, the rest begins the next one.
    2. Smaller batches that wait are embedded together, up to `window_tokens`: texts sorted by length over several
       batches need less padding.
    """

    def __init__(self, context: FlowContext, embedder: Embedder, window_tokens: int) -> None:
        self._context = context
        self._embedder = embedder
        self._window_tokens = window_tokens
        self._size = WindowSize()

    def run(self) -> None:
        """Embed batches until the queue before this stage is closed."""
        queues = self._context.queues
        with OrderedExecutor(_WINDOWS_AT_ONCE, "ingest-embed", self._context.guard) as executor:
            while (entry := queues.to_embed.get()) is not None:
                if isinstance(entry, Barrier):
                    executor.drain()
                    queues.to_write.put(entry)
                else:
                    executor.wait_for_slot()  # before the window is filled: batches arrive until it can begin
                    executor.submit(partial(self._embed_window, self._window(entry)), self._pass_on)
                    del entry  # the window releases it, see _embed_window
        queues.to_write.close()

    def _window(self, first: Planned) -> list[Planned]:
        """Collect the batch, or a part of it, and those that wait behind it, up to the next barrier."""
        queues = self._context.queues
        size = self._size.next(writer_behind=queues.to_write.full)
        if (parts := cut(first, size)) is not None:
            return [self._put_back_rest(first, *parts)]
        window = [first]
        tokens = first.tokens
        while tokens < min(size, self._window_tokens):
            planned = queues.to_embed.get_ready(Planned)
            if planned is None:
                break
            tokens += planned.tokens
            if tokens > WHOLE * size:
                queues.to_embed.put_back(planned)
            else:
                window.append(planned)
        return window

    def _put_back_rest(self, whole: Planned, first: Planned, rest: Planned) -> Planned:
        """Let the rest of a batch begin the next window; returns the first part."""
        submitted = [part.decoded.submitted for part in (first, rest)]
        by_number = {part.number: part.batch.records for part in submitted}
        self._context.fence.batches.cut(whole.decoded.submitted.number, by_number)
        self._context.queues.to_embed.put_back(rest)
        return first

    def _pass_on(self, window: Sequence[Embedded]) -> None:
        for embedded in window:
            self._context.queues.to_write.put(embedded)

    def _embed_window(self, window: list[Planned]) -> Sequence[Embedded]:
        vectors, seconds = self._embed_chunks(window)
        embedded = [self._join(planned, vectors, seconds) for planned in window]
        window.clear()  # stored vectors are not held while this window waits for its turn and for the write stage
        return embedded

    def _join(self, planned: Planned, vectors: Mapping[str, NDArray[np.float32]], seconds: float) -> Embedded:
        """Give every document its vectors; a document with a chunk that has no finite vector is refused."""
        puts, refusals = [], []
        for put, document, stored in zip(planned.plan.to_embed, planned.chunks, planned.reusable, strict=True):
            rows = [v for chunk in document if (v := stored.get(chunk.text, vectors.get(chunk.text))) is not None]
            if len(rows) == len(document):
                puts.append(EmbeddedPut(put, document, rows[0][None] if len(rows) == 1 else np.stack(rows)))
            else:
                message = f"the model gave NaN or infinity for {len(document) - len(rows)} of its chunks"
                refusals.append((put, "vector_not_finite", message))
        refused = self._context.rejections.refuse(planned.decoded.submitted, refusals, "embed", planned.unfinished)
        plan = planned.plan
        if deletes := [plan.fallback[entry.key] for entry in refused if entry.key in plan.fallback]:
            plan = replace(plan, deletes=[*plan.deletes, *deletes])
        return Embedded(planned.decoded, plan, [*planned.refused, *refused], puts, seconds)

    def _embed_chunks(self, window: Sequence[Planned]) -> tuple[Mapping[str, NDArray[np.float32]], float]:
        """Finite vectors by text, and the seconds taken. Each text is embedded once, a stored one not at all."""
        chunks: dict[str, Chunk] = {}
        total = 0
        for planned in window:
            for document, stored in zip(planned.chunks, planned.reusable, strict=True):
                total += len(document)
                chunks.update((chunk.text, chunk) for chunk in document if chunk.text not in stored)
        metrics = self._context.metrics
        metrics.embedding_reused.inc(total - len(chunks))
        if not chunks:
            return {}, 0.0
        started = time.monotonic()
        vectors = self._embedder.embed(list(chunks.values()))
        failpoints.hit("embedded")
        ended = time.monotonic()
        seconds, tokens = ended - started, sum(len(chunk.token_ids) for chunk in chunks.values())
        self._size.embedded(tokens, started, ended)
        metrics.embedding_seconds.observe(seconds)
        metrics.embedding_chunks.inc(len(chunks))
        metrics.embedding_tokens.inc(tokens)
        finite: NDArray[np.bool_] = np.all(np.isfinite(vectors), axis=1)
        return {text: vector for text, vector, ok in zip(chunks, vectors, finite, strict=True) if ok}, seconds
