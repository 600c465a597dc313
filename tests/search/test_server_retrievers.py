"""Retrieval on servers: OpenSearch by its protocol, Qdrant by the client's own local mode, and failures of both."""

from __future__ import annotations

import json
import re
import socket
import threading

import numpy as np
import pytest

from fullrank import _optional
from fullrank._optional import MissingExtra
from fullrank.search import BM25Retriever, DenseRetriever, Document, HybridRetriever, Retriever, Run
from fullrank.search.opensearch import OpenSearchRetriever
from fullrank.search.qdrant import QdrantRetriever

from .conftest import HashEncoder, collection
from .fake_opensearch import FakeOpenSearch
from .fake_server import serving

pytest.importorskip("opensearchpy")
qdrant_client = pytest.importorskip("qdrant_client")
NOWHERE = "http://127.0.0.1:9"


class Lexical:
    """OpenSearch, faked."""

    kind = "index"

    def __init__(self, server, fake):
        self.server, self.fake = server, fake

    def retriever(self, name="mine", **options):
        return OpenSearchRetriever(self.server.url, name, **{"retries": 0, "batch_size": 2, **options})

    def local(self, documents):
        return BM25Retriever().build(documents)

    def names(self):
        return set(self.fake.indexes)

    def foreign(self, name):
        self.fake.indexes[name] = {"body": {"mappings": {}}, "documents": {"theirs": {}}}


class Dense:
    """Qdrant, in this process."""

    kind = "collection"

    def __init__(self):
        self.client = qdrant_client.QdrantClient(":memory:")

    def retriever(self, name="mine", encoder=None, **options):
        chosen = {"batch_size": 2, "client": self.client, **options}
        return QdrantRetriever("http://localhost:6333", name, encoder or HashEncoder(), **chosen)

    def local(self, documents):
        return DenseRetriever(HashEncoder()).build(documents)

    def names(self):
        return {entry.name for entry in self.client.get_collections().collections}

    def foreign(self, name):
        models = qdrant_client.models
        vectors = {"theirs": models.VectorParams(size=3, distance=models.Distance.DOT)}
        self.client.create_collection(name, vectors_config=vectors)


