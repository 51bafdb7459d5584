"""The labels of the search benchmark: queries whose right text is known for sure."""

from collections.abc import Sequence

from tests.bench.query.found import DEPTH, recall
from tests.bench.query.labelled import LabelledTexts, Query, label

TITLE = "Return the mean of a list of numbers"
REST = "it is the sum of all numbers divided by how many there are, as everybody learns at school"


def of_kind(labelled: LabelledTexts, kind: str) -> Sequence[Query]:
    return [query for query in labelled.queries if query.kind == kind]


def words(labelled: LabelledTexts, kind: str) -> set[str]:
    return {query.text for query in of_kind(labelled, kind)}


def test_a_sentence_is_the_first_line_of_a_text_that_is_stored_without_it() -> None:
    labelled = label(["short\ntext", f"  {TITLE} \n\n{REST}\n"], 10)
    assert of_kind(labelled, "sentence") == [Query(TITLE, "sentence", 1)]
    assert labelled.texts == ["short\ntext", REST]


def test_a_title_of_two_texts_is_no_query_and_both_are_stored_whole() -> None:
    texts = [f"{TITLE}\n{REST}", f"{TITLE} \n{REST}, again", f" {TITLE}\nshort"]
    for some in (texts[:2], [texts[0], texts[2]], [texts[2], texts[0]]):
        labelled = label(some, 10)
        assert of_kind(labelled, "sentence") == []
        assert labelled.texts == some


def test_a_code_or_a_name_is_a_word_of_one_text_in_any_case() -> None:
    texts = [
        "it raises error E1234 and calls max_size for users of Kafka and of Milvus",
        "it calls MAX_SIZE and is made for friends of kafka, and for error E4321",
    ]
    labelled = label(texts, 10)
    assert words(labelled, "code") == {"E1234", "E4321"}
    assert words(labelled, "name") == {"Milvus"}
    assert {query.text: query.answer for query in of_kind(labelled, "code")} == {"E1234": 0, "E4321": 1}


def test_a_word_that_a_text_has_twice_is_still_its_own() -> None:
    labelled = label(["the error E1234 again is E1234, and of e1234", "nothing"], 10)
    assert of_kind(labelled, "code") == [Query("E1234", "code", 0)]


def test_a_word_of_a_title_that_is_a_query_is_in_no_stored_text() -> None:
    labelled = label([f"{TITLE} with E1234 in it\n{REST}"], 10)
    assert "E1234" not in labelled.texts[0]
    assert words(labelled, "code") == set()


def test_a_capital_at_the_start_of_a_sentence_is_no_name() -> None:
    assert words(label(["they came. Nobody saw them but Turing"], 10), "name") == {"Turing"}


def test_at_most_so_many_queries_of_a_kind_and_the_same_in_every_run() -> None:
    texts = [f"{TITLE} number {number} of many\n{REST}, with error E{number:04} of it" for number in range(30)]
    labelled = label(texts, 5)
    assert [len(of_kind(labelled, kind)) for kind in ("sentence", "code")] == [5, 5]
    assert label(texts, 5) == labelled


def test_recall_counts_what_is_in_the_answer() -> None:
    assert recall([0, DEPTH - 1, DEPTH, DEPTH]) == 0.5
