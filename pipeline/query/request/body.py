"""The body of a request of any way in: decoded, and checked against its model."""

import json
from typing import NoReturn, TypeVar

from pydantic import ValidationError

from pipeline.query.request.filters import StrictModel
from pipeline.query.request.invalid_request import MalformedRequest, first_problem

M = TypeVar("M", bound=StrictModel)


def parse_body(model: type[M], body: object) -> M:
    """Check a decoded JSON body. Raises InvalidRequest that names the place by JSON pointer."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise first_problem(error) from None


def decode_json(body: bytes) -> object:
    """JSON as RFC 8259 has it: UTF-8, no NaN, no key twice in one object. Raises MalformedRequest."""

    def refuse(_: str) -> NoReturn:
        raise ValueError("NaN and Infinity are not JSON")

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(members := dict(pairs)) != len(pairs):
            raise ValueError("a key is given twice in one object")
        return members

    try:
        decoded: object = json.loads(body.decode(), parse_constant=refuse, object_pairs_hook=once)
    except UnicodeDecodeError:
        raise MalformedRequest("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise MalformedRequest(f"the syntax is wrong at character {error.pos}") from None
    except RecursionError:
        raise MalformedRequest("it is nested too deep") from None
    except ValueError as error:
        raise MalformedRequest(str(error)) from None
    return decoded
