"""Verdicts that follow from what was measured: the value beside the claim, and a value that would refute it."""

import pytest

from fullrank.papers import Result, catalogue, find, results_folder

CLOSE_CALLS = {
    ("x-lora", "oracle-is-out-of-reach"): (0.26, 0.67),  # the share of the gap that the gate closes
    ("loca", "chosen-cells-beat-random"): (
        {"chosen": 0.92, "low rank": 0.98, "random": 0.99},
        {"chosen": 0.92, "low rank": 0.98, "random": 0.95},
    ),
    ("hydra", "selection-on-the-test-set"): (
        {"best on test": 86.3, "chosen on validation": 85.9},
        {"best on test": 86.3, "chosen on validation": 86.2},
    ),
    ("loldu", "fewer-parameters"): ({"LLaMA2-7B shapes": 2620.0}, {"LLaMA2-7B shapes": 2040.0}),
    ("sesa", "explanations-are-faithful"): ({"SESA": 0.86, "chance": 1 / 35}, {"SESA": 0.3, "chance": 1 / 35}),
    ("g-rank", "no-central-data"): (
        {"start": 112.0, "end": 7.4, "end, over TCP with churn": 0.0},
        {"start": 112.0, "end": 100.0, "end, over TCP with churn": 0.0},
    ),
    ("g-rank", "converges"): (  # steadily, but hardly at all
        {"rho": -0.99, "left at the end": 0.1},
        {"rho": -0.99, "left at the end": 0.95},
    ),
    ("g-rank", "recovers-from-attack"): (  # the targeted attack does no damage
        {"start": 112.0, "targeted rise": 8.0, "inflation rise": 26.0, "targeted peak": 22.0, "inflation peak": 40.0},
        {"start": 112.0, "targeted rise": 0.1, "inflation rise": 26.0, "targeted peak": 14.0, "inflation peak": 40.0},
    ),
    ("g-rank", "epic-is-worst"): (  # the distance goes on rising
        {"epic before": 14.0, "epic half-way": 70.0, "epic": 75.0, "targeted": 8.0, "inflation": 40.0},
        {"epic before": 14.0, "epic half-way": 49.0, "epic": 73.0, "targeted": 8.0, "inflation": 40.0},
    ),
    ("rankify", "reranking-reaches-the-answer"): (0.34, 0.01),
    ("g-rank", "onset-of-damage"): ({"F=0": 800.0, "F=1": 590.0}, {"F=0": 900.0, "F=1": 900.0}),  # no damage at all
    ("less-vit", "latency-in-channels"): (
        {"LESS exponent": 1.1, "joint attention exponent": 1.8},
        {"LESS exponent": 1.5, "joint attention exponent": 1.8},
    ),
}


@pytest.mark.parametrize(("slug", "claim"), CLOSE_CALLS)
def test_a_measurement_can_refute_the_claim(slug, claim):
    holds, fails = CLOSE_CALLS[slug, claim]
    assert find(slug).claim(claim).verdict(holds) == "reproduced"
    assert find(slug).claim(claim).verdict(fails) == "not reproduced"


def test_a_later_onset_within_the_noise_of_its_runs_is_none():
    assert find("g-rank").claim("onset-of-damage").verdict({"F=0": 622.0, "F=1": 589.0}) == "not reproduced"


@pytest.mark.parametrize("epic", [41.0, 48.0])
def test_an_epic_attack_that_is_hardly_worse_is_not_clearly_worse(epic):
    level = {"epic before": 14.0, "epic half-way": epic, "epic": epic, "targeted": 8.0, "inflation": 40.0}
    assert find("g-rank").claim("epic-is-worst").verdict(level) == "not reproduced"


def test_peaks_above_the_start_or_alike_refute_the_recovery():
    rise = {"start": 112.0, "targeted rise": 8.0, "inflation rise": 26.0}
    recovers = find("g-rank").claim("recovers-from-attack")
    assert recovers.verdict(rise | {"targeted peak": 22.0, "inflation peak": 120.0}) == "not reproduced"
    assert recovers.verdict(rise | {"targeted peak": 40.0, "inflation peak": 40.0}) == "not reproduced"


def test_less_vit_is_not_called_competitive_for_missing_bands():
    paper = find("less-vit")
    assert paper.claim("cheaper-and-competitive").holds is None
    assert paper.claim("missing-bands-cost-less").verdict({"LESS": 0.2, "stacked ViT": 0.1}) == "not reproduced"


KEPT = sorted(file.parent for file in results_folder().glob("*/*/result.json"))


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: "-".join(folder.parts[-2:]))
def test_a_kept_result_belongs_to_the_claims_of_now(folder):
    kept = Result.load(folder)
    assert kept.verdicts == kept.recomputed(find(folder.parent.name)).verdicts


def test_every_built_paper_has_a_kept_result():
    assert {paper.slug for paper in catalogue() if paper.built} <= {folder.parent.name for folder in KEPT}
