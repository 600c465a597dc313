"""The contract of a paper file: claims, verdicts, states."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.papers import Claim, Paper

from .toy import PAPER


def claim(id="one", **facts):
    return Claim(**({"id": id, "says": "It holds.", "source": "abstract", "needs": "a GPU"} | facts))


def paper(**facts):
    minimal = {
        "slug": "some-paper", "title": "Some paper", "authors": 1, "published": None, "arxiv": "2401.00001",
        "position": 0, "summary": "It says.", "topics": ("vision",), "claims": (claim(),),
    }  # fmt: skip
    return Paper(**(minimal | facts))


@pytest.mark.parametrize("id", ["", "Top1", "top_1", "top 1", "-top", "top-", "top--1", "../top", "top\n"])
def test_a_claims_id_is_kebab_case(id):
    with pytest.raises(ValueError, match="a claim's id is kebab-case, such as 'top1-imagenet'"):
        claim(id)


@pytest.mark.parametrize("needs", [None, ""])
def test_a_claim_is_tested_or_says_why_not(needs):
    with pytest.raises(ValueError, match=r"claim 'one': give `holds` .* or `needs`"):
        claim(needs=needs)


def test_ids_are_unique_in_a_paper():
    with pytest.raises(ValueError, match="'some-paper' has two claims named 'twice'"):
        paper(claims=(claim("twice"), claim("once"), claim("twice")))


def test_topics_are_known():
    with pytest.raises(ValueError, match=r"topics=\['knitting'\] of 'some-paper' are not known; accepted: attention, "):
        paper(topics=("vision", "knitting"))


@pytest.mark.parametrize("day", ["2024-02-30", "Feb 2024", ""])
def test_a_date_is_an_iso_date(day):
    with pytest.raises(ValueError, match=r"isoformat|day is out of range"):
        paper(published=day)


@settings(max_examples=30, deadline=None)
@given(value=st.floats(allow_nan=False), limit=st.floats(allow_nan=False))
def test_a_verdict_is_what_the_predicate_says(value, limit):
    tested = claim(holds=lambda number: number <= limit)
    assert tested.verdict(value) == ("reproduced" if value <= limit else "not reproduced")
    assert tested.verdict(None) == "not measured"
    assert claim().verdict(value) == "not measured"


def test_a_verdict_over_numbers_by_name():
    ordering = claim(holds=lambda accuracy: accuracy["ours"] > accuracy["theirs"])
    assert ordering.verdict({"ours": 2, "theirs": 1}) == "reproduced"
    assert ordering.verdict({"ours": 1, "theirs": 1}) == "not reproduced"


@pytest.mark.parametrize(
    ("verdicts", "state"),
    [
        (None, "not run"),
        ({}, "not run"),
        ({"sum": "not measured"}, "not run"),
        ({"sum": "reproduced", "large": "not measured"}, "reproduced"),
        ({"sum": "reproduced", "order": "not reproduced"}, "partly reproduced"),
        ({"sum": "not reproduced", "large": "not measured"}, "not reproduced"),
    ],
)
def test_the_state_is_computed_from_the_verdicts(verdicts, state):
    assert PAPER.state(verdicts) == state
    assert paper().state(verdicts) == "not built yet"


def test_a_paper_has_one_study():
    unbuilt = paper()
    assert not unbuilt.built
    with pytest.raises(LookupError, match="'some-paper' is not built yet"):
        unbuilt.run_study  # noqa: B018
    study = unbuilt.study(lambda trial: None)
    assert unbuilt.built
    assert unbuilt.run_study is study
    with pytest.raises(ValueError, match=r"'some-paper' has a study already: .*lambda"):
        unbuilt.study(lambda trial: None)


def test_a_claim_is_found_by_its_id():
    assert PAPER.claim("order").source == "Table 1"
    with pytest.raises(LookupError, match="'toy' has no claim 'nothing'; it has sum, order, small, large"):
        PAPER.claim("nothing")


def test_methods_that_do_not_exist_are_named():
    there = ("fullrank.papers.find", "fullrank.papers._paper.Paper")
    absent = ("fullrank.papers.find_nothing", "fullrank.papers._nothing.Paper")
    assert paper(methods=(*there, *absent)).missing_methods() == list(absent)


def test_the_module_is_the_slug_with_underscores():
    assert paper().module == "fullrank.papers.some_paper"
