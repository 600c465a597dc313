import copy
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from fullrank.compress import (
    LoD,
    MaestroConv2d,
    MaestroLinear,
    allocate_budget,
    decompose,
    export,
    load,
    recompose,
    save,
    sweep,
    truncate,
)
from fullrank.compress.maestro import maestro_layers

from .models import bert, convolutional, gpt2, mlp, texts


@pytest.mark.golden("maestro")
def test_agrees_with_the_official_layers(case):
    config = case.spec["config"]
    if "iters" in config:
        _check_recovery(case)
    elif "kernel_size" in config:
        _check_convolution(case)
    else:
        _check_linear(case)


def _close(found, expected, rtol=1e-5, atol=1e-6):
    torch.testing.assert_close(found.detach().float(), expected.float(), rtol=rtol, atol=atol)


def _check_linear(case):
    config, known = case.spec["config"], case.tensors
    layer = MaestroLinear(config["in_features"], config["out_features"], config["bias"])
    with torch.no_grad():
        layer.U.copy_(known["U_out"])
        layer.Vt.copy_(known["V_in"])
        if config["bias"]:
            layer.bias.copy_(known["bias"])
    for number, width in enumerate(config["width"]):
        layer.width = width
        _close(layer(known["x"]), known[f"y_p{number}"], 1e-4, 1e-5)
    layer.width = config["width"][0]
    gradients = torch.autograd.grad((layer(known["x"]) * known["grad_output"]).sum(), (layer.U, layer.Vt))
    for found, expected in zip(gradients, (known["grad_U_sampled"], known["grad_V_sampled"]), strict=True):
        _close(found, expected, 1e-4, 1e-5)
    layer.width = None
    for name, hierarchical in (("plain", False), ("hier", True)):
        _close(layer.penalties(hierarchical), known[f"group_lasso_{name}"])
        _close(layer.importance(hierarchical), known[f"importance_{name}"])
        gradients = torch.autograd.grad(layer.group_lasso(hierarchical), (layer.U, layer.Vt))
        for found, expected in zip(gradients, (known[f"grad_U_{name}"], known[f"grad_V_{name}"]), strict=True):
            _close(found, expected)
    assert layer.shrink(config["importance_threshold"], hierarchical=False) == config["rank_after"]
    assert layer.rank == int(known["mask_plain"].sum())
    _close(layer(known["x"]), known["y_masked_full"], 1e-4, 1e-5)
    layer.prune()
    _close(layer.U, known["U_pruned"])
    _close(layer.Vt, known["V_pruned"])
    _close(layer.weight(), known["weight_full"])
    _close(layer(known["x"]), known["y_pruned"], 1e-4, 1e-5)
    assert layer.smaller_dense() == config["replace_by_dense"]


def _check_convolution(case):
    config, known = case.spec["config"], case.tensors
    conv = nn.Conv2d(
        config["in_channels"], config["out_channels"], config["kernel_size"], config["stride"], config["padding"],
        bias=config["bias"],
    )  # fmt: skip
    with torch.no_grad():
        conv.weight.copy_(known["weight"])
        if config["bias"]:
            conv.bias.copy_(known["bias"])
    layer = MaestroConv2d.from_dense(conv)
    assert layer.max_rank == config["R"]
    _close(layer(known["x"]), known["y_dense"], 1e-4, 1e-5)
    _close(layer.to_dense().weight, known["U_recon"], 1e-4, 1e-5)
    for number, width in enumerate(config["width"]):
        layer.width = width
        _close(layer(known["x"]), known[f"y_p{number}"], 1e-3, 1e-4)
    layer.width = None
    for name, hierarchical in (("plain", False), ("hier", True)):
        _close(layer.penalties(hierarchical), known[f"group_lasso_{name}"], 1e-4, 1e-5)
        _close(layer.importance(hierarchical), known[f"importance_{name}"], 1e-4, 1e-5)


