"""The parameters of a search by vectors: those of the request, of the configuration, and of the type of index. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.query.request.invalid_request import InvalidRequest, pointer
from pipeline.store import BadParameter, IndexInfo, search_params


@dataclass(frozen=True, slots=True)
class SearchParameters:
    """Parameters by name, such as `ef`; what is not given is the default of the type of index."""

    given: Mapping[str, Any] = field(default_factory=dict)
    """By the request."""
    configured: Mapping[str, Any] = field(default_factory=dict)

    def of(self, index: IndexInfo, limit: int) -> dict[str, Any]:
        """What is sent with a search for `limit` rows. Raises InvalidRequest for what the index does not take."""
        try:
            return search_params(index, limit, self.given, defaults=self.configured)
        except BadParameter as error:
            raise InvalidRequest(pointer("/params", error.name), error.detail) from None


DEFAULT_PARAMETERS = SearchParameters()
