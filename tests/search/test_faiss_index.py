from __future__ import annotations

import numpy as np
import pytest

from fullrank import _optional
from fullrank._optional import MissingExtra
from fullrank.search import DenseRetriever, Document, dense
from fullrank.search.faiss_index import FaissIndex

from .conftest import HashEncoder, collection

pytest.importorskip("faiss")
TEXTS = [f"text {number}" for number in range(300)]
QUERIES = [f"query {number}" for number in range(5)]
BACKENDS = ("flat", "hnsw", "ivf")


def built(backend, texts=TEXTS, effort=300):
    return DenseRetriever(HashEncoder(), backend, effort).build(collection(texts))


def same(run, other):
    assert list(run) == list(other)
    for query in run:
        assert list(run[query]) == list(other[query])
        assert run[query] == pytest.approx(other[query], abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [1, 3, 300])
def test_with_all_effort_every_backend_finds_what_is_exact(backend, count):
    same(built(backend, TEXTS[:count]).search(QUERIES, 7), built("exact", TEXTS[:count]).search(QUERIES, 7))


def test_less_effort_looks_at_less():
    exact = built("exact").search(QUERIES, 10)
    narrow = built("ivf", effort=1).search(QUERIES, 300)
    for query, found in narrow.items():
        assert 0 < len(found) < 300, "lists that were not looked into hold the others"
        assert found.items() <= built("ivf").search(QUERIES, 300)[query].items()
    recall = np.mean(
        [len(set(built("hnsw", effort=10).search(QUERIES, 10)[query]) & set(exact[query])) for query in exact]
    )
    assert recall >= 7


@pytest.mark.parametrize("backend", ["exact", *BACKENDS])
def test_an_index_that_grew_and_shrank_is_one_that_was_built_at_once(backend):
    every = collection(TEXTS[:40])
    grown = DenseRetriever(HashEncoder(), backend).build(every[:20])
    grown.search("x")
    grown.add(every[20:30]).search("x")
    grown.add([Document("d1", "other"), *every[30:]]).delete(["d1", "d39"])
    kept = [document for document in every if document.id not in ("d1", "d39")]
    same(grown.search(QUERIES, 50), DenseRetriever(HashEncoder()).build(kept).search(QUERIES, 50))
    assert len(grown) == 38
    assert grown.delete([document.id for document in kept]).search("x") == {"0": {}}
    assert set(grown.add([Document("new", "y")]).search("x")["0"]) == {"new"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loaded_index_is_not_made_anew(backend, tmp_path, monkeypatch):
    saved = built(backend)
    found = saved.search(QUERIES)
    saved.save(tmp_path)

    def made(*args):
        raise AssertionError("made anew")

    with monkeypatch.context() as patch:
        patch.setattr(FaissIndex, "of", made)
        loaded = DenseRetriever.load(tmp_path, HashEncoder())
        assert loaded.search(QUERIES) == found
        assert (loaded.backend, loaded.effort) == (backend, 300)
    same(DenseRetriever.load(tmp_path, HashEncoder(), backend="exact").search(QUERIES), found)
    loaded.add([Document("new", "query 0")]).save(tmp_path)
    again = DenseRetriever.load(tmp_path, HashEncoder())
    assert next(iter(again.search("query 0")["0"].items())) == ("new", pytest.approx(1.0, abs=1e-5))


def test_an_exact_index_is_opened_with_any_backend(tmp_path):
    built("exact").save(tmp_path)
    loaded = DenseRetriever.load(tmp_path, HashEncoder(), backend="flat")
    same(loaded.search(QUERIES), built("exact").search(QUERIES))


@pytest.mark.parametrize("content", [None, b"", b"noise" * 50])
def test_a_damaged_file_of_faiss(tmp_path, content):
    built("flat", TEXTS[:9]).save(tmp_path)
    (file,) = tmp_path.glob("index-*/faiss.index")
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged \(faiss.index holds no index of faiss\); build it again"):
        DenseRetriever.load(tmp_path, HashEncoder())
    FaissIndex.of("flat", DenseRetriever(HashEncoder()).encode(["a"])).write(file)
    with pytest.raises(ValueError, match=r"of shape \(1, 16\), vectors of shape \(9, 16\)"):
        DenseRetriever.load(tmp_path, HashEncoder())


def test_a_file_that_cannot_be_written_leaves_the_version_before(tmp_path, monkeypatch):
    folder = built("flat", TEXTS[:3]).save(tmp_path)
    monkeypatch.setattr(dense, "_FAISS", "missing/faiss.index")
    with pytest.raises(OSError, match="faiss cannot write its index"):
        built("flat", TEXTS[:5]).save(folder)
    monkeypatch.undo()
    assert len(DenseRetriever.load(folder, HashEncoder())) == 3


def test_without_the_extra(monkeypatch, tmp_path):
    folder = built("flat", TEXTS[:3]).save(tmp_path)

    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(_optional, "import_module", missing)
    for act in (lambda: DenseRetriever(backend="hnsw"), lambda: DenseRetriever.load(folder, HashEncoder())):
        with pytest.raises(MissingExtra, match=r'faiss is not installed: pip install "fullrank\[faiss\]"'):
            act()


def test_bad_inputs(unchecked, tmp_path):
    with pytest.raises(ValueError, match="backend='annoy' is not known; accepted: exact, flat, hnsw, ivf"):
        DenseRetriever(backend="annoy")
    folder = built("exact", TEXTS[:3]).save(tmp_path)
    with pytest.raises(ValueError, match="backend='annoy' is not known"):
        DenseRetriever.load(folder, HashEncoder(), backend="annoy")
    with pytest.raises(ValueError, match="effort=0 is not accepted"):
        DenseRetriever(effort=0)
    retriever = built("flat", TEXTS[:3])
    with pytest.raises(LookupError, match="the index has no document 'x'; it has 3"):
        retriever.delete(["d0", "x"])
    with pytest.raises(ValueError, match="vectors has 1 rows for 2 queries; one each is needed"):
        retriever.search_vectors(["a", "b"], retriever.encode(["a"]))
    retriever._encoder = HashEncoder(8)
    with pytest.raises(ValueError, match="the encoder gives 8 numbers a text, the index holds 16"):
        retriever.add([Document("new", "a")])