def _check_recovery(case):
    """Replays the official run draw by draw."""
    config, known = case.spec["config"], case.tensors
    C, S = known["C"], known["S"]
    layer = MaestroLinear(config["m"], config["n"], bias=False)
    with torch.no_grad():
        layer.U.copy_(known["U_init"])
        layer.Vt.copy_(known["V_init"])
    optimizer = torch.optim.SGD(layer.parameters(), lr=config["lr"])
    inputs, losses = torch.eye(config["m"]), []
    for p in known["p"].tolist():
        layer.width = math.ceil(layer.max_rank * p - 1e-9)
        loss = functional.mse_loss(layer(inputs), C.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    _close(torch.stack(losses)[:200], known["losses"][:200], 1e-3, 1e-6)
    layer.width = None
    _close(layer.importance(hierarchical=False), S, 0, 0.02 * float(S[0]))
    U, values, Vh = torch.linalg.svd(C.T.double())
    for k in range(1, layer.max_rank + 1):
        best = (U[:, :k] * values[:k]) @ Vh[:k]
        distance = (layer.weight(k).double() - best).square().sum()
        assert distance <= known["dist_sq_to_best_rank_k"][k - 1] + 1e-2


@pytest.mark.parametrize("build", [mlp, convolutional, bert, gpt2])
def test_decomposing_keeps_what_the_model_computes(build):
    model = build()
    decomposed = decompose(copy.deepcopy(model), exclude=("lm_head",)) if build is not convolutional else decompose(
        copy.deepcopy(model), exclude=("2",)
    )  # fmt: skip
    x = {
        mlp: (torch.randn(3, 12),),
        convolutional: (torch.randn(2, 3, 9, 8),),
        bert: (texts()[0]["input_ids"],),
        gpt2: (texts()[0]["input_ids"],),
    }[build]
    one, other = (m(*x) for m in (model, decomposed))
    one, other = (getattr(output, "logits", output) for output in (one, other))
    torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(inputs=st.integers(2, 9), outputs=st.integers(2, 9), data=st.data())
def test_a_width_is_the_first_components(inputs, outputs, data):
    layer = MaestroLinear(inputs, outputs)
    layer.width = data.draw(st.integers(1, layer.rank))
    x = torch.randn(4, inputs)
    b = layer.width
    expected = x @ layer.Vt[:b].T @ layer.U[:, :b].T + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_shrinking_and_pruning_compute_the_same():
    torch.manual_seed(0)
    layer, x = MaestroLinear(10, 8), torch.randn(5, 10)
    assert layer.shrink(0.5, relative=True) < 8
    shrunk = layer(x)
    layer.prune()
    torch.testing.assert_close(layer(x), shrunk)
    torch.testing.assert_close(layer.to_dense()(x), shrunk, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.to_low_rank()(x), shrunk, rtol=1e-4, atol=1e-5)


def test_the_pool_visits_every_layer_and_width_once_in_a_cycle():
    lod = LoD(decompose(mlp()), seed=3)
    total = sum(layer.rank for layer in lod.layers.values())
    for cycle in range(2):
        seen = [next(iter(lod.widths(cycle * total + step).items())) for step in range(total)]
        assert sorted(seen) == sorted((n, w) for n, layer in lod.layers.items() for w in range(1, layer.rank + 1))
    assert lod.widths(5) == LoD(decompose(mlp()), seed=3).widths(5)  # the same in another process
    assert len(LoD(decompose(mlp()), "independent").widths(0)) == 3
    assert LoD(decompose(mlp()), "fixed").widths(0)["0"] == 3


def test_gradients_of_the_penalty_with_a_dead_suffix():
    layer = MaestroLinear(5, 4, bias=False).double()
    with torch.no_grad():
        layer.U[:, 2:] = 0
        layer.Vt[2:] = 0
    layer.group_lasso().backward()
    assert layer.U.grad.isfinite().all()
    assert layer.U.grad[:, 2:].abs().max() == 0
    alive = layer.U.detach()[:, :2].clone().requires_grad_()

    def penalty(part):
        copied = copy.deepcopy(layer)
        copied.U = nn.Parameter(torch.cat([part.detach(), layer.U.detach()[:, 2:]], dim=1))
        return copied.group_lasso()

    for row, column in ((0, 0), (3, 1)):
        step = torch.zeros_like(alive)
        step[row, column] = 1e-6
        slope = (penalty(alive + step) - penalty(alive - step)) / 2e-6
        torch.testing.assert_close(slope, layer.U.grad[row, column], rtol=1e-5, atol=1e-7)


def test_training_orders_shrinks_and_slices_momentum():
    torch.manual_seed(0)
    target = torch.randn(6, 2) @ torch.randn(2, 12)
    model = decompose(nn.Sequential(nn.Linear(12, 6)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    lod = LoD(model, lam=1e-2, threshold=0.05, distill=False)
    for _ in range(6):
        for _ in range(60):
            x = torch.randn(64, 12)
            optimizer.zero_grad()
            lod.loss(lambda m, x: m(x), lambda y, x: functional.mse_loss(y, x @ target.T), x).backward()
            optimizer.step()
        ranks = lod.step_epoch(optimizer)
    assert ranks == {"0": 2}
    layer = model[0]
    assert layer.U.shape == (6, 2)
    assert optimizer.state[layer.U]["momentum_buffer"].shape == (6, 2)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}


def test_a_pruned_model_is_loaded_into_a_fresh_one(tmp_path):
    model = truncate(decompose(mlp()), {"0": 3, "2": 4})
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    fresh = decompose(mlp())
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert {name: layer.rank for name, layer in maestro_layers(fresh).items()} == {"0": 3, "2": 4, "4": 5}
    x = torch.randn(2, 12)
    torch.testing.assert_close(fresh(x), model(x))


def test_budgets_are_kept_and_deployed_models_saved(tmp_path):
    model = decompose(mlp())
    model(torch.randn(2, 12))
    dense = sum(layer.inputs * layer.outputs for layer in maestro_layers(model).values())
    for budget in ({"fraction": 0.6}, {"max_params": 250}, {"max_macs": 300}):
        ranks = allocate_budget(model, **budget)
        small = export(truncate(copy.deepcopy(model), ranks))
        weights = sum(p.numel() for p in small.parameters() if p.ndim == 2)
        assert weights <= {"fraction": 0.6 * dense}.get(next(iter(budget)), next(iter(budget.values())))
    x = torch.randn(2, 12)
    folder = save(small, tmp_path / "small")
    torch.testing.assert_close(load(folder, skeleton=mlp())(x), small.eval()(x))
    rows = sweep(model, [0.9, 0.5], lambda m: float(sum(p.numel() for p in m.parameters())))
    assert rows[0]["quality"] > rows[1]["quality"]
    assert isinstance(recompose(copy.deepcopy(model))[0], nn.Linear)


def test_norm_statistics_are_taken_anew():
    model = decompose(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    batches = [torch.randn(8, 3, 6, 6) + 2 for _ in range(3)]
    lod = LoD(model)
    lod.recalibrate_norms(batches, lambda m, x: m(x))
    with torch.no_grad():
        states = torch.cat([model[0](x) for x in batches])
    torch.testing.assert_close(model[1].running_mean, states.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert model[1].momentum == 0.1


def test_half_precision_and_other_batch_shapes():
    layer = MaestroLinear(6, 5, dtype=torch.bfloat16)
    assert layer(torch.randn(2, 3, 6, dtype=torch.bfloat16)).shape == (2, 3, 5)
    assert layer.group_lasso().dtype == torch.float32


def test_what_cannot_be_decomposed_is_left_or_refused(unchecked, caplog):
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(4, 3))
    with caplog.at_level("INFO"):
        decompose(copy.deepcopy(grouped))
    assert "0 stays dense: it has groups=2" in caplog.text
    with pytest.raises(NotImplementedError, match="0: it has groups=2"):
        decompose(copy.deepcopy(grouped), include=["0", "2"])
    with pytest.raises(ValueError, match=r"no layer to decompose in this Sequential.*1 ReLU"):
        decompose(nn.Sequential(nn.ReLU()))
    with pytest.raises(TypeError, match="0 is parametrised"):
        decompose(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))))
    layer = MaestroLinear(4, 4)
    layer.width = 9
    with pytest.raises(ValueError, match="width=9: 1 to 4"):
        layer(torch.randn(1, 4))
    with pytest.raises(ValueError, match="threshold=-1"):
        layer.shrink(-1.0)
    with pytest.warns(UserWarning, match="every component is below the threshold"):
        assert layer.shrink(1e9) == 1
    with pytest.raises(ValueError, match="rank=9: 1 to 4"):
        MaestroLinear(4, 4, rank=9)
    model = decompose(mlp())
    with torch.no_grad():
        maestro_layers(model)["2"].U[0, 0] = float("nan")
    with pytest.raises(RuntimeError, match="2: the weights are not finite: training diverged"):
        LoD(model).step_epoch()
    for options, message in (
        ({"sampler": "random"}, "sampler='random'"),
        ({"lam": -1}, "lam=-1"),
        ({"threshold": -1}, "threshold=-1"),
        ({"full_pass": False, "distill": True}, "distill=True needs"),
    ):
        with pytest.raises(ValueError, match=message):
            LoD(decompose(mlp()), **options)
    with pytest.raises(ValueError, match="call decompose"):
        LoD(mlp())
    with pytest.raises(ValueError, match="give one of"):
        allocate_budget(model)
    with pytest.raises(ValueError, match="too small"):
        allocate_budget(decompose(mlp()), max_params=5)
    with pytest.raises(ValueError, match="run the model once first"):
        allocate_budget(decompose(mlp()), max_macs=500)
    with pytest.raises(ValueError, match="ranks names 'x'"):
        truncate(decompose(mlp()), {"x": 1})
    with pytest.raises(ValueError, match="0: width=99"):
        truncate(decompose(mlp()), {"0": 99})


