"""A row that a real Milvus 2.3.5 does not take, in words that no table lists."""

from pipeline.errors import UnlistedAnswer
from pipeline.store import IndexSettings, connect
from pipeline.store.collection.schema import documents_spec
from pipeline.store.writing.requests.unlisted_answers import UnlistedPolicy
from pipeline.store.writing.requests.upsert_requests import RowGroup, Sent, UpsertRequests, WritePolicy
from pipeline.store.writing.rows import document_rows
from tests.support.documents import embedded, put
from tests.support.names import unique

POLICY = WritePolicy(unlisted=UnlistedPolicy(split_after=1, times=3, over_s=0.0))
DAY = "d20261122"


def group(doc_id: str, *, bad: bool = False) -> RowGroup[str]:
    rows = [dict(row) for row in document_rows(embedded(put(doc_id, "a b", 1)), DAY)]
    if bad:
        # The decoder rejects this name of a metadata field. Here it is the row that nobody knew to be a bad one.
        rows[-1]["$meta"] = {"a": 1}
    return RowGroup(doc_id, rows, [600] * len(rows))


def test_it_is_found_among_others_and_refused_while_others_are_accepted(milvus_uri: str) -> None:
    api, name = connect(milvus_uri), unique("unlisted")
    index = IndexSettings("FLAT", "COSINE")
    try:
        api.create_collection(documents_spec(name, dimension=8, index=index, stamp={}, bm25=False))
        api.create_partition(name, DAY)
        requests = UpsertRequests[str](api, name, POLICY)
        waiting = [group(f"d{number}", bad=number == 3) for number in range(6)]
        outcomes: list[Sent[str] | UnlistedAnswer] = []
        for number in range(8):
            sent, touched = Sent[str](), set[str]()
            try:
                requests.send(DAY, waiting, sent=sent, touched=touched)
            except UnlistedAnswer as error:
                outcomes.append(error)
                continue
            outcomes.append(sent)
            waiting = [item for item in waiting if item.owner in sent.set_aside]
            if sent.refused:
                break
            requests.send(DAY, [group(f"other{number}")], sent=Sent(), touched=set())
        assert isinstance(outcomes[0], UnlistedAnswer)
        assert isinstance(outcomes[-1], Sent)
        assert outcomes[-1].refused.keys() == {"d3"}
        assert outcomes[-1].refused["d3"][0] == "refused_by_milvus"
        stored = {row["doc_id"] for row in api.query(name, "chunk >= 0", ["doc_id"], strong=True)}
        assert {f"d{number}" for number in range(6)} - stored == {"d3"}
    finally:
        api.drop_collection(name)
        api.close()