@pytest.fixture(params=["opensearch", "qdrant"])
def place(request):
    """Either server."""
    if request.param == "qdrant":
        yield Dense()
        return
    fake = FakeOpenSearch()
    with serving(fake) as server:
        yield Lexical(server, fake)


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch):
    """Pauses between tries, noted instead of made."""
    pauses = []
    monkeypatch.setattr("fullrank.search.server.time.sleep", pauses.append)
    for name in ("OPENSEARCH_USERNAME", "OPENSEARCH_PASSWORD", "QDRANT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return pauses


def test_it_finds_what_the_local_one_finds(place, documents):
    retriever, local = place.retriever(), place.local(documents)
    assert isinstance(retriever, Retriever)
    assert retriever.build(iter(documents)) is retriever
    assert len(retriever) == len(documents)
    queries = {"a": "matrix rank", "b": "singular values", "c": "nowhere to be found", "d": " "}
    with pytest.warns(UserWarning, match="query 'd' has no tokens") as told:
        found, expected = retriever.search(queries, 3), local.search(queries, 3)
    assert len(told) == 2
    assert isinstance(found, Run)
    for id in queries:
        assert list(found[id]) == [document for document, _ in expected.ranking(id)]
        assert found[id] == pytest.approx(expected[id], abs=1e-6)
    opened = place.retriever()
    assert opened.search("matrix rank", 2) == {"0": dict(found.ranking("a", 2))}
    fused = HybridRetriever([opened, local]).search("matrix rank", 2)
    assert set(fused["0"]) <= {document.id for document in documents}


def test_documents_are_added_replaced_deleted_and_read(place, documents):
    retriever = place.retriever().build(documents)
    new = [Document("d1", "dogs bark", "Dogs", {"year": 1999, "place": ["x"]}), Document("d9", "rank again")]
    retriever.add(new)
    assert len(retriever) == len(documents) + 1
    assert retriever.documents["d1"] == new[0]
    assert set(retriever.documents) == {f"d{number}" for number in (0, 1, 2, 3, 4, 5, 9)}
    assert next(iter(retriever.search("Dogs dogs bark", 1)["0"])) == "d1"
    retriever.delete(["d9", "d0", "d9"])
    assert "d9" not in retriever.documents
    assert len(retriever) == len(documents) - 1
    with pytest.raises(LookupError, match="has no document 'd9'"):
        retriever.delete(["d2", "d9"])
    assert "d2" in retriever.documents, "none is deleted where one is unknown"


def test_nothing_is_replaced_unasked(place, documents):
    place.retriever().build(documents)
    before = place.names()
    with pytest.raises(FileExistsError, match=f"has the {place.kind} 'mine' already; .*replace=True"):
        place.retriever().build([Document("x", "rank")])
    assert place.names() == before
    place.retriever("mine-too").build(documents)
    retriever = place.retriever().build([Document("x", "rank")], replace=True)
    assert set(retriever.documents) == {"x"}
    assert len(place.names()) == 2
    assert not before & place.names()


def test_an_index_of_somebody_else(place, documents):
    place.foreign("theirs")
    for call in (
        lambda r: r.search("rank"),
        lambda r: r.add(documents),
        lambda r: r.delete(["theirs"]),
        len,
    ):
        with pytest.raises(ValueError, match=r"'theirs' at .* was not made by Fullrank; name another one"):
            call(place.retriever("theirs"))
    with pytest.raises(FileExistsError, match="already"):
        place.retriever("theirs").build(documents)
    assert place.names() == {"theirs"}
    assert len(place.retriever("theirs").build(documents, replace=True)) == len(documents)
    assert "theirs" not in place.names()


def test_a_build_that_fails_leaves_what_was_there(place, documents):
    retriever = place.retriever().build(documents)
    before = place.names()
    twice = [*collection(["a b", "c d", "e f"]), Document("d0", "again")]
    with pytest.raises(ValueError, match="two documents have the id 'd0'"):
        retriever.build(twice, replace=True)
    with pytest.raises(ValueError, match=r"documents=\[\] leaves nothing to index"):
        retriever.build([], replace=True)

    def broken():
        yield from documents[:3]
        raise OSError("the file ends early")

    with pytest.raises(OSError, match="ends early"):
        place.retriever().build(broken(), replace=True)
    assert place.names() == before
    assert set(place.retriever().documents) == {document.id for document in documents}
    assert retriever.search("matrix rank", 1)["0"]


def test_no_index(place, documents):
    for call in (
        lambda r: r.search("rank"),
        lambda r: r.add(documents),
        lambda r: r.delete(["d0"]),
        len,
    ):
        with pytest.raises(LookupError, match=f"has no {place.kind} 'mine'; make it with build"):
            call(place.retriever())


def test_an_index_that_goes_while_it_is_searched(place, documents):
    retriever = place.retriever().build(documents)
    if isinstance(place, Lexical):
        place.fake.indexes.clear()
        place.fake.aliases.clear()
        with pytest.raises(LookupError, match="has no index 'mine'"):
            retriever.search("rank")
        return
    place.client.delete_collection(next(iter(place.names())))
    with pytest.raises(ValueError, match="not found"):  # in the client's words: this one is no server
        retriever.search("rank")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 is not accepted"),
        ({"timeout": 0.0}, "timeout=0.0 is not accepted"),
        ({"retries": -1}, "retries=-1 is not accepted"),
        ({"name": "a/b"}, "='a/b' is not accepted"),
        ({"name": ""}, "='' is not accepted"),
    ],
)
def test_bad_options(place, options, message):
    with pytest.raises(ValueError, match=message):
        place.retriever(**options)
    with pytest.raises(ValueError, match="k=0 is not accepted"):
        place.retriever().search("rank", 0)


