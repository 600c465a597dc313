import copy
import itertools
import math
import pickle
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank import _optional
from fullrank._optional import MissingExtra
from fullrank.search import Analyzer, BM25Retriever, Document, Retriever

from .conftest import collection

VARIANTS = ["robertson", "lucene", "atire", "bm25l", "bm25+"]


def idf(variant: str, N: int, df: int) -> float:
    """Table 1 of Kamphuis et al. (2020); the original's is cut off at 0, as libraries do."""
    match variant:
        case "robertson":
            return max(0.0, math.log((N - df + 0.5) / (df + 0.5)))
        case "lucene":
            return math.log(1 + (N - df + 0.5) / (df + 0.5))
        case "atire":
            return math.log(N / df)
        case "bm25l":
            return math.log((N + 1) / (df + 0.5))
    return math.log((N + 1) / df)


def frequency(variant: str, tf: int, k1: float, norm: float, delta: float) -> float:
    """The part of Table 1 that a document's term frequency enters; norm is 1 - b + b L / L_avg."""
    if tf == 0 and variant in ("robertson", "lucene", "atire"):
        return 0.0
    match variant:
        case "robertson" | "lucene":
            return tf / (tf + k1 * norm)
        case "atire":
            return (k1 + 1) * tf / (tf + k1 * norm)
        case "bm25l":
            c = tf / norm
            return (k1 + 1) * (c + delta) / (k1 + c + delta)
    return delta + (k1 + 1) * tf / (tf + k1 * norm)


def reference(variant, texts, query, k1, b, delta=0.5):
    """Scores of the documents that hold a term; every other term counts with tf = 0."""
    bags = [Counter(text.split()) for text in texts]
    average = sum(bag.total() for bag in bags) / len(bags)
    terms = [term for term in query.split() if any(term in bag for bag in bags)]
    return {
        f"d{number}": sum(
            idf(variant, len(bags), sum(term in bag for bag in bags))
            * frequency(variant, bag[term], k1, 1 - b + b * bag.total() / average, delta)
            for term in terms
        )
        for number, bag in enumerate(bags)
        if any(term in bag for term in terms)
    }


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (2.0, 0.0), (0.01, 1.0)])
def test_scores_are_those_of_the_formula(documents, variant, k1, b):
    texts = [document.text for document in documents]
    retriever = BM25Retriever(variant, k1, b, stopwords=None).build(documents)
    for query in ("rank", "rank matrix", "matrix rank rank unknown", "quickly inside cats"):
        expected = reference(variant, texts, query, k1, b)
        assert retriever.search(query, 100)["0"] == pytest.approx(expected, rel=1e-5, abs=1e-6), query


@pytest.mark.parametrize("variant", ["bm25l", "bm25+"])
def test_what_is_added_to_a_frequency_is_ones_own(documents, variant, tmp_path):
    built = BM25Retriever(variant, stopwords=None, delta=1.0).build(documents)
    expected = reference(variant, [document.text for document in documents], "rank matrix", 1.2, 0.75, delta=1.0)
    assert built.search("rank matrix")["0"] == pytest.approx(expected, rel=1e-5)
    opened = BM25Retriever.load(built.save(tmp_path / "index"))
    assert opened.search("rank matrix") == built.search("rank matrix")
    with pytest.raises(ValueError, match="delta=0 is not accepted; it is above 0"):
        BM25Retriever(variant, delta=0)


