"""The leading components kept of each vector (Matryoshka)."""

from pipeline.errors import UsageError


def kept_dimension(setting: int | None, full: int) -> int:
    """The components kept of the model's `full` ones; raises `UsageError` if there are fewer."""
    if setting is not None and not 1 <= setting <= full:
        raise UsageError(
            f"embedding.dimensions is {setting}, but the model's vectors have {full}: write a number from 1 to "
            f"{full}, or null for all of them"
        )
    return full if setting is None else setting
