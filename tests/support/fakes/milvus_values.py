"""Rows as a Milvus server checks and answers them, and brute-force scores; for the fake."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RowsRefused
from pipeline.records import MAX_INT64, MIN_INT64, SPARSE_FIELD
from pipeline.store.milvus.api import CollectionSpec, FieldInfo, Hit, Row

MAX_DYNAMIC_BYTES = 65_536


def checked(row: Row, spec: CollectionSpec) -> dict[str, Any]:
    """A copy as the server keeps it; RowsRefused where one value does not fit."""
    stored: dict[str, Any] = {}
    for info in spec.fields:
        if info.name == SPARSE_FIELD and spec.bm25:
            continue
        if info.name not in row:
            raise RowsRefused(f"field {info.name!r} is missing in a row")
        stored[info.name] = checked_value(info, row[info.name])
    extra = {name: value for name, value in row.items() if name not in stored}
    if extra and not spec.dynamic:
        raise RowsRefused(f"unexpected field {min(extra)!r}: the dynamic field is off")
    try:
        text = json.dumps(extra, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise RowsRefused(f"a dynamic value is not JSON: {error}") from error
    if len(text) > MAX_DYNAMIC_BYTES:
        raise RowsRefused(f"the dynamic field has {len(text)} bytes, more than {MAX_DYNAMIC_BYTES}")
    dynamic: dict[str, Any] = json.loads(text)
    return stored | dynamic


def checked_value(info: FieldInfo, value: Any) -> Any:
    match info.type:
        case "VARCHAR":
            if not isinstance(value, str):
                raise RowsRefused(f"field {info.name!r} wants a string")
            try:
                size = len(value.encode())
            except UnicodeEncodeError as error:
                raise RowsRefused(f"field {info.name!r} is no valid text") from error
            if info.max_length is not None and size > info.max_length:
                raise RowsRefused(f"the length ({size}) of {info.name!r} exceeds max length ({info.max_length})")
        case "INT64":
            if isinstance(value, bool) or not isinstance(value, int) or not MIN_INT64 <= value <= MAX_INT64:
                raise RowsRefused(f"field {info.name!r} wants an int64")
        case "BOOL":
            if not isinstance(value, bool):
                raise RowsRefused(f"field {info.name!r} wants a boolean")
        case "FLOAT_VECTOR":
            vector = np.array(value, dtype=np.float32)
            if vector.shape != (info.dimension,):
                raise RowsRefused(f"the length({vector.size}) of float data should divide the dim({info.dimension})")
            if not np.isfinite(vector).all():
                raise RowsRefused("value 'NaN' is not a number or infinity")
            return vector
    return value


def row_size(row: Row) -> int:
    size = 0
    for name, value in row.items():
        if isinstance(value, np.ndarray):
            size += value.size * 4
        elif isinstance(value, str):
            size += len(value.encode("utf-8", "surrogatepass"))
        else:
            size += 8 + len(name)
    return size


def projected(row: Mapping[str, Any], fields: set[str], spec: CollectionSpec) -> dict[str, Any]:
    declared = {info.name for info in spec.fields}
    return {
        name: value
        for name, value in row.items()
        if name in fields or "*" in fields or ("$meta" in fields and name not in declared)
    }


def scores_of(matrix: NDArray[np.float32], vector: NDArray[np.float32], metric: str) -> NDArray[np.float32]:
    if metric == "L2":
        return np.asarray(((matrix - vector) ** 2).sum(axis=1), dtype=np.float32)
    products = matrix @ vector
    if metric == "COSINE":
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector)
        products = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return np.asarray(products, dtype=np.float32)


def best_hits(
    rows: Sequence[dict[str, Any]],
    scores: NDArray[np.float32],
    spec: CollectionSpec,
    *,
    metric: str,
    limit: int,
    fields: Sequence[str],
) -> list[Hit]:
    order = np.argsort(scores if metric == "L2" else -scores, kind="stable")
    hits: dict[str, Hit] = {}
    for index in order:
        row = rows[index]
        if row["id"] not in hits:
            hits[row["id"]] = Hit(row["id"], float(scores[index]), projected(row, set(fields), spec))
            if len(hits) == limit:
                break
    return list(hits.values())
