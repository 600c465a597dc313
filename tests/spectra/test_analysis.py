import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fullrank.spectra import CheckpointError, Spectrum, analysis, analyze


class Config:
    def __init__(self, **settings):
        self.settings = settings

    def to_dict(self):
        return self.settings


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 6), nn.Conv2d(3, 4, 3), nn.Linear(6, 30), nn.LayerNorm(30))


@pytest.fixture
def all_are_large(monkeypatch):
    """Small matrices take the way of large ones: in blocks, and in place."""
    monkeypatch.setattr(analysis, "_LARGEST", 1)
    monkeypatch.setattr(analysis, "_BLOCK", 16)


def expected(weight):
    values = torch.linalg.svdvals(weight.detach().double().flatten(1))
    p = values / values.sum()
    return {
        "effective_rank": float(torch.special.entr(p).sum().exp()),
        "stable_rank": float((values / values[0]).square().sum()),
        "nuclear_norm": float(values.sum()),
        "frobenius_norm": float(values.norm()),
        "spectral_norm": float(values[0]),
        "rank_share": float(torch.special.entr(p).sum().exp()) / len(values),
    }


def test_every_matrix_has_the_ranks_of_its_float64_spectrum(model):
    weights = dict(model.named_parameters())
    report = analyze(model)
    assert [matrix.name for matrix in report.matrices] == ["0.weight", "1.weight", "2.weight", "3.weight"]
    for matrix in report.matrices:
        for field, value in expected(weights[matrix.name]).items():
            assert getattr(matrix, field) == pytest.approx(value, rel=1e-5), (matrix.name, field)
        rows, columns = matrix.rows, matrix.columns
        assert matrix.parameters == rows * columns
        assert matrix.numerical_rank == min(rows, columns)
        r = matrix.break_even_rank
        assert r * (rows + columns) < rows * columns <= (r + 1) * (rows + columns)
    assert report.totals["parameters"] == report.parameters == sum(p.numel() for p in model.parameters())
    assert report.totals["parameters_elsewhere"] == sum(p.numel() for p in model.parameters() if p.ndim < 2)


@pytest.mark.usefixtures("all_are_large")
def test_large_matrices_give_the_same_report(model, monkeypatch):
    blocked = analyze(model).matrices
    monkeypatch.undo()
    for large, small in zip(blocked, analyze(model).matrices, strict=True):
        assert large.effective_rank == pytest.approx(small.effective_rank, rel=1e-5)
        assert large.spectrum == pytest.approx(small.spectrum, abs=1e-5)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
)
@pytest.mark.parametrize("large", [False, True])
def test_a_file_gives_what_its_weights_give_in_any_dtype(tmp_path, dtype, large, request):
    if large:
        request.getfixturevalue("all_are_large")
    generator = torch.Generator().manual_seed(0)
    shapes = {"tall": (40, 10), "wide": (10, 40), "square": (20, 20), "conv": (8, 6, 3, 3)}
    weights = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    save_file(weights, tmp_path / "model.safetensors")
    report = analyze(tmp_path, heads=False)
    assert {matrix.name for matrix in report.matrices} == set(shapes)
    for matrix in report.matrices:
        assert matrix.dtype == str(dtype).removeprefix("torch.")
        assert matrix.effective_rank == pytest.approx(expected(weights[matrix.name])["effective_rank"], rel=1e-4)
    assert bool(report.remarks) == (dtype.itemsize == 1)  # scales are stored apart


def test_truncation_costs_what_it_says(model):
    weight = model[0].weight.detach()
    (matrix, *_) = analyze(model).matrices
    U, S, Vh = torch.linalg.svd(weight.double(), full_matrices=False)
    for cut in matrix.truncations:
        errors = [((U[:, :r] * S[:r]) @ Vh[:r] - weight).norm() / weight.norm() for r in (cut.rank, cut.rank - 1)]
        assert errors[0] <= cut.error + 1e-9 < errors[1]
        assert cut.saved == max(0, weight.numel() - cut.rank * sum(weight.shape))
        assert cut.share == cut.saved / weight.numel()