@pytest.mark.parametrize("make", [OpenSearchRetriever, QdrantRetriever])
def test_addresses_and_missing_libraries(make, monkeypatch):
    with pytest.raises(ValueError, match="url='localhost:9200' is no address; accepted: such as http://localhost"):
        make("localhost:9200", "mine")

    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(_optional, "import_module", missing)
    with pytest.raises(MissingExtra, match=r'pip install "fullrank\[servers\]"'):
        make("http://localhost:9200", "mine")


# --- failures --------------------------------------------------------------------------------------------------------


def lexical(server, **options):
    return OpenSearchRetriever(server.url, "mine", **{"retries": 2, **options})


def dense(server, **options):
    return QdrantRetriever(server.url, "mine", HashEncoder(), **{"retries": 2, **options})


BOTH = pytest.mark.parametrize("make", [lexical, dense])


@BOTH
def test_nobody_there(make, without_waiting):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))

        class Server:
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"

        for call in (lambda r: r.search("rank"), lambda r: r.build([Document("a", "b")])):
            with pytest.raises(ConnectionError, match=r"is out of reach \(.+\); is the server running") as caught:
                call(make(Server))
            assert "\n" not in str(caught.value)
    assert without_waiting == [0.5, 1.0, 0.5, 1.0]


@BOTH
@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_stays_busy(make, status, without_waiting):
    cause = {"root_cause": [{"reason": "overloaded"}], "error": "overloaded"}
    with (
        serving(lambda request: (status, {}, {"error": cause, "status": cause})) as server,
        pytest.raises(RuntimeError, match=f"refused with {status}: overloaded"),
    ):
        make(server).build([Document("a", "b")], replace=True)
    assert without_waiting[:2] == [0.5, 1.0]


def test_a_refusal_without_a_reason():
    with serving(lambda request: (503, {}, b"")) as server, pytest.raises(RuntimeError, match="503: Service Unavail"):
        lexical(server, retries=0).build([Document("a", "b")])


def test_a_busy_server_is_asked_again():
    fake = FakeOpenSearch()
    counts = {}

    def now_and_then(request):
        key = request["method"], request["path"]
        counts[key] = counts.get(key, 0) + 1
        return (503, {}, {"error": "starting"}) if counts[key] == 1 and request["method"] != "HEAD" else None

    fake.trouble = now_and_then
    with serving(fake) as server:
        retriever = lexical(server).build(collection(["matrix rank", "cats"]))
        assert list(retriever.search("rank")["0"]) == ["d0"]


def test_only_the_documents_that_it_was_too_busy_for_are_sent_again(without_waiting):
    fake = FakeOpenSearch()
    sent = []

    def trouble(request):
        if not request["path"].startswith("/mine") or "_bulk" not in request["path"]:
            return None
        lines = [json.loads(line) for line in request["content"].splitlines()]
        ids = [line["index"]["_id"] for line in lines[::2]]
        sent.append(ids)
        if len(sent) > 2:
            return None
        (index,) = fake.indexes
        items = list(fake.bulk(fake.indexes[index]["documents"], lines[:2]))
        items += [{"index": {"_id": id, "status": 429, "error": {"reason": "rejected"}}} for id in ids[1:]]
        return 200, {}, {"errors": True, "items": items}

    fake.trouble = trouble
    with serving(fake) as server:
        retriever = lexical(server).build(collection(["a b", "c d", "e f", "g h"]))
        assert sent == [["d0", "d1", "d2", "d3"], ["d1", "d2", "d3"], ["d2", "d3"]]
        assert len(retriever) == 4
    assert without_waiting == [0.5, 1.0]