@pytest.mark.parametrize("variant", VARIANTS[:4])
def test_without_saturation_only_presence_counts(documents, variant):
    retriever = BM25Retriever(variant, k1=0.0, stopwords=None).build(documents)
    expected = reference(variant, [document.text for document in documents], "rank matrix", 0.0, 0.75)
    assert retriever.search("rank matrix")["0"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore:quer.* no tokens to search for")
@settings(max_examples=25, deadline=None)
@given(
    variant=st.sampled_from(VARIANTS),
    texts=st.lists(st.lists(st.sampled_from(["aa", "bb", "cc", "dd"]), max_size=6).map(" ".join), min_size=1),
    query=st.lists(st.sampled_from(["aa", "bb", "ee"]), max_size=4).map(" ".join),
    k=st.integers(1, 4),
)
def test_the_k_best_of_any_collection(variant, texts, query, k):
    if not any(texts):
        texts = [*texts, "dd"]
    retriever = BM25Retriever(variant, stopwords=None).build(collection(texts))
    everything = retriever.search(query, len(texts))
    assert everything["0"] == pytest.approx(reference(variant, texts, query, 1.2, 0.75), rel=1e-4, abs=1e-5)
    assert list(retriever.search(query, k)["0"].items()) == everything.ranking("0", k)


def test_it_is_a_retriever_and_queries_come_in_three_forms(documents):
    retriever = BM25Retriever().build(documents)
    assert isinstance(retriever, Retriever)
    alone = retriever.search("rank")["0"]
    assert retriever.search(["rank", "cats"]) == {"0": alone, "1": retriever.search("cats")["0"]}
    assert retriever.search({"first": "rank"}) == {"first": alone}
    assert retriever.search([]) == {}


def test_results_stand_in_order(documents):
    found = BM25Retriever().build(documents).search("matrix rank", 2)
    assert list(found["0"]) == [document for document, _ in found.ranking("0")] == ["d0", "d1"]


def test_more_results_than_documents(documents):
    assert set(BM25Retriever().build(documents).search("rank matrix", 1000)["0"]) == {"d0", "d1", "d2", "d3"}


def test_an_unknown_term_finds_nothing(documents):
    assert BM25Retriever().build(documents).search({"q": "zebra"}) == {"q": {}}


@pytest.mark.parametrize("query", ["", "  \n", "a", "the of", "?!", "\x00"])
def test_no_term_no_result(documents, query):
    with pytest.warns(UserWarning, match="^query 'q' has no tokens to search for, and so no results$") as told:
        assert BM25Retriever().build(documents).search({"q": query}) == {"q": {}}
    assert len(told) == 1


def test_queries_without_terms_are_told_of_at_once(documents):
    retriever = BM25Retriever().build(documents)
    with pytest.warns(UserWarning, match="queries 'a', 'c' have no tokens to search for") as told:
        found = retriever.search({"a": "", "b": "rank", "c": "the"})
    assert (len(told), found["b"] == retriever.search("rank")["0"]) == (1, True)
    with pytest.warns(UserWarning, match="'0', .*'9' and 2 more have no tokens"):
        retriever.search([""] * 12)


def test_titles_are_searched():
    retriever = BM25Retriever().build([Document("x", "text", title="Wavelets"), Document("y", "text")])
    assert list(retriever.search("wavelets")["0"]) == ["x"]


@pytest.mark.filterwarnings("ignore:quer.* no tokens to search for")
def test_stop_words():
    documents = collection(["the rank", "der rang", "rank"])
    assert BM25Retriever().build(documents).search("the")["0"] == {}
    assert set(BM25Retriever(stopwords=None).build(documents).search("the")["0"]) == {"d0"}
    german = BM25Retriever(stopwords="de").build(documents)
    assert (german.search("der")["0"], set(german.search("the")["0"])) == ({}, {"d0"})


def test_equal_scores_are_ordered_by_document_id_at_every_depth():
    retriever = BM25Retriever().build(collection(["rank matrix"] * 12))
    order = sorted((f"d{number}" for number in range(12)), reverse=True)
    for k in (1, 3, 11, 12, 50):
        assert list(retriever.search("rank", k)["0"]) == order[:k]


def test_a_term_of_most_documents_finds_them_though_it_weighs_nothing():
    assert BM25Retriever("robertson").build(collection(["rank"] * 3)).search("rank")["0"] == dict.fromkeys(
        ["d2", "d1", "d0"], 0.0
    )


def test_matched_terms():
    retriever = BM25Retriever()
    document = Document("x", "Ranks of the matrix", title="Rank")
    assert retriever.matched_terms("the MATRIX rank, matrix tensor", document) == ["matrix", "rank"]
    assert retriever.matched_terms("", document) == []


def test_building_again_replaces_what_was_indexed(documents):
    retriever = BM25Retriever().build(documents)
    retriever.build([Document("new", "rank")])
    assert list(retriever.search("rank matrix")["0"]) == ["new"]


@pytest.mark.filterwarnings("ignore:quer.* no tokens to search for")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_loaded_index_finds_the_same(documents, variant, tmp_path):
    built = BM25Retriever(variant, k1=0.9, b=0.4, stopwords=None).build(documents)
    queries = ["matrix rank", "the cats", "zebra", ""]
    loaded = BM25Retriever.load(built.save(tmp_path / "new" / "index"))
    assert loaded.search(queries) == built.search(queries)
    assert (loaded.variant, loaded.k1, loaded.b, loaded.stopwords) == (variant, 0.9, 0.4, None)
    again = BM25Retriever.load(loaded.save(tmp_path / "new" / "index"))  # over the files that it reads from
    assert again.search(queries) == built.search(queries) == loaded.search(queries)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": -0.1}, "k1=-0.1 is not accepted; it is 0 or more"),
        ({"variant": "bm25+", "k1": 0.0}, r"k1=0 is not accepted for bm25\+"),
        ({"b": 1.5}, "b=1.5 is not accepted; it is from 0 to 1"),
        ({"stopwords": "klingon"}, "klingon"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        BM25Retriever(**options)


def test_an_unknown_variant(unchecked):
    with pytest.raises(ValueError, match="variant='okapi' is not known; accepted: robertson, lucene, atire, bm25l"):
        BM25Retriever("okapi")  # pyright: ignore[reportArgumentType]


def test_bad_collections(documents):
    with pytest.raises(ValueError, match="leaves nothing to index"):
        BM25Retriever().build([])
    with pytest.raises(ValueError, match="two documents have the id 'd0'"):
        BM25Retriever().build([*documents, documents[0]])
    with pytest.raises(ValueError, match="none of the 2 documents holds a word to index"):
        BM25Retriever().build([Document("x", "the"), Document("y", "")])


def test_bad_searches(documents):
    with pytest.raises(RuntimeError, match=r"nothing is indexed yet: call build\(documents\) or load\(folder\)"):
        BM25Retriever().search("rank")
    with pytest.raises(RuntimeError, match="nothing is indexed yet"):
        BM25Retriever().save("nowhere")
    with pytest.raises(ValueError, match="k=0 is not accepted"):
        BM25Retriever().build(documents).search("rank", 0)


def test_without_the_extra(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(_optional, "import_module", missing)
    with pytest.raises(MissingExtra, match=r'bm25s is not installed: pip install "fullrank\[search\]"'):
        BM25Retriever()


@pytest.mark.golden("rankify", kind="bm25")
def test_agrees_with_bm25s_and_the_independent_derivation(case):
    spec, known = case.spec, case.tensors
    words, starts = spec["vocabulary"], known["doc_ptr"].tolist()
    pairs = list(zip(known["doc_term"].tolist(), known["doc_count"].tolist(), strict=True))
    # In both libraries an empty document has one term that nothing else has.
    texts = [
        " ".join(word for term, count in pairs[begin:end] for word in [words[term]] * count) or f"empty{number}"
        for number, (begin, end) in enumerate(itertools.pairwise(starts))
    ]
    documents = [Document(f"{number:04d}", text) for number, text in enumerate(texts)]
    columns = {"bm25+": "bm25plus"} | {name: name for name in VARIANTS[:4]}
    for variant, column in columns.items():
        retriever = BM25Retriever(variant, spec["k1"], spec["b"], analyzer=str.split, delta=spec["delta"]).build(
            documents
        )
        for number, query in enumerate(spec["query_terms"]):
            found = retriever.search(" ".join(query), len(documents))["0"]
            expected = known[f"bm25s_{column}"][number].tolist()
            for document, score in zip(documents, expected, strict=True):
                if document.id in found:
                    assert found[document.id] == pytest.approx(score, rel=spec["tolerance"], abs=spec["tolerance"])
                    parts = retriever.explain(" ".join(query), document.id)
                    assert sum(parts.values()) == pytest.approx(score, rel=spec["tolerance"], abs=spec["tolerance"])
                else:  # without any of the terms, only what every document gets
                    assert not set(query) & set(document.text.split())
    independent = BM25Retriever("lucene", spec["k1"], spec["b"], analyzer=str.split).build(documents)
    for number, query in enumerate(spec["query_terms"]):
        found = independent.search(" ".join(query), len(documents))["0"]
        expected = known["independent_lucene"][number].tolist()
        assert [found.get(document.id, 0.0) for document in documents] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    variant=st.sampled_from(VARIANTS),
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "delete"]), st.lists(st.integers(0, 9), max_size=4, unique=True)), max_size=5
    ),
)
def test_an_index_that_grew_and_shrank_is_one_that_was_built_at_once(variant, steps):
    texts = ["aa bb", "bb bb cc", "", "cc", "aa aa aa dd", "dd cc bb", "ee", "aa ee", "bb", "cc cc ee aa"]
    present = {"0": "aa bb"}
    grown = BM25Retriever(variant, stopwords=None).build([Document("0", "aa bb")])
    for action, numbers in steps:
        if action == "add":
            new = {str(number): texts[number] + " bb" * (str(number) in present) for number in numbers}
            grown.add(Document(id, text) for id, text in new.items())
            present |= new
        else:
            gone = [str(number) for number in numbers if str(number) in present]
            if len(gone) < len(present):
                grown.delete(gone)
                present = {id: text for id, text in present.items() if id not in gone}
    if not any(present.values()):
        return
    at_once = BM25Retriever(variant, stopwords=None).build([Document(id, text) for id, text in present.items()])
    assert len(grown) == len(at_once) == len(present)
    for query in ("aa", "bb cc", "aa aa ee zz"):
        assert grown.search(query, 20)["0"] == pytest.approx(at_once.search(query, 20)["0"])
    assert {id: document.text for id, document in grown.documents.items()} == present