@pytest.mark.usefixtures("all_are_large")
def test_a_large_weight_that_is_not_finite_is_named_with_its_position(tmp_path):
    bad = torch.ones(40, 10)
    bad[33, 4] = math.nan
    weights = {"good": torch.eye(10), "tall": bad, "square": bad[20:35].clone(), "wide": bad.mT.contiguous()}
    save_file(weights, tmp_path / "m.safetensors")
    report = analyze(tmp_path / "m.safetensors")
    assert [matrix.name for matrix in report.matrices] == ["good"]
    reasons = {item.name: item.reason for item in report.skipped}
    assert "tall has nan at (33, 4)" in reasons["tall"]
    assert "square has nan at (13, 4)" in reasons["square"]
    assert "the transpose of wide has nan at (33, 4)" in reasons["wide"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named_and_the_rest_is_reported(model, bad):
    with torch.no_grad():
        model[1].weight[2, 3] = bad
    report = analyze(model)
    assert [item.name for item in report.skipped] == ["1.weight"]
    assert f"1.weight has {bad} at (2, 3)" in report.skipped[0].reason
    assert [matrix.name for matrix in report.matrices] == ["0.weight", "2.weight", "3.weight"]


def test_a_zero_matrix_has_rank_zero():
    model = nn.Linear(4, 3)
    nn.init.zeros_(model.weight)
    (matrix,) = analyze(model).matrices
    assert (matrix.effective_rank, matrix.stable_rank, matrix.rank_share, matrix.numerical_rank) == (0, 0, 0, 0)
    assert matrix.truncation(0.1).rank == 0


def test_a_model_without_matrices_says_so():
    report = analyze(nn.LayerNorm(4))
    assert report.matrices == ()
    assert report.remarks == ("there is no matrix in this model",)
    assert report.totals["parameters"] == 8


def test_unknown_architectures_leave_their_heads_out_and_say_so(model):
    assert any("attention heads are left out" in remark for remark in analyze(model).remarks)
    assert analyze(model, heads=False).remarks == ()


def attention(bad=None):
    model = nn.Module()
    model.attention = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("q_lin", "k_lin", "v_lin", "out_lin")})
    model.config = Config(model_type="distilbert", n_heads=2)
    if bad:
        with torch.no_grad():
            model.attention[bad].weight[0, 0] = math.nan
    return model


def test_heads_of_a_known_architecture():
    report = analyze(attention())
    assert report.architecture == "distilbert"
    assert [(head.layer, head.head, head.product) for head in report.heads] == [
        (0, 0, "QK"), (0, 1, "QK"), (0, 0, "OV"), (0, 1, "OV"),
    ]  # fmt: skip
    assert {head.head_dim for head in report.heads} == {4}


def test_heads_with_an_unreadable_weight_are_left_out_by_name():
    report = analyze(attention(bad="k_lin"))
    assert report.heads == ()
    assert report.remarks == ("the heads of the model are left out: attention.k_lin.weight could not be measured",)


def test_progress_counts_to_the_end():
    seen = []
    analyze(attention(), on_progress=lambda done, total, text: seen.append((done, total, text)))
    assert [done for done, _, _ in seen] == [1, 2, 3, 4, 5]
    assert {total for _, total, _ in seen} == {5}
    assert seen[0][2] == "attention.q_lin.weight"


def test_ctrl_c_stops_between_matrices(model):
    threads = torch.get_num_threads()

    def stop(done, total, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(model, on_progress=stop)
    assert torch.get_num_threads() == threads
    assert len(analyze(model).matrices) == 4


def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="device='quantum' cannot be used"):
        analyze(nn.Linear(2, 2), device="quantum")


def test_bad_paths_reach_the_user_as_they_are(tmp_path):
    with pytest.raises(CheckpointError, match="holds no weights"):
        analyze(tmp_path)


def test_the_report_is_called_as_wished(model, tmp_path):
    save_file({"w": torch.eye(3)}, tmp_path / "m.safetensors")
    assert analyze(model).model == "Sequential"
    assert analyze(tmp_path / "m.safetensors").model == str(tmp_path / "m.safetensors")
    assert analyze(model, name="tiny").model == "tiny"


def test_the_model_is_left_as_it_was(model):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    analyze(model)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert Spectrum.of(model[0].weight).effective_rank.requires_grad
