"""`POST /v1/embeddings` in OpenAI's shape: the model of the collection for programs that search Milvus themselves."""

import base64
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import numpy as np
import orjson
import structlog
from fastapi import FastAPI, Request
from numpy.typing import NDArray
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError
from starlette.responses import Response
from typing_extensions import TypedDict

from consumers.http.problems import problem_of
from consumers.query.access import note
from consumers.query.admission import Admission
from consumers.query.body import LargeBodies, read_body
from consumers.query.openai import error_response, error_responses
from consumers.query.openapi import json_body
from pipeline.query import (
    MAX_INPUTS,
    EmbeddingService,
    InputType,
    InvalidRequest,
    StrictModel,
    decode_json,
    parse_body,
)

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_INPUT_CHARS = 65_536
LARGE_BODIES_BYTES = 8 * MAX_BODY_BYTES
"""The memory for bodies that are being read. A place is taken only when one is there: slow senders take none."""

_DESCRIPTION = """Embed texts with the model of the collection, in the shape of OpenAI's API.

`input_type` is an addition: `query` (the default) embeds as a search does, `document` as the ingest worker does. For
many models the two differ. `model` is empty or the model served; `dimensions` is absent or the model's. Token arrays
are refused. A text with more tokens than the model reads is refused, too. Errors have OpenAI's shape."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_log = structlog.get_logger(__name__)


def _check_input(value: object) -> object:
    """A text or a list of texts, checked before pydantic would report each branch of the union."""
    if isinstance(value, str):
        return _check_text(value, "")
    if not isinstance(value, list):
        raise PydanticCustomError("input", "must be a text, or a list of texts")
    if not value:
        raise PydanticCustomError("input", "must be a list of at least one text")
    if len(value) > MAX_INPUTS and isinstance(value[0], str):  # a million texts would take half a second to check
        problem = "holds {texts} texts; at most {most} are allowed"
        raise PydanticCustomError("many_inputs", problem, {"texts": f"{len(value):,}", "most": f"{MAX_INPUTS:,}"})
    for index, text in enumerate(value):
        if isinstance(text, int | list):
            raise PydanticCustomError(
                "token_array",
                "holds tokens; send texts: tokens are numbers of another model's vocabulary "
                "(LangChain's OpenAIEmbeddings sends texts with check_embedding_ctx_length=False)",
            )
        _check_text(text, f"/{index}")
    return value


def _check_text(text: object, at: str) -> object:
    if not isinstance(text, str):
        raise PydanticCustomError("input", "must be a text", {"at": at})
    if not text.isascii() and _SURROGATE.search(text):
        raise PydanticCustomError("input", "contains half a surrogate pair, which is not text", {"at": at})
    if not text.strip():
        raise PydanticCustomError("input", "is blank", {"at": at})
    if len(text) > MAX_INPUT_CHARS:
        problem = "has {chars} characters; at most {most} are allowed"
        context = {"chars": f"{len(text):,}", "most": f"{MAX_INPUT_CHARS:,}", "at": at}
        raise PydanticCustomError("long_input", problem, context)
    return text


class EmbeddingsRequest(StrictModel):
    """Texts to embed."""

    input: Annotated[str | list[str], BeforeValidator(_check_input)]
    """A text, or a list of texts."""
    model: str = ""
    """Empty, or the name of the model served."""
    encoding_format: Literal["float", "base64"] = "float"
    """Numbers, or the base64 of their little-endian 32-bit floats."""
    dimensions: int | None = None
    """Null, or the dimension of the model: vectors are not cut."""
    user: str | None = None
    """Not used."""
    input_type: InputType = "query"
    """`query`: as a search embeds its text; `document`: as the ingest worker embeds a chunk."""


class Embedding(TypedDict):
    """The vector of one text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(TypedDict):
    """Tokens read, without special tokens and prompts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(TypedDict):
    """The vectors, in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


def add_embeddings(app: FastAPI, service: EmbeddingService, admission: Admission) -> None:
    """`POST /v1/embeddings`."""
    large = LargeBodies(LARGE_BODIES_BYTES)

    @app.post(
        "/v1/embeddings",
        summary="Embed texts",
        description=_DESCRIPTION,
        responses={200: {"model": EmbeddingsAnswer}, **error_responses()},
        openapi_extra=json_body(EmbeddingsRequest),
    )
    async def embeddings(request: Request) -> Response:
        try:
            body = parse_body(EmbeddingsRequest, decode_json(await read_body(request, MAX_BODY_BYTES, large)))
            answer = await _answer(service, body, partial(admission.admit, request))
        except Exception as error:
            _log_failure(error)
            return error_response(error)
        note(request, results=1 if isinstance(body.input, str) else len(body.input))
        return Response(answer, media_type="application/json")


async def _answer(service: EmbeddingService, body: EmbeddingsRequest, admit: Callable[[], None]) -> bytes:
    """Embed the texts of a request. Raises InvalidRequest, Overloaded, DeadlinePassed, and what the model raises."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    _check_request(service, body, len(texts))
    admit()
    began = time.monotonic()
    embedded = await service.embed(texts, body.input_type)
    encode = _base64 if body.encoding_format == "base64" else _plain
    _log.info(
        "embeddings.answered",
        texts=len(texts),
        input_type=body.input_type,
        tokens=embedded.tokens,
        total_ms=round((time.monotonic() - began) * 1000, 3),
    )
    data = [
        {"object": "embedding", "index": index, "embedding": encode(row)} for index, row in enumerate(embedded.vectors)
    ]
    usage = Usage(prompt_tokens=embedded.tokens, total_tokens=embedded.tokens)
    answer = {"object": "list", "data": data, "model": service.model_name, "usage": usage}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _log_failure(error: Exception) -> None:
    problem = problem_of(error)
    log = _log.exception if problem.status == 500 else _log.warning
    reason = problem.reason or problem.detail
    log("embeddings.failed", **(problem.more or {}), status=problem.status, problem=problem.code, reason=reason)


def _check_request(service: EmbeddingService, body: EmbeddingsRequest, texts: int) -> None:
    """Raise InvalidRequest for another model or dimension, or for too many texts."""
    if body.model not in ("", service.model_name):
        raise InvalidRequest("/model", f"is not served; leave it empty, or write {service.model_name}")
    if body.dimensions not in (None, service.dimension):
        raise InvalidRequest("/dimensions", f"must be {service.dimension:,}, or left out: vectors are not cut")
    if texts > service.max_inputs:
        raise InvalidRequest("/input", f"holds {texts:,} texts; at most {service.max_inputs:,} are allowed")


def _plain(row: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(row)


def _base64(row: NDArray[np.float32]) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()
