"""Named points at which the recovery tests end the process, as kill -9 would.

Switched on by `MILVUS_STREAM_FAILPOINT=name` or `name:n` (the n-th time it is reached); otherwise each costs one
comparison.
"""

import os
import threading
from itertools import count

EXIT_CODE = 86

_NAME, _, _NTH = os.environ.get("MILVUS_STREAM_FAILPOINT", "").partition(":")
_TIMES = count(1)
_LOCK = threading.Lock()


def hit(name: str) -> None:
    """The process has come to this point; it ends here if the environment says so."""
    if name == _NAME:
        with _LOCK:
            if next(_TIMES) == int(_NTH or 1):
                os._exit(EXIT_CODE)
