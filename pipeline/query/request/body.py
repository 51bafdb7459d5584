"""The body of a request of any way in, checked against its model."""

from typing import TypeVar

from pydantic import ValidationError

from pipeline.query.request.filters import StrictModel
from pipeline.query.request.invalid_request import first_problem

M = TypeVar("M", bound=StrictModel)


def parse_body(model: type[M], body: object) -> M:
    """Check a decoded JSON body. Raises InvalidRequest that names the place by JSON pointer."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise first_problem(error) from None
