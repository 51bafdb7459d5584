"""Values in Milvus's filter expressions, written so that the server reads back exactly what was meant."""

import json
import re
from collections.abc import Sequence

# Milvus Lite knows no other escapes, and both servers take every other character as it is.
_ESCAPES = str.maketrans({'"': r"\"", "\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"})
_HEX = re.compile(r"[0-9a-f]{1,64}")


def literal(value: bool | int | float | str) -> str:
    """A value as a literal that Milvus and Milvus Lite read back exactly. Raises ValueError for NaN and infinities."""
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    return json.dumps(value, allow_nan=False)


def ids_expression(ids: Sequence[str]) -> str:
    """`id in ["…", …]` of row ids. Raises ValueError for anything but lower-case hex, which needs no escapes."""
    for identifier in ids:
        if not _HEX.fullmatch(identifier):
            raise ValueError("a row id is not a lower-case hex digest of at most 64 characters")
    return 'id in ["' + '","'.join(ids) + '"]'
