"""The pages of Milvus partitions and of the pipeline, and the strip that shows how fresh searches are."""

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from consumers.query.access import Caller
from consumers.query.web.form import SearchForm
from consumers.query.web.histogram import HEIGHT, WIDTH, bars
from consumers.query.web.parts import PageParts, sees_counts, sees_pipeline
from consumers.query.web.ports import PipelineState
from consumers.query.web.refreshed import Reading, Refreshed
from consumers.query.web.render import clock_time, html
from pipeline.query import PartitionState

_OF_ALL = "The rows of every tenant are counted here, and the key is for one tenant."
_FOR_OPERATORS = "Offsets and rejected records of every tenant are for a key with the scope admin."


class Overviews:
    """Answers the pages that show what lies behind searches; none of them calls Kafka or Milvus itself."""

    def __init__(
        self,
        parts: PageParts,
        partitions: Refreshed[Sequence[PartitionState]] | None,
        pipeline: Refreshed[PipelineState] | None,
    ) -> None:
        self._parts = parts
        self._partitions = partitions
        self._pipeline = pipeline

    async def partitions(self, _: Request, caller: Caller) -> Response:
        """Every Milvus partition: its interval, rows, and whether searches cover it."""
        frame = self._parts.frame(caller, "/partitions")
        if not sees_counts(caller):
            return self._refused(frame, _OF_ALL)
        reading = None if self._partitions is None else await self._partitions.latest()
        states = (reading.value if reading is not None else None) or ()
        return html(
            "partitions.html",
            **frame,
            **_when(reading),
            # A bar a partition, as each has a line of its own.
            lines=[(state, bars([state], {}, False)[0]) for state in states],
            most=max((state.rows or 0 for state in states), default=0),
            rows=sum(state.rows or 0 for state in states),
            counted=all(state.rows is not None for state in states if state.loaded),
            drawing=(WIDTH, HEIGHT),
            search=SearchForm(),
        )

    async def pipeline(self, _: Request, caller: Caller) -> Response:
        """The way from Kafka to Milvus as it is seen from outside."""
        frame = self._parts.frame(caller, "/pipeline")
        if not sees_pipeline(caller):
            return self._refused(frame, _FOR_OPERATORS)
        reading = None if self._pipeline is None else await self._pipeline.latest()
        state = None if reading is None else reading.value
        lags = [partition.lag for partition in state.kafka_partitions] if state is not None else []
        return html(
            "pipeline.html",
            **frame,
            **_when(reading),
            configured=self._pipeline is not None,
            state=state,
            lag=sum(lags),
            most=max(lags, default=0),
        )

    async def freshness(self, _: Request, caller: Caller) -> Response:
        """The strip."""
        return html("freshness.html", fresh=await self._parts.fresh(caller))

    def _refused(self, frame: dict[str, Any], why: str) -> Response:
        return html("message.html", 403, **frame, title="Not with this key", detail=why)


def _when(reading: Reading[Any] | None) -> dict[str, Any]:
    """When a reading was made, and whether the newest attempt failed."""
    known = reading is not None and reading.value is not None
    return {
        "read_at": clock_time(reading.read_ms) if reading is not None and known else "",
        "failed": reading is not None and reading.failed,
    }
