"""The results of several workers as one."""

from consumers.supervisor.summary import merge_summaries


def test_records_add_up_and_the_highest_offset_counts() -> None:
    first = {"consumed": 3, "committed": {"t/1": 9, "t/0": 4}, "seconds": 2.5, "clean": True}
    second = {"consumed": 4, "committed": {"t/0": 7}, "seconds": 1.5, "clean": True}
    merged = {"consumed": 7, "committed": {"t/0": 7, "t/1": 9}, "seconds": 2.5, "clean": True}
    assert merge_summaries([first, second], clean=True) == merged
    assert merge_summaries([first, second], clean=False)["clean"] is False
    assert merge_summaries([first, second | {"clean": False}], clean=True)["clean"] is False
    assert merge_summaries([], clean=True) == {"consumed": 0, "committed": {}, "seconds": 0.0, "clean": True}