def test_a_layer_without_components_gives_its_bias():
    conv = MaestroConv2d(3, 5, 3, padding=1)
    conv.shrink(1e9, min_rank=0)
    expected = conv.bias[:, None, None].expand(2, 5, 4, 4)
    torch.testing.assert_close(conv(torch.randn(2, 3, 4, 4)), expected)
    conv.prune()
    torch.testing.assert_close(conv.to_dense()(torch.randn(2, 3, 4, 4)), expected)
    for sampler in ("single_layer", "independent", "fixed"):
        model = decompose(mlp())
        model[0].shrink(1e9, min_rank=0)
        lod = LoD(model, sampler, lam=0.1, relative=True)
        assert {name for step in range(60) for name in lod.widths(step)} <= {"2", "4"}
        lod.loss(lambda m, x: m(x), lambda y, x: y.square().mean(), torch.randn(4, 12)).backward()
        assert lod.step_epoch()["0"] == 0
        assert isinstance(export(model)[0], nn.Linear)


def test_the_sampled_network_is_taught_every_token():
    torch.manual_seed(0)
    model, x = decompose(nn.Sequential(nn.Linear(6, 4))), torch.randn(2, 3, 6)
    lod = LoD(model)
    (width,) = lod.widths(0).values()
    total = lod.loss(lambda m, batch: m(batch), lambda y, batch: y.sum() * 0, x)
    taught = model(x).softmax(-1)
    model[0].width = width
    torch.testing.assert_close(total, -(taught * model(x).log_softmax(-1)).sum(-1).mean())


