"""The OpenAPI document of the query worker: schemas of what its routes read and answer themselves."""

from collections.abc import Sequence
from typing import Any, NotRequired

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, TypeAdapter
from typing_extensions import TypedDict

_COMPONENT = "#/components/schemas/"
_TEXT = {"type": "string"}
_ERRORS = {
    400: "The body is not JSON, or not the gzip that it is declared to be.",
    401: "No key or token, or a wrong one; see WWW-Authenticate.",
    403: "The key or token does not permit this, or another web site sent it.",
    413: "The body is too large.",
    415: "The body is not declared as application/json, or has an encoding other than gzip.",
    422: "The request is not valid; `at` is the JSON pointer of what is wrong.",
    429: "Too many searches at a time, or requests of the key; see Retry-After.",
    500: "Internal error.",
    503: "Milvus is away, or Milvus or the model cannot be used at the moment; see Retry-After.",
    504: "No result in the time of the request.",
}


class ProblemBody(TypedDict, total=True):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    at: NotRequired[str]


def problem_responses() -> dict[int | str, dict[str, Any]]:
    """What each status of a failed request means."""
    content = {"application/problem+json": {"schema": {"$ref": f"{_COMPONENT}ProblemBody"}}}
    return {status: {"description": reason, "content": content} for status, reason in _ERRORS.items()}


def json_body(*models: type[BaseModel]) -> dict[str, Any]:
    """The extra of a route that reads a body of one of these models itself."""
    references = [{"$ref": f"{_COMPONENT}{model.__name__}"} for model in models]
    content = {"application/json": {"schema": references[0] if len(references) == 1 else {"anyOf": references}}}
    return {"requestBody": {"required": True, "content": content}}


def parameters(model: type[BaseModel], *, path: str = "") -> dict[str, Any]:
    """The extra of a route that reads the keys of this model from its address; `path`: the one that is no parameter."""
    schema = model.model_json_schema()
    required = {path, *schema.get("required", ())}
    described = [
        {
            "name": name,
            "in": "path" if name == path else "query",
            "required": name in required,
            "schema": {key: value for key, value in about.items() if key not in ("title", "description")} or _TEXT,
            "description": about.get("description", ""),
        }
        for name, about in schema.get("properties", {}).items()
    ]
    return {"parameters": described}


def publish(app: FastAPI, models: Sequence[type[BaseModel]]) -> None:
    """Add the schemas of these models, and that of a problem, to the document that the application serves."""
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            document.update(get_openapi(title=app.title, version=app.version, routes=app.routes))
            document["components"]["schemas"].update(_schemas(models))
            document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"bearer": []}, {}]  # {}: on this machine, where no keys are configured
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema


def _schemas(models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    adapters: list[tuple[str, Any, TypeAdapter[Any]]] = [
        (model.__name__, "validation", TypeAdapter(model)) for model in models
    ]
    problem: TypeAdapter[Any] = TypeAdapter(ProblemBody)
    _, schemas = TypeAdapter.json_schemas(
        [*adapters, ("problem", "serialization", problem)], ref_template=f"{_COMPONENT}{{model}}"
    )
    definitions: dict[str, Any] = schemas["$defs"]
    return definitions
