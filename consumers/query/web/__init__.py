"""The page of the query worker: HTML made on the server, which needs no script; htmx only saves whole page loads.

`Page` has the routes, `PageParts` names what it shows, `PageLayer` is around the application. Nothing is loaded from
elsewhere.
"""

from consumers.query.web.layer import PageLayer
from consumers.query.web.page import Page
from consumers.query.web.parts import PageParts
from consumers.query.web.ports import Documents, Freshness, FreshnessSource, Similar, WholeDocument

__all__ = [
    "Documents",
    "Freshness",
    "FreshnessSource",
    "Page",
    "PageLayer",
    "PageParts",
    "Similar",
    "WholeDocument",
]
