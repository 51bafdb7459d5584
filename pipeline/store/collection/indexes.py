"""Vector indexes: validation of their settings, support by the server, and progress of the build.

Servers check too little: Milvus 2.3.5 accepts GPU indexes on a machine without a GPU and then never builds them, and
Milvus Lite accepts any name. So settings are checked here, before the index is created.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.errors import UsageError
from pipeline.store.milvus.api import IndexInfo, ServerInfo

Metric = Literal["COSINE", "IP", "L2"]
METRICS: tuple[str, ...] = ("COSINE", "IP", "L2")

_MAX_INT = 2_147_483_647


class BadParameter(UsageError):
    """A parameter that the type of index does not have, or a value that it does not take.

    `name` is the parameter, `detail` what is wrong with it, without the value that was given.
    """

    def __init__(self, where: str, name: str, detail: str, value: Any = None) -> None:
        super().__init__(f"{where}{name} {detail}" if value is None else f"{where}{name} is {value!r}: {detail}")
        self.name = name
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter of an index or of a search in it: a number in a range, a word or a switch."""

    low: int | None = None
    high: int = _MAX_INT
    words: tuple[str, ...] = ()
    default: Any = None
    """Sent when nothing is set; None: nothing is sent."""

    def check(self, where: str, name: str, value: Any) -> Any:
        """The value as it is sent. Raises BadParameter with the setting and its valid values."""
        if self.low is not None:
            if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
                raise BadParameter(where, name, f"write a whole number from {self.low} to {self.high}", value)
            return value
        text = str(value).lower() if isinstance(value, bool) else value
        if text not in self.words:
            raise BadParameter(where, name, f"write one of {', '.join(self.words)}", value)
        return text


def _switch(default: str | None = None) -> Setting:
    # A Python bool makes the build of SCANN on 2.3 fail for ever without an error; the word works.
    return Setting(words=("true", "false"), default=default)


@dataclass(frozen=True, slots=True)
class _Type:
    build: Mapping[str, Setting] = field(default_factory=dict)
    search: Mapping[str, Setting] = field(default_factory=dict)
    at_least_limit: str | None = None
    """A search parameter that may not be below the limit of results."""
    metrics: tuple[str, ...] = METRICS
    gpu: bool = False


_NLIST = Setting(1, 65_536, default=128)
_NPROBE = Setting(1, 65_536, default=16)
_IVF = _Type({"nlist": _NLIST}, {"nprobe": _NPROBE})
_TYPES: dict[str, _Type] = {
    "FLAT": _Type(),
    "AUTOINDEX": _Type(search={"level": Setting(1, 10)}),
    "IVF_FLAT": _IVF,
    "IVF_SQ8": _IVF,
    "HNSW": _Type(
        {"M": Setting(2, 2048, default=16), "efConstruction": Setting(8, default=200)},
        {"ef": Setting(1, 32_768, default=64)},
        at_least_limit="ef",
    ),
    "SCANN": _Type(
        {"nlist": _NLIST, "with_raw_data": _switch("true")},
        {"nprobe": _NPROBE, "reorder_k": Setting(1, 65_536)},
        at_least_limit="reorder_k",
    ),
    "DISKANN": _Type({}, {"search_list": Setting(1, 65_535, default=100)}, at_least_limit="search_list"),
    "GPU_IVF_FLAT": _Type({"nlist": _NLIST}, {"nprobe": _NPROBE}, metrics=("IP", "L2"), gpu=True),
    "GPU_CAGRA": _Type(
        {
            "intermediate_graph_degree": Setting(1, 1024, default=128),
            "graph_degree": Setting(1, 1024, default=64),
            "build_algo": Setting(words=("IVF_PQ", "NN_DESCENT")),
            "cache_dataset_on_device": _switch(),
            "adapt_for_cpu": _switch(),
        },
        {
            "itopk_size": Setting(1, 65_536, default=128),
            "search_width": Setting(1, 1024),
            "min_iterations": Setting(0, 65_536),
            "max_iterations": Setting(0, 65_536),
            "team_size": Setting(0, 32),
        },
        at_least_limit="itopk_size",
        metrics=("IP", "L2"),
        gpu=True,
    ),
}
TYPES: tuple[str, ...] = tuple(_TYPES)
MAX_LIMIT = 16_384
"""Milvus's limit of results of one search."""


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """The vector index to build, `milvus.index` of the configuration. Raises `UsageError` for invalid settings."""

    type: str = "HNSW"
    metric: str = "COSINE"
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kind = _TYPES.get(self.type)
        if kind is None:
            raise UsageError(f"milvus.index.type is {self.type!r}: write one of {', '.join(TYPES)}")
        if self.metric not in METRICS:
            raise UsageError(f"milvus.index.metric is {self.metric!r}: write one of {', '.join(METRICS)}")
        if self.metric not in kind.metrics:
            raise UsageError(
                f"milvus.index.metric is {self.metric}, which {self.type} does not have: write IP, which ranks "
                "normalised vectors in the same order"
            )
        self.info()

    def info(self) -> IndexInfo:
        """The index as it is sent, defaults filled in."""
        params = _checked("milvus.index.params.", self.type, _TYPES[self.type].build, self.params)
        if self.type == "GPU_CAGRA" and params["graph_degree"] > params["intermediate_graph_degree"]:
            raise UsageError(
                f"milvus.index.params.graph_degree is {params['graph_degree']}: write at most "
                f"intermediate_graph_degree, {params['intermediate_graph_degree']}"
            )
        return IndexInfo(self.type, self.metric, params)