def test_changes_are_saved_beside_what_stays(documents, tmp_path):
    folder = BM25Retriever().build(documents).save(tmp_path / "index")
    opened = BM25Retriever.load(folder)
    before = {file.stat().st_ino for file in folder.rglob("texts.bin")}
    opened.add([Document("new", "rank of tensors", metadata={"year": 2024})]).delete(["d4"]).save(folder)
    after = {file.stat().st_ino for file in folder.rglob("texts.bin")}
    assert not before & after  # the first part lost a document, so it was written anew
    again = BM25Retriever.load(folder)
    assert set(again.search("rank tensors", 9)["0"]) >= {"new", "d0", "d1"}
    assert again.documents["new"].metadata == {"year": 2024}
    assert "d4" not in again.documents
    again.add([Document("newer", "rank")]).save(folder)
    kept = {file.stat().st_ino for file in folder.rglob("texts.bin")}
    assert len(kept) == 2  # the two additions are one part
    assert len(kept & after) == 1
    with pytest.raises(ValueError, match="two documents have the id 'x'"):
        again.add([Document("x", "one"), Document("x", "two")])
    assert "x" not in again.documents
    with pytest.raises(LookupError, match="no document 'gone'; it has 7"):
        again.delete(["gone"])
    with pytest.raises(LookupError, match="no document 'gone'"):
        again.explain("rank", "gone")