def test_what_does_not_train_still_does_not():
    model = decompose(mlp().requires_grad_(False))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in recompose(model, only_if_smaller=False).parameters())


def test_a_single_layer_is_returned_decomposed():
    layer, x = nn.Linear(6, 4), torch.randn(3, 6)
    made = decompose(layer)
    assert isinstance(made, MaestroLinear)
    torch.testing.assert_close(made(x), layer(x), rtol=1e-4, atol=1e-5)
    assert list(dict(layer.named_modules())) == [""]


def test_shared_weights_and_attention_stay_dense_with_a_warning():
    tied = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    tied[1].weight = tied[0].weight
    with pytest.warns(UserWarning, match="0, 1 stay dense: its weight is shared"):
        decompose(tied)
    attention = nn.ModuleDict({"mix": nn.MultiheadAttention(8, 2), "out": nn.Linear(8, 8)})
    with pytest.warns(UserWarning, match=r"mix\.out_proj stay dense: nn\.MultiheadAttention"):
        decompose(attention)
    assert isinstance(attention["out"], MaestroLinear)


def test_averaged_states_of_an_optimiser_are_sliced_too():
    model = decompose(mlp())
    optimizer, x = torch.optim.Adafactor(model.parameters()), torch.randn(4, 12)
    lod = LoD(model, threshold=0.6)
    for _ in range(2):
        lod.loss(lambda m, batch: m(batch), lambda y, batch: y.square().mean(), x).backward()
        optimizer.step()
        assert lod.step_epoch(optimizer)["0"] < 12