def _checked(where: str, kind: str, settings: Mapping[str, Setting], given: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(given.keys() - settings.keys())
    if unknown:
        known = f"it has {', '.join(settings)}" if settings else "it has no parameters"
        raise BadParameter(where, unknown[0], f"is not a parameter of {kind}: {known}")
    checked = {name: settings[name].check(where, name, value) for name, value in given.items()}
    defaults = {name: setting.default for name, setting in settings.items() if setting.default is not None}
    return defaults | checked


def search_params(
    index: IndexSettings | IndexInfo,
    limit: int,
    overrides: Mapping[str, Any] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The parameters of a search for `limit` results: `overrides` before `defaults` before those of the type.

    What may not be below the limit, such as `ef`, is raised to it. Of `defaults`, which may be written for another
    index, those count that this type has, and `nprobe` is lowered to nlist. A type that is not in the table has none.

    Raises BadParameter for a wrong name or value among the overrides, because until an index is built the server
    accepts what it refuses later; UsageError for an invalid limit.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise UsageError(f"limit is {limit}: write a whole number from 1 to {MAX_LIMIT}")
    given, where = dict(overrides or {}), "search parameter "
    kind = _TYPES.get(index.type, _Type())
    if given and index.type not in _TYPES:
        raise BadParameter(where, next(iter(given)), f"cannot be checked for an index of the type {index.type}")
    of_type = {name: value for name, value in (defaults or {}).items() if name in kind.search}
    params = _checked(where, index.type, kind.search, of_type | given)
    least = params.get(kind.at_least_limit or "")
    if least is not None and least < limit:
        params[str(kind.at_least_limit)] = limit
    if "nprobe" in params:
        nlist = int(index.params.get("nlist", _NLIST.default))
        if params["nprobe"] > nlist:
            if "nprobe" in given:
                raise BadParameter(where, "nprobe", f"write at most nlist, {nlist}", params["nprobe"])
            params["nprobe"] = nlist
    return params


def check_search_defaults(index: IndexSettings, params: Mapping[str, Any]) -> None:
    """Check `milvus.search_params`. Raises UsageError for what the configured type of index does not have or take."""
    _checked("milvus.search_params.", index.type, _TYPES[index.type].search, params)
    nlist = int(index.info().params.get("nlist", _NLIST.default))
    if params.get("nprobe", 0) > nlist:
        raise UsageError(f"milvus.search_params.nprobe is {params['nprobe']}: write at most nlist, {nlist}")


def check_server(index: IndexSettings, server: ServerInfo) -> None:
    """Raise UsageError if this version of Milvus does not have the type of index."""
    if index.type == "GPU_CAGRA" and not server.capabilities.cagra_index:
        raise UsageError(
            f"milvus.index.type is {index.type}, which needs Milvus 2.4 or newer; the server is {server.version}"
        )


def index_problem(index: IndexInfo, server: ServerInfo, progress: tuple[int, int]) -> str | None:
    """The problem of an index with `progress` = (indexed, pending) rows, as a sentence; None if there is none.

    Milvus 2.3 reports `Finished` for an index that it can never build, so the pending rows decide.
    """
    indexed, pending = progress
    kind = _TYPES.get(index.type)
    if pending == 0 or not server.capabilities.builds_indexes_later:
        return None
    if indexed == 0 and kind is not None and kind.gpu:
        return (
            f"none of {pending} rows is in the {index.type} index: does Milvus run as its GPU image on a machine "
            "with a GPU? Searches are slow until it is built"
        )
    if indexed == 0:
        return f"none of {pending} rows is in the {index.type} index yet; if this stays so, read the server's log"
    return None