def test_parts_on_disk_while_it_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr(BM25Retriever, "segment_size", 3)
    documents = collection([f"rank number{number}" for number in range(8)])
    built = BM25Retriever().build(iter(documents), scratch=tmp_path / "scratch")
    assert len(list((tmp_path / "scratch").iterdir())) == 3
    assert built.search("number7 rank", 99) == BM25Retriever().build(documents).search("number7 rank", 99)
    loaded = BM25Retriever.load(built.save(tmp_path / "index"))
    assert loaded.search("number7")["0"].keys() == {"d7"}


def test_an_index_can_be_copied_and_pickled(documents, tmp_path):
    built = BM25Retriever(stemming="en").build(documents)
    opened = BM25Retriever.load(built.save(tmp_path))
    for retriever in (built, opened):
        for other in (copy.deepcopy(retriever), pickle.loads(pickle.dumps(retriever))):
            assert other.search("matrix rank") == built.search("matrix rank")
            assert other.add([Document("new", "rank")]).documents["new"].text == "rank"
            assert "new" not in retriever.documents


@pytest.mark.parametrize("sparse", [0, 10**9])
@pytest.mark.parametrize("variant", ["lucene", "bm25+"])
def test_both_ways_to_sum_give_the_same(sparse, variant, documents, monkeypatch):
    built = BM25Retriever(variant).build(documents)
    queries = ["rank matrix", "matrix matrix rank cats", "sleep values", "cats", "none of these"]
    expected = built.search(queries)
    monkeypatch.setattr("fullrank.search.inverted_index._SPARSE", sparse)
    for id, scores in built.search(queries).items():
        assert scores == pytest.approx(expected[id], rel=1e-12)
        assert list(scores) == list(expected[id])