def test_qdrant_is_asked_again_when_it_says(without_waiting):
    answers = [(429, {"Retry-After": "7"}, {"status": {"error": "slow down"}}), (503, {}, {})]
    empty = {"result": {"collections": [], "aliases": []}, "status": "ok", "time": 0.0}
    with (
        serving(lambda request: answers.pop(0) if answers else (200, {}, empty)) as server,
        pytest.raises(LookupError, match="has no collection 'mine'"),
    ):
        dense(server).search("rank")
    assert without_waiting == [7.0, 1.0]


@BOTH
def test_no_answer_in_time(make, monkeypatch):
    over = threading.Event()

    def slow(request):
        over.wait(10)
        return 200, {}, {}

    with serving(slow) as server:
        retriever = make(server, timeout=0.1, retries=0)
        if make is dense:  # its client takes whole seconds
            retriever._client._client.http.client._client.timeout = 0.1
        try:
            with pytest.raises(TimeoutError, match=r"gave no answer within 0\.1 s, asked 1 times"):
                retriever.search("rank")
        finally:
            over.set()


@BOTH
def test_a_page_instead_of_an_answer(make):
    with (
        serving(lambda request: (200, {"Content-Type": "text/html"}, b"<html>Welcome</html>")) as server,
        pytest.raises(RuntimeError, match="gave an answer that cannot be read"),
    ):
        make(server).search("rank")


def test_a_name_and_password_go_to_opensearch_and_are_never_told(monkeypatch):
    monkeypatch.setenv("OPENSEARCH_USERNAME", "me")
    monkeypatch.setenv("OPENSEARCH_PASSWORD", "secret-7")
    with serving(lambda request: (401, {}, {"error": "who is me:secret-7?"})) as server:
        with pytest.raises(PermissionError, match=r"\(401\).*OPENSEARCH_PASSWORD") as caught:
            lexical(server).search("rank")
        assert server.requests[0]["key"] == "Basic bWU6c2VjcmV0LTc="
    with serving(lambda request: (400, {}, {"error": "who is me:secret-7?"})) as server:
        retriever = OpenSearchRetriever(server.url.replace("://", "://me:secret-7@"), "mine", retries=0)
        with pytest.raises(RuntimeError, match=r"refused with 400: who is me:\*\*\*\?") as caught:
            retriever.search("rank")
    assert "secret-7" not in f"{caught.value}{retriever!r}"


def test_a_key_goes_to_qdrant_and_is_never_told(monkeypatch):
    monkeypatch.setenv("QDRANT_API_KEY", "secret-7")
    with serving(lambda request: (403, {}, {"status": {"error": "not secret-7"}})) as server:
        retriever = dense(server)
        with (
            pytest.warns(UserWarning, match="insecure connection"),
            pytest.raises(PermissionError, match=r"\(403\).*QDRANT_API_KEY") as caught,
        ):
            retriever.search("rank")
        assert server.requests[0]["api-key"] == "secret-7"
    assert "secret-7" not in f"{caught.value}{retriever!r}"


# --- OpenSearch alone ------------------------------------------------------------------------------------------------


@pytest.fixture
def fake():
    return FakeOpenSearch()


@pytest.fixture
def server(fake):
    with serving(fake) as server:
        yield server


def test_explanations_sum_to_the_score(server, documents):
    retriever, local = lexical(server, stemming="en").build(documents), BM25Retriever(stemming="en").build(documents)
    for query in ("rank matrix rank", "ranking", "cats"):
        for id, score in retriever.search(query)["0"].items():
            parts = retriever.explain(query, id)
            assert sum(parts.values()) == pytest.approx(score)
            assert parts == pytest.approx(local.explain(query, id))
            assert list(parts.values()) == sorted(parts.values(), reverse=True)
    assert retriever.explain("nothing", "d0") == {}
    with pytest.raises(LookupError, match="the index 'mine' has no document 'gone'"):
        retriever.explain("rank", "gone")


