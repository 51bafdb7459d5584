"""A route that its request names, as FastAPI's do."""

from starlette.routing import Match, Route
from starlette.types import Scope
from typing_extensions import override


class NamedRoute(Route):
    """A route that the audit log can name."""

    @override
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        return match, {**child_scope, "route": self}
