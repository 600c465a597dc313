"""Every study at its smallest scale, as its reader runs it: each claim that can be tested is measured."""

import math
from collections.abc import Mapping

import pytest

from fullrank.papers import Result, catalogue, find, run


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("slug", [paper.slug for paper in catalogue() if paper.built])
def test_a_study_measures_what_its_claims_ask(slug, tmp_path):
    paper = find(slug)
    result = run(paper, "smoke", runs=tmp_path)
    assert Result.load(tmp_path / slug / result.run) == result
    testable = [claim.id for claim in paper.claims if claim.holds and not claim.needs]
    unmeasured = [claim for claim in testable if result.verdicts[claim] == "not measured"]
    assert unmeasured == []
    for claim in result.claims:
        assert claim.verdict == paper.claim(claim.id).verdict(claim.value)
        for stated in (claim.value, claim.spread):
            numbers = stated.values() if isinstance(stated, Mapping) else [stated] if stated is not None else []
            assert all(math.isfinite(number) for number in numbers)
    for svg in result.figures.values():
        assert (tmp_path / slug / result.run / svg).read_text().lstrip().startswith("<?xml")
