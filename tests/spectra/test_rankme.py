import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fullrank import spectra
from fullrank.spectra import (
    RankMe,
    RankMeScorer,
    Spectrum,
    effective_rank,
    power_law_exponent,
    rankme,
    select_by_rankme,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*RankMe cannot exceed", "ignore:.*common offset")


@pytest.mark.golden("rankme")
def test_golden(case):
    """Every matrix of the case: the value at three eps, centred, on covariance eigenvalues, and its companions."""
    tensors, rtol = case.tensors, case.spec["tolerance"]["rtol"]
    for name, expected in case.spec["cases"].items():
        Z = tensors[f"{name}.Z"]
        assert list(Z.shape) == expected.pop("shape")
        values = Spectrum.of(Z.double()).values
        reference = tensors[f"{name}.singular_values"]
        torch.testing.assert_close(values, reference, rtol=rtol, atol=1e-6 * float(reference[0]))
        metric = RankMe()
        for batch in Z.split(100):
            metric.update(batch)
        report = metric.report()
        found = {
            "rankme_eps1e_7": [float(rankme(Z)), float(metric.compute()), report["rankme"]],
            "rankme_eps0": [float(rankme(Z, eps=0.0)), float(Spectrum.of(Z).effective_rank)],
            "rankme_eps1e_5": [float(rankme(Z, eps=1e-5))],
            "entropy_eps1e_7": [float(rankme(Z).log())],
            "stable_rank": [float(Spectrum.of(Z).stable_rank), report["stable_rank"]],
            "participation_ratio": [float(Spectrum.of(Z).participation_ratio), report["participation_ratio"]],
        }
        centred = {"rankme_centered_eps1e_7", "erank_covariance_eigs", "alpha_req_from_3"}
        if expected["rankme_centered_eps1e_7"] is None:  # undefined: the centred matrix is zero
            with pytest.raises(ValueError, match="all rows are the same"):
                rankme(Z, center=True)
            assert all(expected.pop(key) is None for key in centred)
        else:
            spectrum = Spectrum.of(Z.double(), center=True)
            found["rankme_centered_eps1e_7"] = [float(rankme(Z, center=True)), report["rankme_centered"]]
            found["erank_covariance_eigs"] = [float(effective_rank(spectrum.values, squared=True))]
            found["alpha_req_from_3"] = [float(power_law_exponent(spectrum.values))]
            if float(spectrum.values[-1]) < 1e-7 * float(spectrum.values[0]):
                # The case fitted its slope through rounding noise, on which no two programs agree; ours leaves it out.
                expected.pop("alpha_req_from_3"), found.pop("alpha_req_from_3")
        assert set(found) == set(expected), "a quantity of the case is not tested"
        for key, value in expected.items():
            assert found[key] == [pytest.approx(value, rel=rtol)] * len(found[key]), (name, key)


def gaussian(samples: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, dim, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=15, deadline=None)
@given(
    samples=st.integers(8, 60), dim=st.integers(1, 8), seed=st.integers(0, 99), scale=st.sampled_from([1e-3, 1.0, 1e4])
)
def test_bounds_scale_and_streaming(samples, dim, seed, scale):
    Z = gaussian(samples, dim, seed)
    value = float(rankme(Z))
    assert 1 - 1e-6 <= value <= dim * 1.001
    assert float(rankme(scale * Z)) == pytest.approx(value, rel=1e-5)
    metric = RankMe()
    for batch in Z.split(7):
        metric.update(batch)
    assert float(metric.compute()) == pytest.approx(value, rel=1e-5)


def test_batch_numpy_half_and_one_dimension():
    Z = gaussian(40, 6)
    batched = rankme(torch.stack([Z, 2 * Z]))
    assert batched.shape == (2,)
    assert float(rankme(Z.numpy())) == pytest.approx(float(batched[0]), rel=1e-6)
    assert float(rankme(Z.bfloat16())) == pytest.approx(float(batched[0]), rel=1e-2)
    assert float(rankme(Z[:, :1])) == pytest.approx(1, abs=1e-6)


def test_gradient():
    Z = gaussian(9, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(rankme, (Z,))


def test_warnings_name_their_cause():
    with pytest.warns(UserWarning, match="cannot exceed 5"):
        rankme(gaussian(5, 9))
    with pytest.warns(UserWarning, match="common offset"):
        rankme(gaussian(200, 10) + 30)
    with pytest.warns(UserWarning, match=r"torch\.int64"):
        rankme(torch.arange(40).reshape(20, 2))


@pytest.mark.parametrize(
    ("Z", "message"),
    [
        (torch.ones(1, 4), "1 rows"),
        (torch.zeros(6, 4), "zero everywhere"),
        (torch.full((6, 4), float("nan")), "6 bad rows"),
    ],
)
def test_bad_embeddings(Z, message):
    with pytest.raises(ValueError, match=message):
        rankme(Z)


def test_identical_rows_centred():
    with pytest.raises(ValueError, match="all rows are the same"):
        rankme(torch.ones(6, 4), center=True)


def test_metric_refuses_what_it_cannot_merge():
    metric = RankMe()
    with pytest.raises(ValueError, match="0 rows seen"), pytest.warns(UserWarning, match="before the ``update``"):
        metric.compute()
    metric.update(gaussian(10, 4))
    with pytest.raises(ValueError, match="5 dimensions, but earlier batches had 4"):
        metric.update(gaussian(10, 5))


def test_metric_takes_max_samples_and_resets():
    Z = gaussian(100, 4)
    metric = RankMe(max_samples=50)
    for batch in Z.split(30):
        metric.update(batch)
    assert int(metric.count) == 50
    assert float(metric.compute()) == pytest.approx(float(rankme(Z[:50])), rel=1e-6)
    metric.reset()
    metric.update(Z[:, :3])
    assert metric.spectrum().shape == (50, 3)


def test_selection():
    runs = {"collapsed": gaussian(200, 1) * torch.ones(1, 8), "good": gaussian(200, 8), "same": gaussian(200, 8, 1)}
    chosen = select_by_rankme(runs, {"collapsed": 0.0, "good": 1.0, "same": 2.0}, rtol=0.05)
    assert (chosen.best, set(chosen.plateau)) == ("good", {"good", "same"})
    largest = select_by_rankme(runs, {"collapsed": 0.0, "good": 1.0, "same": 2.0}, tie="largest", rtol=0.05)
    assert largest.best == "same"
    assert chosen.to_rows()[-1]["run"] == "collapsed"
    with pytest.warns(UserWarning, match="different widths"):
        select_by_rankme({"a": gaussian(50, 8), "b": [gaussian(25, 4), gaussian(25, 4, 1)]})
    with pytest.raises(ValueError, match="no value for run 'good'"):
        select_by_rankme(runs, {"collapsed": 0.0, "same": 1.0})


def test_scorer_in_a_grid_search():
    from sklearn.decomposition import PCA
    from sklearn.model_selection import GridSearchCV

    X = gaussian(120, 8).numpy().astype(np.float64)
    search = GridSearchCV(PCA(), {"n_components": [1, 3, 6]}, scoring=RankMeScorer(), cv=2).fit(X)
    assert search.best_params_ == {"n_components": 6}


def test_batch_values_and_accumulation_of_a_torchmetrics_call():
    Z = gaussian(60, 4)
    metric = RankMe()
    batches = Z.split(20)
    found = [float(metric(batch)) for batch in batches]
    assert found == [pytest.approx(float(rankme(batch)), rel=1e-6) for batch in batches]
    assert float(metric.compute()) == pytest.approx(float(rankme(Z)), rel=1e-6)


def test_a_metric_survives_pickling():
    metric = RankMe(eps=1e-5, center=True, max_samples=40)
    metric.update(gaussian(30, 4))
    again = pickle.loads(pickle.dumps(metric))
    assert float(again.compute()) == float(metric.compute())
    again.update(gaussian(30, 4, 1))
    assert (int(again.count), again.full, metric.full) == (40, True, False)


def test_few_rows_are_said_to_cap_the_metric():
    metric = RankMe()
    metric.update(gaussian(5, 9))
    with pytest.warns(UserWarning, match="cannot exceed 5; use at least 36 samples"):
        assert float(metric.compute()) <= 5.001


def test_analyze_needs_neither_torchmetrics_nor_transformers():
    """Both take seconds to load; what needs them loads with its first use."""
    script = """
import sys
import fullrank.spectra
from fullrank.spectra import analyze
assert not {"torchmetrics", "transformers"} & set(sys.modules), "loaded too early"
import fullrank.spectra.rankme
from fullrank.spectra import rankme
assert rankme.__name__ == "rankme"
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=120)
    assert dir(spectra) == sorted(spectra.__all__)
    assert all(getattr(spectra, name) is not None for name in spectra.__all__)
    with pytest.raises(AttributeError, match=r"'fullrank\.spectra' has no attribute 'rank_me'"):
        getattr(spectra, "rank_me")  # noqa: B009  # a name that a type checker would refuse


@pytest.mark.distributed
def test_two_processes_agree_with_one(tmp_path: Path):
    """Uneven shares, and a process without data."""
    script = tmp_path / "two.py"
    script.write_text(
        """
import sys, torch, torch.distributed as dist
from fullrank.spectra import RankMe
Z = torch.randn(101, 8, generator=torch.Generator().manual_seed(0))
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
metric = RankMe()
metric.update(Z[:40] if rank == 0 else Z[40:])
print(float(metric.compute()), metric.report()["rankme"], metric.spectrum().effective_rank.item(), int(metric.count))
metric.reset()
if rank == 1:
    metric.update(Z)
print(float(metric.compute()))
metric.reset()
metric.update(Z[:, : 3 + rank])
try:
    metric.compute()
except ValueError as error:
    print(error)
dist.destroy_process_group()
"""
    )
    command = [sys.executable, "-W", "ignore", str(script)]
    meeting = str(tmp_path / "meeting")
    processes = [subprocess.Popen([*command, rank, meeting], stdout=subprocess.PIPE, text=True) for rank in ("0", "1")]
    expected = pytest.approx(float(rankme(gaussian(101, 8))), rel=1e-6)
    plain = pytest.approx(float(rankme(gaussian(101, 8), eps=0.0)), rel=1e-6)
    for process, rows in zip(processes, (40, 61), strict=True):
        both, one, refused = process.communicate(timeout=120)[0].splitlines()
        assert [float(value) for value in both.split()] == [expected, expected, plain, rows]
        assert float(one) == expected
        assert refused == "processes saw embeddings of different widths: [3, 4]"
