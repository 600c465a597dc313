import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest

from fullrank.papers import Mode, _search, catalogue, search
from fullrank.search import DenseRetriever

PARAPHRASES: dict[str, str] = json.loads((Path(__file__).parent / "paraphrases.json").read_text(encoding="utf-8"))
MODES: tuple[Mode, ...] = get_args(Mode)
QUERY = "fine-tune with few parameters"


@pytest.fixture(scope="module", autouse=True)
def users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's cache that is empty at first."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        _search._semantic.cache_clear()
        yield folder
        _search._semantic.cache_clear()


@pytest.fixture
def another_start(users_cache: Path) -> Iterator[Path]:
    """The next search is like the first one of a new process; the folder of the kept vectors."""
    search(QUERY)
    _search._semantic.cache_clear()
    yield _search._vectors_folder([_search._document(paper) for paper in catalogue()])
    _search._semantic.cache_clear()


def found(query: str, k: int = 10, mode: Mode = "hybrid") -> list[tuple[str, float, float | None]]:
    return [(hit.paper.slug, hit.score, hit.cosine) for hit in search(query, k, mode)]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def test_there_is_a_paraphrase_of_every_paper_and_none_quotes_the_title():
    assert set(PARAPHRASES) == {paper.slug for paper in catalogue()}
    for paper in catalogue():
        asked, title = words(PARAPHRASES[paper.slug]), words(paper.title)
        assert not set(pairwise(asked)) & set(pairwise(title)), paper.slug
        assert paper.slug not in PARAPHRASES[paper.slug].lower(), paper.slug


def reciprocal_rank(slug: str, mode: Mode) -> float:
    """Of the paper that is meant among the first ten; 0 where it is not among them."""
    slugs = [hit.paper.slug for hit in search(PARAPHRASES[slug], 10, mode)]
    return 1 / (slugs.index(slug) + 1) if slug in slugs else 0.0


def test_papers_are_found_by_paraphrase():
    """Fusion is at least about as good as the better of what it fuses."""
    found = {mode: [reciprocal_rank(slug, mode) for slug in PARAPHRASES] for mode in MODES}
    mean = {mode: sum(values) / len(values) for mode, values in found.items()}
    assert mean["hybrid"] >= max(mean["keyword"], mean["semantic"]) - 0.02, mean
    assert mean["hybrid"] >= 0.9, mean
    assert sum(value >= 1 / 5 for value in found["hybrid"]) >= len(PARAPHRASES) - 1, found["hybrid"]


@pytest.mark.parametrize("mode", MODES)
def test_hits_are_in_order_and_the_same_every_time(mode):
    hits = search("low-rank adapters for transformers", 7, mode)
    assert len({hit.paper.slug for hit in hits}) == 7
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert search("low-rank adapters for transformers", 7, mode) == hits
    assert search("low-rank adapters for transformers", 3, mode) == hits[:3]


def test_a_hit_says_why_it_was_found():
    hits = {mode: search("wavelet adapters of zebras", 38, mode) for mode in MODES}
    first = hits["hybrid"][0]
    assert first.paper.slug == "wara"
    assert "wavelet" in first.terms
    assert {term for hit in hits["hybrid"] for term in hit.terms} <= {"wavelet", "adapters"}
    assert all(hit.terms and hit.cosine is None for hit in hits["keyword"])
    assert all(hit.cosine == hit.score and -1.001 <= hit.score <= 1.001 for hit in hits["semantic"])
    cosines = {hit.paper.slug: hit.cosine for hit in hits["semantic"]}
    assert {hit.paper.slug: hit.cosine for hit in hits["hybrid"]} == cosines
    ranks = [[hit.paper.slug for hit in hits[mode]].index("wara") + 1 for mode in ("keyword", "semantic")]
    assert first.score == pytest.approx(sum(1 / (60 + rank) for rank in ranks))


def test_words_that_no_paper_holds():
    assert search("zebra", mode="keyword") == []
    assert len(search("zebra", 38, "semantic")) == len(search("zebra", 38)) == 38
    assert [hit.terms for hit in search("zebra", 3)] == [()] * 3


@pytest.mark.parametrize("mode", MODES)
def test_more_hits_than_papers(mode):
    hits = search("rank", 10_000, mode)
    assert 1 <= len(hits) <= 38
    assert len({hit.paper.slug for hit in hits}) == len(hits)


@pytest.mark.parametrize(
    "query", ["\ud800 rank", "rank\x00", "<b>rank</b>", "rank " * 5_000, "秩 rank", "'; DROP TABLE"]
)
def test_any_text_is_a_query(query):
    assert search(query, 3)


@pytest.mark.parametrize("query", ["", "  \n\t"])
def test_a_blank_query(query):
    with pytest.raises(ValueError, match="asks for nothing; give some words"):
        search(query)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [0, -3])
def test_k_below_one(k, mode):
    with pytest.raises(ValueError, match=f"k={k} is not accepted; at least 1"):
        search("rank", k, mode)


def test_an_unknown_mode(unchecked):
    with pytest.raises(ValueError, match="mode='fuzzy' is not known; accepted: hybrid, keyword, semantic"):
        search("rank", mode="fuzzy")  # pyright: ignore[reportArgumentType]


def test_the_vectors_are_made_once(another_start, users_cache, monkeypatch):
    def made_again(self, documents):
        raise AssertionError("the kept vectors are not used")

    before = found(QUERY)
    _search._semantic.cache_clear()
    monkeypatch.setattr(DenseRetriever, "build", made_again)
    assert found(QUERY) == before
    assert list((users_cache / "fullrank" / "papers").iterdir()) == [another_start]


@pytest.mark.parametrize("file", ["retriever.json", "vectors.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "half"])
def test_damaged_vectors_are_made_anew_and_kept(another_start, file, damage):
    before = found(QUERY)
    _search._semantic.cache_clear()
    (path,) = another_start.rglob(file)
    content = path.read_bytes()
    path.unlink()
    if damage == "half":
        path.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="the vectors of the papers are made anew: .*build"):
        assert found(QUERY) == before
    _search._semantic.cache_clear()
    assert found(QUERY) == before, "and now without a warning"


def test_a_cache_that_cannot_be_written(another_start, tmp_path, monkeypatch):
    before = found(QUERY)
    _search._semantic.cache_clear()
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="the vectors of the papers cannot be kept, so each start makes them: "):
        assert found(QUERY) == before


def test_other_texts_have_other_vectors(another_start):
    documents = [_search._document(paper) for paper in catalogue()]
    assert _search._vectors_folder(documents) == another_start
    assert _search._vectors_folder(documents[1:]) != another_start