@pytest.mark.parametrize(("limit", "value"), [("_KEPT_TERMS", 2), ("_KEPT_TERMS", 0), ("_KEPT_POSTINGS", 2)])
def test_what_is_kept_of_queries_is_bounded(limit, value, documents, monkeypatch):
    queries = ["rank matrix", "matrix rank", "cats rank", "sleep values"] * 2
    expected = BM25Retriever().build(documents).search(queries)
    monkeypatch.setattr(f"fullrank.search.bm25.{limit}", value)
    built = BM25Retriever().build(documents)
    assert built.search(queries) == expected
    assert len(built._kept) <= 2
    assert built._kept_postings == sum(len(places) for places, _, _ in built._kept.values())


def test_an_id_twice_is_found_between_parts_too(monkeypatch):
    monkeypatch.setattr(BM25Retriever, "segment_size", 2)
    documents = [*collection([f"rank number{number}" for number in range(5)]), Document("d1", "again")]
    with pytest.raises(ValueError, match="two documents have the id 'd1'"):
        BM25Retriever().build(documents)


def test_stemming_and_scripts_without_spaces():
    retriever = BM25Retriever(stemming="en").build(collection(["ranking matrices", "ranked lists", "北京的天气很好"]))
    assert set(retriever.search("ranks")["0"]) == {"d0", "d1"}
    assert set(retriever.search("天气")["0"]) == {"d2"}
    assert set(retriever.search("ｒａｎｋ")["0"]) == {"d0", "d1"}
    with pytest.raises(ValueError, match="stemming='klingon' is not known; accepted: ar, da, de"):
        BM25Retriever(stemming="klingon")


def test_words_keep_the_marks_of_their_letters():
    texts = ["हिन्दी भाषा में खोज", "தமிழ் மொழி", "বাংলা ভাষা", "සිංහල භාෂාව", "עִבְרִית שָׁלוֹם", "Cafe\u0301 x\u0308y"]
    retriever = BM25Retriever().build(collection(texts))
    for number, text in enumerate(texts):
        for word in text.split():
            assert set(retriever.search(word)["0"]) == {f"d{number}"}, word
    assert Analyzer().terms("हिन्दी में, भाषा।") == ["हिन्दी", "में", "भाषा"]


def test_scripts_of_south_east_asia_without_spaces():
    texts = ["วันนี้อากาศดีมาก", "ມື້ນີ້ອາກາດດີ", "နေ့လည်စာ", "ថ្ងៃនេះអាកាសធាតុល្អ។"]
    retriever = BM25Retriever().build(collection(texts))
    for number, word in enumerate(["อากาศ", "ອາກາດ", "လည်", "អាកាស"]):
        assert set(retriever.search(word)["0"]) == {f"d{number}"}
    assert Analyzer().terms("๒๕๖๗ ๚") == ["๒๕๖๗"]  # digits and signs are none of the letters


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_has_the_words_that_it_has_within_other_text(text):
    assert Analyzer().words(f"{text} größer") == [*Analyzer().words(text), "größer"]


def test_an_analyzer_of_ones_own_is_given_again(tmp_path):
    built = BM25Retriever(analyzer=str.split).build(collection(["A b", "c"]))
    folder = built.save(tmp_path)
    assert BM25Retriever.load(folder, analyzer=str.split).search("A") == built.search("A")
    with pytest.raises(ValueError, match=r"load\(folder, analyzer=...\)"):
        BM25Retriever.load(folder)


def test_a_gigantic_document():
    retriever = BM25Retriever().build([Document("big", "rank matrix " * 200_000), Document("small", "rank")])
    assert list(retriever.search("rank")["0"]) == ["big", "small"]
