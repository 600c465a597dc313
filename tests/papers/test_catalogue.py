"""The catalogue beside the facts of the page."""

import json
from datetime import date, datetime
from pathlib import Path

import pytest

from fullrank.papers import TOPICS, UnknownPaper, catalogue, find

PAGE = json.loads((Path(__file__).parent / "page.json").read_text())
FACTS = PAGE["papers"]
SLUGS = [fact["slug"] for fact in FACTS]
BUILT = [paper.slug for paper in catalogue() if paper.built]


def published(text: str) -> date:
    """A date of the page; dates without a year are of the year before the page was seen, 2025."""
    return datetime.strptime(text if "," in text else f"{text}, 2025", "%b %d, %Y").date()


def test_the_catalogue_is_the_page_in_its_order():
    assert [paper.slug for paper in catalogue()] == SLUGS
    assert [paper.position for paper in catalogue()] == list(range(38))


@pytest.mark.parametrize("fact", FACTS, ids=SLUGS)
def test_facts_are_those_of_the_page(fact):
    paper = find(fact["slug"])
    assert paper.title == fact["title"]
    assert paper.authors == fact["authors"]
    assert paper.comments == fact["comments"]
    assert paper.arxiv == fact["arxiv_id"]
    assert paper.published == (fact["date"] and published(fact["date"]).isoformat())
    assert paper.project_page == fact["project_page"]
    assert fact["repository"] in (None, paper.repository)


@pytest.mark.parametrize("slug", SLUGS)
def test_a_paper_file_is_whole(slug):
    paper = find(slug)
    assert paper.summary
    assert 1 <= len(set(paper.topics)) == len(paper.topics)
    assert set(paper.topics) <= set(TOPICS)
    assert paper.claims
    for claim in paper.claims:
        assert claim.says
        assert claim.source
        assert claim.holds is not None or claim.needs
    compile(paper.usage, f"usage of {slug}", "exec")


@pytest.mark.parametrize("slug", BUILT)
def test_a_built_paper_has_methods_usage_and_testable_claims(slug):
    paper = find(slug)
    assert paper.methods
    assert paper.missing_methods() == []
    assert "fullrank" in paper.usage
    assert any(claim.holds for claim in paper.claims)


def test_some_papers_are_built():
    assert {"rankme", "gradient-spectra"} <= set(BUILT)


def test_topics_are_used():
    assert {topic for paper in catalogue() for topic in paper.topics} == set(TOPICS)


@pytest.mark.parametrize("name", ["x-lora", " X_LoRA ", "2402.07148", "arXiv:2402.07148v2"])
def test_a_paper_is_found_by_slug_and_arxiv_identifier(name):
    assert find(name).slug == "x-lora"


@pytest.mark.parametrize(
    ("typo", "nearest"), [("rankm", "rankme"), ("fwvsd", "fwsvd"), ("spectra", "gradient-spectra")]
)
def test_an_unknown_slug_suggests_the_nearest(typo, nearest):
    with pytest.raises(UnknownPaper, match=f"there is no paper '{typo}'; did you mean .*{nearest}"):
        find(typo)


@pytest.mark.parametrize("name", ["", "zzzz", "0000.00000"])
def test_a_slug_far_from_all_points_to_the_list(name):
    with pytest.raises(UnknownPaper, match="`fullrank papers` lists them all"):
        find(name)
