"""The restriction of a search to the documents of one tenant.

Every expression that a search sends to Milvus goes through `within_tenant`, and every row that comes back through
`check_tenant`. Neither reads anything of the request, so no request can widen the restriction.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import MilvusStreamError, UsageError
from pipeline.query.request.filter_expressions import FilterableFields, compile_filter
from pipeline.query.request.filters import Equality
from pipeline.query.request.metadata_fields import MetadataNames
from pipeline.records import TENANT_FIELD

_MOST_TENANTS = 128
_MOST_NAMES = 1_000
"""Names of one tenant, of each of the two kinds; so those of all tenants take some 100 MB at the very most."""


class ForeignRow(MilvusStreamError):
    """Milvus returned a row of another tenant although the expression excludes it. Nothing of the answer is shown."""


def tenant_term(tenant: str | None, fields: FilterableFields) -> str:
    """The expression that only rows of this tenant match; empty for None: the rows of every tenant.

    A row without a tenant is no tenant's. Raises UsageError where the collection cannot hold a tenant.
    """
    if tenant is None:
        return ""
    if TENANT_FIELD not in fields.declared and not fields.dynamic:
        raise UsageError("the collection holds no tenants, and the caller may see those of one only")
    return compile_filter(Equality(type="eq", key=TENANT_FIELD, value=tenant), fields)


def within_tenant(term: str, expression: str) -> str:
    """The rows of an expression that also match the tenant's `term`; an empty part: every row."""
    if not term or not expression:
        return term or expression
    return f"({term}) and ({expression})"


def check_tenant(row: Mapping[str, Any], tenant: str | None) -> None:
    """Raise ForeignRow where a row is not of this tenant; None: any row may be shown."""
    if tenant is not None and row.get(TENANT_FIELD) != tenant:
        raise ForeignRow("Milvus returned a row of another tenant: the server does not filter as it must")


class NamesByTenant:
    """The metadata names of each tenant's rows: a hint must not show one tenant what another one's rows are like.

    Of 128 tenants, the latest; shared by threads.
    """

    def __init__(self, ttl_s: float, clock: Callable[[], float]) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._of_all = MetadataNames(ttl_s, clock)
        self._of_tenants: OrderedDict[str, MetadataNames] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, tenant: str | None) -> MetadataNames:
        """The names in the rows that this tenant may see; None: in all rows."""
        if tenant is None:
            return self._of_all
        with self._lock:
            names = self._of_tenants.pop(tenant, None) or MetadataNames(self._ttl_s, self._clock, most=_MOST_NAMES)
            self._of_tenants[tenant] = names
            if len(self._of_tenants) > _MOST_TENANTS:
                self._of_tenants.popitem(last=False)
        return names