def test_what_an_index_is_made_with(server, fake, documents):
    lexical(server, k1=0.9, b=0.4, stopwords="de", stemming="fr").build(documents)
    body = fake.indexes[fake.behind("mine")]["body"]
    analysis = body["settings"]["analysis"]
    assert analysis["filter"]["stopwords"] == {"type": "stop", "stopwords": "_german_"}
    assert analysis["filter"]["stemming"] == {"type": "stemmer", "language": "french"}
    order = ["cjk_width", "lowercase", "stopwords", "stemming", "cjk_bigram"]
    assert analysis["analyzer"]["words"]["filter"] == order
    assert body["settings"]["index"]["similarity"]["bm25"] == {"type": "BM25", "k1": 0.9, "b": 0.4}
    assert body["mappings"]["properties"]["metadata"] == {"type": "object", "enabled": False}


def test_bulk_requests_are_bounded(server, monkeypatch):
    monkeypatch.setattr("fullrank.search.opensearch._BYTES", 40)
    lexical(server, batch_size=3).build(collection(["a " * 15, "b " * 15, "c", "d", "e" * 90]))
    sizes = [r["content"].count(b"\n") // 2 for r in server.requests if "_bulk" in r["path"]]
    assert sizes == [1, 2, 1, 1]


def test_searches_count_documents_of_all_shards_and_go_together(server, documents):
    retriever = lexical(server).build(documents)
    retriever.search({f"q{number}": "rank" for number in range(201)})
    sent = [request["content"].splitlines() for request in server.requests if "_msearch" in request["path"]]
    assert [len(lines) // 2 for lines in sent] == [100, 100, 1]
    assert json.loads(sent[0][0]) == {"search_type": "dfs_query_then_fetch"}


def test_what_the_server_refuses_is_named(server, documents):
    retriever = lexical(server)
    with pytest.raises(RuntimeError, match=f"refused with 400: document '{'x' * 600}"[:80]):
        retriever.build([*documents, Document("x" * 600, "long")])
    retriever.build(documents)
    with pytest.raises(RuntimeError, match="refused with 400: query 'b': too many clauses"):
        retriever.search({"a": "rank", "b": "unparsable"})
    with pytest.raises(ValueError, match="k=10001 is not accepted; OpenSearch gives at most 10,000"):
        retriever.search("rank", 10_001)
    for options in ({"k1": -1.0}, {"b": 2.0}, {"stopwords": "klingon"}, {"stemming": "klingon"}):
        with pytest.raises(ValueError, match="is not"):
            lexical(server, **options)


def test_half_a_build_that_cannot_be_cleared_is_named(server, fake, documents):
    fake.trouble = lambda r: (400, {}, {"error": "no"}) if "_bulk" in r["path"] or r["method"] == "DELETE" else None
    with pytest.raises(RuntimeError, match="refused with 400: no") as caught:
        lexical(server).build(documents)
    (left,) = fake.indexes
    assert re.search(f"{left} may be left on the server", caught.value.__notes__[0])


# --- Qdrant alone ----------------------------------------------------------------------------------------------------


def test_another_encoder_than_the_index_was_built_with(documents):
    place = Dense()
    place.retriever().build(documents)
    other = place.retriever(encoder=HashEncoder(5))
    for call in (lambda: other.search("rank"), lambda: other.add(documents)):
        with pytest.raises(ValueError, match="gives 5 numbers a text, the collection holds 16; use the encoder"):
            call()
    other.build(documents, replace=True)
    assert other.search("rank", 1)["0"]


def test_vectors_are_asked_for_a_batch_at_a_time(documents):
    sizes = []

    class Counting(HashEncoder):
        def encode(self, texts, /):
            sizes.append(len(texts))
            return super().encode(texts)

    Dense().retriever(encoder=Counting(), batch_size=4).build(iter(documents))
    assert max(sizes) == 4

    class Broken(HashEncoder):
        def encode(self, texts, /):
            return np.full((len(texts), 4), np.nan, dtype=np.float32)

    with pytest.raises(ValueError, match="not finite"):
        Dense().retriever(encoder=Broken()).build(documents)
