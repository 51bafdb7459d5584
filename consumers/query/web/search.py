"""The search page: one search through the service of `POST /v1/search`, with its limits, as HTML."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from consumers.http.problems import problem_of
from consumers.query.access import Caller
from consumers.query.admission import Admission
from consumers.query.routes.search import log_and_note
from consumers.query.web.cards import Card, cards
from consumers.query.web.form import (
    COMPARISONS,
    CUSTOM,
    HALF_LIVES,
    MODES,
    PAGE_SIZE,
    SPANS,
    BadCondition,
    SearchForm,
    parse_form,
)
from consumers.query.web.histogram import HEIGHT, WIDTH, bars
from consumers.query.web.parts import PageParts, sees_counts
from consumers.query.web.refreshed import Reading, Refreshed
from consumers.query.web.render import clock_time, html
from pipeline.query import InvalidRequest, NoSuchDocument, PartitionState, SearchAnswer, SearchAnswers

_MOST_PAGES = 20
"""Further results are a question for `POST /v1/search`: each page is a search for all results up to its last one."""
_FIELDS = {
    "/query": "q",
    "/mode": "mode",
    "/time": "last",
    "/time/last": "last",
    "/time/from": "from",
    "/time/to": "to",
    "/recency": "recency",
    "/filter": "value",
}
_LABELS = {
    "q": "Search for",
    "mode": "Mode",
    "last": "Time",
    "from": "From",
    "to": "To",
    "recency": "Prefer newer",
    "value": "Conditions",
}
_BY = {"hybrid": "by meaning and words", "dense": "by meaning", "keyword": "by exact words"}
_NOTHING: Reading[Sequence[PartitionState]] = Reading(None, 0, failed=False)


class SearchPage:
    """Answers the first page."""

    def __init__(
        self, parts: PageParts, partitions: Refreshed[Sequence[PartitionState]] | None, admission: Admission
    ) -> None:
        self._parts = parts
        self._partitions = partitions
        self._admission = admission
        self._size = min(PAGE_SIZE, parts.searches.max_results)
        self._most_pages = min(_MOST_PAGES, parts.searches.max_results // self._size)

    async def answer(self, request: Request, caller: Caller) -> Response:
        """The page for the address of a request."""
        parsed = parse_form(request.query_params.multi_items())
        form = parsed.form
        if parsed.rewritten:
            return Response(status_code=303, headers={"location": form.address()})
        status, view = 200, _View()
        if parsed.problem:
            status, view = 422, _View(problem={"title": "The condition is not complete", "text": parsed.problem})
            view.wrong = "value"
        elif form.q or form.similar:
            status, view = await self._search(request, form, caller)
        reading = _NOTHING
        if sees_counts(caller) and self._partitions is not None:
            reading = await self._partitions.latest()
        fresh = await self._parts.fresh(caller)
        return html("search.html", status, view.headers, **self._values(form, view, reading, caller), fresh=fresh)

    async def _search(self, request: Request, form: SearchForm, caller: Caller) -> tuple[int, "_View"]:
        """Search; the status and what there is to show."""
        page = min(form.page, self._most_pages)
        limit = min(page * self._size + 1, self._parts.searches.max_results)
        try:
            answer = await self._answer(request, form, limit, caller)
        except BadCondition as error:
            return 422, _View(problem={"title": "A condition is not right", "text": str(error)}, wrong="value")
        except Exception as error:
            return _problem(error)
        if not isinstance(answer, SearchAnswer):
            return 404, _View(problem={"title": "No such document", "text": "It has no stored version now."})
        first = (page - 1) * self._size
        # Ten long texts take half a second to mark, for which no other request waits.
        shown = await asyncio.to_thread(cards, answer, form.q, first, self._size, self._parts.marks)
        further = len(answer.results) > first + self._size and page < self._most_pages
        return 200, _View(answer=answer, cards=shown, page=page, further=further)

    async def _answer(
        self, request: Request, form: SearchForm, limit: int, caller: Caller
    ) -> SearchAnswer | SearchAnswers | None:
        """The answer to the form; None: there is no document that others could be like."""
        admit, report = partial(self._admission.admit, request), partial(log_and_note, request)
        if not form.similar:
            body = {**form.body(limit), "explain": True}  # the histogram shows which partitions were left out
            return await self._parts.searches.answer(body, tenant=caller.tenant, admit=admit, report=report)
        if self._parts.similar is None:
            return None
        try:
            return await self._parts.similar.similar(form.body(limit), admit=admit, report=report, tenant=caller.tenant)
        except NoSuchDocument:
            return None

    def _values(
        self, form: SearchForm, view: "_View", reading: Reading[Sequence[PartitionState]], caller: Caller
    ) -> dict[str, Any]:
        answer = view.answer
        explained = None if answer is None else answer.explain
        skipped = {} if explained is None else {part.name: part.reason for part in explained.partitions.skipped}
        return {
            **self._parts.frame(caller, "/"),
            "form": form,
            "linkable": form.linkable,
            "conditions": form.conditions,
            "modes": _with(MODES, form.mode),
            "spans": _with({**SPANS, CUSTOM: "from … to"}, form.last or (CUSTOM if form.times else "")),
            "span": form.last or (CUSTOM if form.times else ""),
            "half_lives": _with(HALF_LIVES, form.recency),
            "comparisons": COMPARISONS,
            "names": ["doc_id", *self._parts.names(caller.tenant)],
            "answer": answer,
            "cards": view.cards,
            "status": view.status(form),
            "page": view.page,
            "further": view.further,
            "problem": view.problem,
            "wrong": view.wrong,
            "bars": bars(reading.value or (), skipped, answer is not None),
            "drawing": (WIDTH, HEIGHT),
            "stale": clock_time(reading.read_ms) if reading.failed and reading.value else "",
            "body": _indented(form.body(self._size)) if answer and not form.similar else "",
            "documents": self._parts.documents is not None,
            "similar": self._parts.similar is not None,
            "freshness": self._parts.freshness is not None,
        }


class _View:
    """What one search gave to show."""

    def __init__(
        self,
        *,
        answer: SearchAnswer | None = None,
        cards: Sequence[Card] = (),
        page: int = 1,
        further: bool = False,
        problem: Mapping[str, str] | None = None,
        wrong: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.answer = answer
        self.cards = cards
        self.page = page
        self.further = further
        self.problem = problem
        self.wrong = wrong
        """The field of the form that the problem is about."""
        self.headers = headers
        """Of the answer, beside those of every page."""

    def status(self, form: SearchForm) -> str:
        """One sentence for the live region."""
        if self.problem is not None:
            return self.problem["title"]
        if self.answer is None:
            return ""
        count = len(self.cards)
        if not count:
            return "Nothing was found."
        which = f"{count} result{'s' if count > 1 else ''}"
        if self.page > 1:
            first = (self.page - 1) * PAGE_SIZE + 1
            which = f"Results {first} to {first + count - 1}"
        how = "like this document" if form.similar else _BY[self.answer.mode]
        return f"{which} {how}, in {self.answer.timing_ms.total:,.0f} ms"


def _problem(error: Exception) -> tuple[int, _View]:
    """Status and words for an error of the search; raises what has none."""
    problem = problem_of(error)
    if problem.status == 500:
        raise error
    text, wrong = problem.detail, ""
    if isinstance(error, InvalidRequest):
        at = error.at
        while at and at not in _FIELDS:
            at = at.rpartition("/")[0]
        wrong = _FIELDS.get(at, "")
        text = f"{_LABELS[wrong]}: {error.detail}" if wrong else str(error)
    shown = {"title": problem.title, "text": text}
    return problem.status, _View(problem=shown, wrong=wrong, headers=problem.headers)


def _indented(body: Mapping[str, Any]) -> str:
    return orjson.dumps(body, option=orjson.OPT_INDENT_2).decode()


def _with(options: Mapping[str, str], chosen: str) -> dict[str, str]:
    """The options of a list, with the chosen one where an address has another."""
    return dict(options) if chosen in options else {**options, chosen: chosen}