def test_a_budget_is_spent_where_quality_misses_it_least():
    model = decompose(mlp())
    x = torch.randn(32, 12)
    expected = model(x).detach()
    seen = []

    def quality(network):
        seen.append({name: layer.width for name, layer in maestro_layers(network).items()})
        return float(-(network(x) - expected).square().mean())

    ranks = allocate_budget(model, fraction=0.6, val_fn=quality)
    assert all(layer.width is None for layer in maestro_layers(model).values())
    spent = sum(
        min(ranks[name] * (layer.inputs + layer.outputs), layer.inputs * layer.outputs)
        for name, layer in maestro_layers(model).items()
    )
    assert spent <= 0.6 * sum(layer.inputs * layer.outputs for layer in maestro_layers(model).values())
    assert seen[:3] == [{"0": 11, "2": 14, "4": 5}, {"0": 12, "2": 13, "4": 5}, {"0": 12, "2": 14, "4": 4}]


def test_numbers_that_are_none_are_refused(unchecked):
    model = decompose(mlp())
    for options, message in (
        ({"lam": float("nan")}, "lam=nan"),
        ({"lam": "large"}, "lam='large'"),
        ({"threshold": float("nan")}, "threshold=nan"),
    ):
        with pytest.raises(ValueError, match=message):
            LoD(model, **options)
    with pytest.raises(ValueError, match="threshold=nan"):
        model[0].shrink(float("nan"))
    with pytest.raises(ValueError, match="has no ordered components"):
        allocate_budget(mlp(), fraction=0.5)


@pytest.mark.parametrize("build", [mlp, convolutional])
def test_masks_compute_what_slices_do(build):
    sliced, masked = decompose(build()), decompose(build(), compile_friendly=True)
    x = torch.randn(2, 3, 9, 8) if build is convolutional else torch.randn(4, 12)
    name, layer = next(iter(maestro_layers(masked).items()))
    other = maestro_layers(sliced)[name]
    for width in (1, 3, None):
        layer.width = other.width = width
        torch.testing.assert_close(masked(x), sliced(x), rtol=1e-4, atol=1e-5)
    for change in (lambda some: some.truncate(4), lambda some: some.prune(), lambda some: some.truncate(2)):
        change(layer)
        change(other)
        torch.testing.assert_close(masked(x), sliced(x), rtol=1e-4, atol=1e-5)
    fresh = decompose(build(), compile_friendly=True)
    fresh.load_state_dict(masked.state_dict())
    torch.testing.assert_close(fresh(x), masked(x))
    with pytest.raises(ValueError, match="width=3: 1 to 2"):
        layer.width = 3


def test_one_compiled_graph_serves_every_width():
    script = Path(__file__).with_name("compiling_maestro.py")
    subprocess.run([sys.executable, script], check=True)
