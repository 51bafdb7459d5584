"""Commits name the collection that was filled, and a worker of another collection does not go on from them."""

import pytest

from consumers.kafka.groups.binding import UNBOUND, CollectionBinding
from consumers.kafka.groups.commits import Commit, commit_text, read_commit
from pipeline.errors import Mismatch

P, Q = ("t", 0), ("t", 1)


def of(collection_id: str) -> Commit:
    return Commit(7, "topic", collection_id=collection_id)


def test_the_text_of_a_commit_is_read_back() -> None:
    assert commit_text("topic", "collection") == "v2;topic;collection"
    assert read_commit(7, commit_text("topic", "collection")) == of("collection")
    assert read_commit(7, commit_text("", "")) == Commit(7, "")


@pytest.mark.parametrize(
    ("text", "commit"),
    [
        ("topic", Commit(7, "topic")),
        ("", Commit(7, "")),
        ("v2;topic", Commit(7, "topic")),
        ("v2;topic;collection;more", of("collection")),
        ("v3;something;else", Commit(7, "")),
    ],
)
def test_texts_of_other_versions_and_tools_are_understood(text: str, commit: Commit) -> None:
    assert read_commit(7, text) == commit


def test_a_commit_for_another_collection_is_refused() -> None:
    binding = CollectionBinding("news", "own")
    binding.check(P, of("own"))
    binding.check(P, Commit(7, "topic"))
    UNBOUND.check(P, of("other"))
    with pytest.raises(Mismatch, match=r"t/0: offset 7 .* another collection than 'news'.*group_id.*--adopt") as caught:
        binding.check(P, of("other"))
    assert caught.value.exit_code == 4


def test_commits_without_a_collection_are_repeated_with_it_and_others_only_when_adopted() -> None:
    commits = {P: Commit(7, "topic"), Q: of("other"), ("t", 2): of("own")}
    adopting = CollectionBinding("news", "own", adopt=True)
    for binding in (CollectionBinding("news", "own"), adopting):
        assert binding.unnamed(commits) == {P: 7}
        assert [name for name, commit in commits.items() if binding.adopts(commit)] == ([Q] if binding.adopt else [])
    for name, commit in commits.items():
        adopting.check(name, commit)
    assert UNBOUND.unnamed(commits) == {}
