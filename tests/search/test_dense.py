import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.search import DenseRetriever, Document, Encoder, Retriever, dense, load_encoder, vector_segments

from .conftest import HashEncoder, collection


class Gives:
    """An encoder that gives what it is told to."""

    def __init__(self, vectors) -> None:
        self.vectors = vectors

    def encode(self, texts, /):
        return self.vectors


def cosines(documents, query, encoder):
    """By the definition, in float64."""
    q = encoder.encode([query])[0].astype(np.float64)
    return {
        document.id: float(q @ d / np.linalg.norm(q) / np.linalg.norm(d))
        for document in documents
        for d in encoder.encode([document.searched]).astype(np.float64)
    }


@settings(max_examples=30, deadline=None)
@given(
    queries=st.integers(0, 7),
    count=st.integers(1, 23),
    k=st.integers(1, 25),
    query_block=st.integers(1, 5),
    document_block=st.integers(1, 9),
)
def test_it_is_exact_whatever_the_blocks(queries, count, k, query_block, document_block):
    documents = collection([f"text {number}" for number in range(count)])
    texts = [f"query {number}" for number in range(queries)]
    encoder = HashEncoder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "_QUERIES", query_block)
        patch.setattr(dense, "_DOCUMENTS", document_block)
        run = DenseRetriever(encoder).build(documents).search(texts, k)
    assert list(run) == [str(number) for number in range(queries)]
    for query, text in zip(run, texts, strict=True):
        expected = cosines(documents, text, encoder)
        best = sorted(expected, key=expected.__getitem__, reverse=True)[:k]
        assert list(run[query]) == [document for document, _ in run.ranking(query)] == best
        assert run[query] == pytest.approx({id: expected[id] for id in best}, abs=1e-5)


def test_it_is_a_retriever_of_any_encoder(documents):
    retriever = DenseRetriever(HashEncoder()).build(documents)
    assert isinstance(retriever, Retriever)
    assert isinstance(retriever.encoder, Encoder)
    alone = retriever.search(documents[0].text, 3)["0"]
    assert next(iter(alone.items())) == ("d0", pytest.approx(1.0, abs=1e-6))
    assert retriever.search({"first": documents[0].text}, 3) == {"first": alone}
    assert retriever.search([documents[0].text], 3) == {"0": alone}


@pytest.mark.parametrize("query", ["", " \n\t"])
def test_a_blank_query_finds_nothing(documents, query):
    with pytest.warns(UserWarning, match="query 'blank' has no tokens") as told:
        run = DenseRetriever(HashEncoder()).build(documents).search({"a": "rank", "blank": query, "z": "rank"})
    assert len(told) == 1
    assert list(run) == ["a", "blank", "z"]
    assert (run["blank"], run["a"]) == ({}, run["z"])
    assert len(run["a"]) == len(documents)


@pytest.mark.parametrize(
    "vectors",
    [
        np.array([[3.0, 4.0], [0.0, 2.0]], dtype=np.float16),
        np.array([[3, 4], [0, 2]]),
        [[3.0, 4.0], [0.0, 2.0]],
        torch.tensor([[3.0, 4.0], [0.0, 2.0]], dtype=torch.float64, requires_grad=True),
        torch.tensor([[3.0, 4.0], [0.0, 2.0]], dtype=torch.bfloat16),
    ],
)
def test_vectors_of_any_kind_and_length(vectors):
    retriever = DenseRetriever(Gives(vectors)).build(collection(["a", "b"]))
    retriever._encoder = Gives(np.array([[0.0, 5.0]]))
    assert retriever.search("q")["0"] == pytest.approx({"d1": 1.0, "d0": 0.8})


def test_a_vector_of_zeros_is_like_nothing():
    retriever = DenseRetriever(Gives(np.array([[0.0, 0.0], [0.0, 2.0]]))).build(collection(["a", "b"]))
    retriever._encoder = Gives(np.array([[0.0, 5.0]]))
    assert retriever.search("q")["0"] == {"d1": 1.0, "d0": 0.0}


def test_equal_documents_are_all_found_and_the_same_search_finds_the_same():
    retriever = DenseRetriever(HashEncoder()).build(collection(["the same"] * 9))
    found = retriever.search("query", 9)
    assert set(found["0"]) == {f"d{number}" for number in range(9)}
    assert list(found["0"].values()) == pytest.approx([found["0"]["d0"]] * 9, abs=1e-6)
    assert retriever.search("query", 9) == found
    assert len(retriever.search("query", 4)["0"]) == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite(bad):
    vectors = np.array([[1.0, 0.0], [0.0, bad]])
    with pytest.raises(ValueError, match="encoder gave a vector that is not finite for text 1, 'broken'"):
        DenseRetriever(Gives(vectors)).build(collection(["fine", "broken"]))
    retriever = DenseRetriever(HashEncoder(2)).build(collection(["a", "b"]))
    retriever._encoder = Gives(vectors[1:])
    with pytest.raises(ValueError, match="not finite for text 0, 'broken'"):
        retriever.search("broken")


@pytest.mark.parametrize("shape", [(2,), (3, 4), (2, 4, 1)])
def test_vectors_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"encoder gave shape \(.*\) for 2 texts; \(texts, dim\) is needed"):
        DenseRetriever(Gives(np.ones(shape))).build(collection(["a", "b"]))


