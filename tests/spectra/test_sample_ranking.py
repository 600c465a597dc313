import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank.spectra import SpectraReport, rank_samples, select_by_metric


def report(values: list[float], lengths: list[int], status: list[str] | None = None, metric: str = "effective_rank"):
    table = torch.tensor(values, dtype=torch.float64)[:, None, None].expand(-1, 2, 4).clone()
    count = len(values)
    losses = torch.zeros(count, dtype=torch.float64)
    return SpectraReport(
        tuple("qkvo"), {metric: table}, {}, torch.tensor(lengths), losses, tuple(status or ["ok"] * count)
    )


def grown_with_length(count: int = 60) -> tuple[list[float], list[int], list[float]]:
    """Ranks that length explains, but for a quality that does not depend on it."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 400, (count,), generator=generator)
    quality = torch.randn(count, generator=generator)
    return (4 * lengths.log() + 0.3 * quality).tolist(), lengths.tolist(), quality.tolist()


@pytest.mark.parametrize(
    ("metric", "best"), [("effective_rank", 1), ("stable_rank", 1), ("nuclear_norm", 0), ("frobenius", 0)]
)
def test_high_ranks_and_small_norms_come_first(metric, best):
    ranking = rank_samples(report([1.0, 3.0, 2.0], [9, 9, 9], metric=metric), metric, None)
    assert ranking.order == ((1, 2, 0) if best else (0, 2, 1))
    assert ranking.scores.argmax() == best
    assert ranking.length_correlation == 0


def test_the_residual_takes_the_length_away():
    values, lengths, quality = grown_with_length()
    plain = rank_samples(report(values, lengths), length_control=None)
    assert plain.length_correlation > 0.95
    for control in ("residual", "bin"):
        ranking = rank_samples(report(values, lengths), length_control=control)
        assert abs(ranking.length_correlation) < 0.3
        found, sought = ranking.scores, torch.tensor(quality, dtype=torch.float64)
        correlation = torch.corrcoef(torch.stack([found, sought]))[0, 1]
        assert correlation > torch.corrcoef(torch.stack([plain.scores, sought]))[0, 1] + 0.2


@settings(max_examples=20, deadline=None)
@given(
    values=st.lists(st.floats(1, 100), min_size=2, max_size=30),
    control=st.sampled_from(["residual", "bin", None]),
    scale=st.sampled_from([0.01, 3.0]),
)
def test_equal_lengths_leave_the_metric_itself(values, control, scale):
    ranking = rank_samples(report(values, [7] * len(values)), length_control=control)
    ordered = [values[index] for index in ranking.order]
    assert ordered == sorted(values, reverse=True)
    assert (
        rank_samples(report([scale * v for v in values], [7] * len(values)), length_control=control).order
        == ranking.order
    )


def test_samples_without_a_gradient_are_left_out():
    status = ["ok", "no_response_tokens", "ok", "zero_gradient"]
    ranking = rank_samples(report([1.0, 9.0, 2.0, math.nan], [5, 0, 6, 7], status), length_control=None)
    assert ranking.order == (2, 0)
    assert ranking.scores.isnan().tolist() == [False, True, False, True]
    with pytest.raises(ValueError, match="1 samples with a gradient: at least 2"):
        rank_samples(report([1.0, 2.0], [5, 6], ["ok", "zero_gradient"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "loss"}, "by='loss' does not order these samples; accepted: 'effective_rank'$"),
        ({"by": "nuclear_norm"}, "accepted: 'effective_rank'$"),
        ({"length_control": "none"}, 'length_control=\'none\' is not known; accepted: "residual", "bin", None'),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_rankings(options, message):
    with pytest.raises(ValueError, match=message):
        rank_samples(report([1.0, 2.0], [5, 6]), **options)


@settings(max_examples=20, deadline=None)
@given(
    scores=st.lists(st.one_of(st.floats(-2, 2), st.just(math.nan), st.none()), min_size=2, max_size=40),
    seed=st.integers(1, 5),
)
def test_the_ends_of_a_score(scores, seed):
    records = [{"id": index, "ifd": score} for index, score in enumerate(scores)]
    valid = sorted(score for score in scores if score is not None and 0 <= score <= 1)
    count = min(seed, len(valid) // 2)
    if count == 0:
        return
    ends = select_by_metric(records, "ifd", count, valid=lambda score: 0 <= score <= 1)
    assert [record["ifd"] for record in ends.low] == valid[:count]
    assert [record["ifd"] for record in ends.high] == valid[::-1][:count]
    assert not {record["id"] for record in ends.low} & {record["id"] for record in ends.high}


def test_any_function_scores_any_record():
    assert select_by_metric(["aaa", "b", "cc"], len, 1) == (["aaa"], ["b"])


def test_the_ends_of_equal_scores_are_apart():
    ends = select_by_metric([{"id": index, "score": 1.0} for index in range(5)], "score", 2)
    assert not {record["id"] for record in ends.low} & {record["id"] for record in ends.high}


@pytest.mark.parametrize(
    ("records", "options", "message"),
    [
        (
            [{"x": 1.0}] * 3,
            {"key": "x", "count": 2},
            "3 of 3 records have a valid score, but two ends of count=2 need 4",
        ),
        ([{"x": math.inf}] * 4, {"key": "x", "count": 2}, "0 of 4 records"),
        ([{"x": 1.0}, {"y": 1.0}], {"key": "x", "count": 1}, "record 1 has no 'x'"),
        ([{"x": 1.0}], {"key": "x", "count": 0}, "count=0: at least 1"),
    ],
)
def test_bad_selections(records, options, message):
    with pytest.raises(ValueError, match=message):
        select_by_metric(records, **options)
