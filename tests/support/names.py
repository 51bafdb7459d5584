"""Names that no other test, run or worker on the same server uses."""

import uuid


def unique(prefix: str = "t") -> str:
    """`prefix_<10 hex digits>`: a legal topic, group and collection name."""
    return f"{prefix}_{uuid.uuid4().hex[:10]}"