def test_another_encoder_than_the_index_was_built_with(documents):
    retriever = DenseRetriever(HashEncoder(16)).build(documents)
    retriever._encoder = HashEncoder(8)
    with pytest.raises(
        ValueError,
        match="the encoder gives 8 numbers a text, the index holds 16; use the encoder that the index was built with",
    ):
        retriever.search("rank")


def test_bad_inputs(documents):
    retriever = DenseRetriever(HashEncoder())
    with pytest.raises(RuntimeError, match=r"nothing is indexed yet: call build\(documents\) or load\(folder\)"):
        retriever.search("rank")
    with pytest.raises(RuntimeError, match="nothing is indexed yet"):
        retriever.save("nowhere")
    with pytest.raises(ValueError, match="leaves nothing to index"):
        retriever.build([])
    with pytest.raises(ValueError, match="two documents have the id 'x'"):
        retriever.build([Document("x", "a"), Document("x", "b")])
    with pytest.raises(ValueError, match="k=0 is not accepted"):
        retriever.build(documents).search("rank", 0)


def test_a_failed_build_leaves_the_index_before(documents):
    retriever = DenseRetriever(HashEncoder()).build(documents)
    before = retriever.search("rank")
    retriever._encoder = Gives(np.full((1, 16), np.nan))
    with pytest.raises(ValueError, match="not finite"):
        retriever.build([Document("x", "a")])
    retriever._encoder = HashEncoder()
    assert retriever.search("rank") == before


@pytest.mark.filterwarnings("ignore:quer.* no tokens to search for")
def test_a_loaded_index_finds_the_same(documents, tmp_path):
    built = DenseRetriever(HashEncoder()).build(documents)
    queries = ["matrix rank", "cats", ""]
    loaded = DenseRetriever.load(built.save(tmp_path / "new" / "index"), HashEncoder())
    assert loaded.search(queries) == built.search(queries)
    again = DenseRetriever.load(loaded.save(tmp_path / "new" / "index"), HashEncoder())
    assert again.search(queries) == built.search(queries) == loaded.search(queries)


def test_only_what_is_new_is_written(tmp_path, monkeypatch):
    written = []
    write = vector_segments.save_file

    def counted(tensors, file):
        written.append(len(tensors["vectors"]))
        write(tensors, file)

    monkeypatch.setattr(vector_segments, "save_file", counted)
    every = collection([f"text {number}" for number in range(40)])
    folder = DenseRetriever(HashEncoder()).build(every[:32]).save(tmp_path)
    for number in range(32, 40):
        DenseRetriever.load(folder, HashEncoder()).add(every[number : number + 1]).save(folder)
    assert written == [32, 1, 2, 3, 1, 5, 1, 2, 8], "the small ones are joined, and the large one stays as it is"
    loaded, built = DenseRetriever.load(folder, HashEncoder()), DenseRetriever(HashEncoder()).build(every)
    assert len(loaded._segments) == 2
    found, expected = (retriever.search("query", 40)["0"] for retriever in (loaded, built))
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 9), max_size=5)), max_size=6),
    size=st.integers(1, 9),
)
def test_an_index_that_grew_and_shrank_is_one_that_was_built_at_once(steps, size):
    present = {"d0": "d0"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DenseRetriever, "segment_size", size)
        grown = DenseRetriever(HashEncoder()).build([Document("d0", "d0")])
        for number, (adds, places) in enumerate(steps):
            ids = [f"d{place}" for place in places]
            if adds:
                new = {id: f"{id} {number}" for id in ids}
                grown.add(Document(id, text) for id, text in new.items())
                present = {id: text for id, text in present.items() if id not in new} | new
            else:
                gone = [id for id in ids if id in present]
                grown.delete(gone)
                present = {id: text for id, text in present.items() if id not in gone}
        found = grown.search("query", 20)["0"]
    assert len(grown) == len(present)
    expected = cosines([Document(id, text) for id, text in present.items()], "query", HashEncoder())
    assert list(found) == sorted(expected, key=expected.__getitem__, reverse=True)
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is mapped")
def test_vectors_are_read_from_the_file_when_they_are_asked_for(documents, tmp_path):
    folder = DenseRetriever(HashEncoder()).build(documents).save(tmp_path)
    loaded = DenseRetriever.load(folder, HashEncoder())
    assert str(folder) in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert len(loaded) == len(documents)


def test_an_encoder_is_loaded_from_a_folder_only(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"sentence-transformers/x is not a folder; an encoder is loaded from"):
        load_encoder("sentence-transformers/x")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        DenseRetriever(tmp_path / "none").build([Document("x", "a")])


def test_a_saved_index_names_the_folder_of_its_encoder(documents, tmp_path, monkeypatch):
    loaded = []

    def load(folder, device):
        loaded.append((folder, device))
        return HashEncoder()

    monkeypatch.setattr(dense, "load_encoder", load)
    monkeypatch.chdir(tmp_path)
    built = DenseRetriever("model").build(documents)
    found = built.search("matrix rank")
    built.save(tmp_path / "index")
    monkeypatch.chdir(tmp_path.parent)
    assert DenseRetriever.load(tmp_path / "index", device="cuda").search("matrix rank") == found
    assert loaded == [("model", "cpu"), (str(tmp_path / "model"), "cuda")]
    DenseRetriever(HashEncoder()).build(documents).save(tmp_path / "index")
    assert DenseRetriever.load(tmp_path / "index").search("matrix rank") == found
    assert loaded[2:] == [(None, "cpu")]
