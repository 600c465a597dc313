from __future__ import annotations

import copy
import math

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import get_peft_model
from torch import nn

from fullrank.adapt import FrozenLayer, HydraConfig, HydraLinear, branch_alignment, hydra_delta
from fullrank.adapt.hydra import FEED_FORWARD_OUTPUTS, HydraDelta

from .conformance import Conformance
from .models import build, output

# The names of the golden files -> ours.
BRANCHES = {
    f"{branch}_{side}_{kind}": f"{branch}_{letter}{'_bias' if kind == 'b' else ''}"
    for branch in ("par", "seq")
    for side, letter in (("down", "A"), ("up", "B"))
    for kind in ("w", "b")
}


class TestHydra(Conformance):
    def config(self, **options):
        return HydraConfig(**({"r": 2, "r_seq": 3, "scaling": 0.8} | options))


class WithBiases(Conformance):
    def config(self, **options):
        return HydraConfig(**({"r": 2, "adapter_bias": True, "create_bias": True} | options))


@pytest.mark.parametrize("name", ["mlp", "gpt2"])
def test_adapter_biases(name):
    suite = WithBiases()
    suite.test_only_the_adapter_is_trained_and_all_of_it(name)
    suite.test_merging_and_unmerging(name)
    model = suite.adapted(name)
    expected = output(model, name)
    merged = model.merge_and_unload()
    suite.close(output(merged, name), expected)
    assert name != "mlp" or merged[2].bias is not None


# --- the authors' numbers ---------------------------------------------------------------------------------------------


def hydra_layer(config, weight, bias):
    """One adapted linear layer of the shape of `weight`, built as a user builds it."""
    known = {"r_par", "r_seq", "scale", "adapter_bias", "dropout", "in", "out", "base_bias", "d", "heads"}
    assert set(config) <= known
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight.data = weight
    if bias is not None:
        linear.bias.data = bias
    made = HydraConfig(
        r=config["r_par"],
        r_seq=config["r_seq"],
        scaling=config["scale"],
        adapter_bias=config["adapter_bias"],
        hydra_dropout=config["dropout"],
        create_bias=True,
        target_modules=["0"],
    )
    return get_peft_model(nn.Sequential(linear), made).base_model.model[0]


def set_branches(layer, tensors):
    delta = layer.deltas["default"]
    given = {ours: tensors[theirs] for theirs, ours in BRANCHES.items() if theirs in tensors}
    assert set(given) == set(dict(delta.named_parameters()))
    delta.load_state_dict(given)
    return {theirs: delta.get_parameter(ours) for theirs, ours in BRANCHES.items() if theirs in tensors}


def attend(qkv, heads):
    """Softmax attention on q, k and v packed as (3, heads, head_dim)."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@pytest.mark.golden("hydra")
def test_golden(case):
    """Forward, every gradient, the merged layer, and the closed form; whole sub-blocks run the layer in its place."""
    tensors, config = case.tensors, case.spec["config"]
    tolerance = {key: case.spec["tolerance_float32"][key] for key in ("atol", "rtol")}
    layer_name = next(name for name in ("fc2", "proj", "W0") if name == "W0" or f"{name}_w" in tensors)
    W0, b0 = (
        tensors.get(key) for key in (("W0", "b0") if layer_name == "W0" else (f"{layer_name}_w", f"{layer_name}_b"))
    )
    assert (b0 is not None) == config.get("base_bias", True)
    layer = hydra_layer(config, W0, b0)
    parameters = set_branches(layer, tensors)

    def forward(x):
        if layer_name == "fc2":
            x = nn.functional.gelu(nn.functional.linear(x, tensors["fc1_w"], tensors["fc1_b"]))
        elif layer_name == "proj":
            x = attend(nn.functional.linear(x, tensors["qkv_w"], tensors["qkv_b"]), config["heads"])
        return layer(x)

    x = tensors["x"].clone().requires_grad_()
    y = forward(x)
    torch.testing.assert_close(y, tensors["y"], **tolerance)
    (y * tensors["gy"]).sum().backward()
    parameters["x"] = x
    checked = {name for name in tensors if name.startswith("grad_")}
    assert checked == {f"grad_{name}" for name in parameters}
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, tensors[f"grad_{name}"], **tolerance)

    layer.merge()
    torch.testing.assert_close(forward(tensors["x"]), tensors["y"], rtol=0, atol=1e-4)
    branches = {BRANCHES[name]: tensors[name] for name in parameters if name in BRANCHES}
    dW, db = hydra_delta(W0, b0, **branches, scaling=config["scale"])
    torch.testing.assert_close(W0 + dW, layer.base_layer.weight.data, **tolerance)
    if "merged_w" in tensors:
        torch.testing.assert_close(layer.base_layer.weight.data, tensors["merged_w"], **tolerance)
        torch.testing.assert_close(layer.base_layer.bias.data, tensors["merged_b"], **tolerance)
        torch.testing.assert_close(db if b0 is None else b0 + db, tensors["merged_b"], **tolerance)


# --- properties -------------------------------------------------------------------------------------------------------


def random_delta(out, inside, bias=True, dtype=torch.float32, **options):
    generator = torch.Generator().manual_seed(out * 100 + inside)
    W0 = torch.randn(out, inside, generator=generator, dtype=dtype) / math.sqrt(inside)
    b0 = torch.randn(out, generator=generator, dtype=dtype) if bias else None
    delta = HydraDelta(FrozenLayer("layer", out, inside, lambda: (W0, b0)), HydraConfig(init_weights=False, **options))
    delta.reset()
    return delta.to(dtype), W0, b0


@settings(max_examples=25, deadline=None)
@given(
    out=st.integers(1, 12), inside=st.integers(1, 12), r=st.integers(0, 4), r_seq=st.integers(0, 4),
    bias=st.booleans(), adapter_bias=st.booleans(), scaling=st.sampled_from([0.1, 1.0, 4.5]),
)  # fmt: skip
def test_merged_is_unmerged(out, inside, r, r_seq, bias, adapter_bias, scaling):
    if r == r_seq == 0:
        return
    delta, W0, b0 = random_delta(out, inside, bias, r=r, r_seq=r_seq, adapter_bias=adapter_bias, scaling=scaling)
    x = torch.randn(3, 2, inside, generator=torch.Generator().manual_seed(1))
    y0 = nn.functional.linear(x, W0, b0)
    db = delta.bias_change()
    assert (db is not None) == (adapter_bias or (bias and r_seq > 0))
    shift = b0 if db is None else db if b0 is None else b0 + db
    merged = nn.functional.linear(x, W0 + delta.weight(), shift)
    torch.testing.assert_close(merged, y0 + delta(x, y0), rtol=1e-5, atol=1e-5 * float(merged.detach().abs().max()))


@settings(max_examples=15, deadline=None)
@given(r=st.integers(1, 3), r_seq=st.integers(1, 3))
def test_the_update_has_at_most_the_sum_of_the_ranks(r, r_seq):
    delta, W0, _ = random_delta(9, 12, r=r, r_seq=r_seq, dtype=torch.float64)
    assert int(torch.linalg.matrix_rank(delta.weight())) == r + r_seq
    sequential, W0, _ = random_delta(9, 12, r=0, r_seq=r_seq, dtype=torch.float64)
    stacked = torch.cat([W0, sequential.weight()])
    assert int(torch.linalg.matrix_rank(stacked)) == int(torch.linalg.matrix_rank(W0))


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"r": 4, "r_seq": 8}, 331_776 // 12),  # RoBERTa-base, the paper's 0.3M on 12 layers
        ({"r": 2, "r_seq": 2, "adapter_bias": True}, None),
    ],
)
def test_parameter_counts(options, count):
    delta, *_ = random_delta(768, 3072, **options)
    r, r_seq = options["r"], options["r_seq"]
    expected = r * (3072 + 768) + 2 * r_seq * 768
    if options.get("adapter_bias"):
        expected += r + r_seq + 2 * 768
    assert sum(p.numel() for p in delta.parameters()) == expected == (count or expected)


@pytest.mark.parametrize("init", [True, "kaiming", "xavier", "gaussian"])
def test_starts(init):
    delta, *_ = random_delta(64, 256, r=8, adapter_bias=True)
    delta.init = init
    delta.reset()
    assert all(not p.any() for name, p in delta.named_parameters() if not name.endswith("_A"))
    spread = {"gaussian": 0.02, "xavier": math.sqrt(2 / (256 + 8))}.get(init, 1 / math.sqrt(3 * 256))
    assert float(delta.par_A.detach().std()) == pytest.approx(spread, rel=0.1)


def test_dropout_lies_between_the_projections():
    delta, W0, b0 = random_delta(6, 5, r=2, hydra_dropout=0.5)
    x = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    y0 = nn.functional.linear(x, W0, b0)
    torch.manual_seed(0)
    changed = delta(x, y0)
    assert (changed.abs().sum(1) == 0).sum() > 5  # all four components dropped: 1 in 16
    delta.eval()
    torch.testing.assert_close(delta(x, y0), x @ delta.weight().mT + delta.bias_change())


# --- PEFT -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ending", "count"),
    [("llama", "mlp.down_proj", 2), ("gpt2", "mlp.c_proj", 2), ("bert", "output.dense", 2)],
)
def test_default_targets_are_the_feed_forward_outputs(name, ending, count):
    model = get_peft_model(build(name), HydraConfig(r=2))
    targets = model.targeted_module_names
    assert len(targets) == count
    assert all(target.endswith(ending) and "attention" not in target for target in targets)
    assert all(isinstance(model.get_base_model().get_submodule(target), HydraLinear) for target in targets)
    assert len(FEED_FORWARD_OUTPUTS) > 30


def test_rank_patterns():
    config = HydraConfig(
        r=2, r_seq=3, target_modules=["0", "2", "4"], rank_pattern={"0": 4, "4": (1, 0)}, init_weights=False
    )
    model = get_peft_model(build("mlp"), config)
    shapes = [
        {name: tuple(p.shape) for name, p in layer.deltas["default"].named_parameters()}
        for layer in (model.base_model.model[index] for index in (0, 2, 4))
    ]
    assert shapes[0] == {"par_A": (4, 10), "par_B": (20, 4), "seq_A": (3, 20), "seq_B": (20, 3)}
    assert shapes[1]["par_A"] == (2, 20)
    assert shapes[2] == {"par_A": (1, 12), "par_B": (3, 1)}


def test_checkpoint_names_are_those_of_the_paper(tmp_path):
    model = get_peft_model(build("mlp"), HydraConfig(r=2, adapter_bias=True, target_modules=["0"]))
    state = peft.get_peft_model_state_dict(model)
    names = {f"{branch}_{end}" for branch in ("par", "seq") for end in ("A", "B", "A_bias", "B_bias")}
    assert set(state) == {f"base_model.model.0.hydra_delta.{name}" for name in names}


def test_a_missing_bias_is_created_only_when_asked():
    config = HydraConfig(r=2, adapter_bias=True, init_weights=False, target_modules=["2"])
    model = get_peft_model(build("mlp"), config)
    with pytest.raises(ValueError, match="changes the bias of '2', which has none: set create_bias=True"):
        model.merge_adapter()
    assert not model.base_model.model[2].merged
    model = get_peft_model(build("mlp"), HydraConfig(**{**config.to_dict(), "create_bias": True}))
    expected = output(model, "mlp")
    model.merge_adapter()
    torch.testing.assert_close(output(model, "mlp"), expected)
    model.unmerge_adapter()
    assert model.base_model.model[2].base_layer.bias is None


def test_conversion_to_lora_reports_the_lost_bias():
    torch.manual_seed(0)
    model = get_peft_model(build("mlp"), HydraConfig(r=1, r_seq=2, init_weights=False, target_modules=["0", "2"]))
    with pytest.warns(UserWarning, match="bias change of adapter 'default' on '0', norm .* is lost"):
        _, state = peft.convert_to_lora(model, rank=3)
    delta = model.base_model.model[0].get_delta_weight("default")
    lora_A, lora_B = (state[f"base_model.model.0.lora_{letter}.weight"] for letter in "AB")
    torch.testing.assert_close(lora_B @ lora_A, delta)


def test_the_sequential_branch_reads_the_pristine_layer():
    """Two adapters, merged or not, in any order, add the same changes to the same y0."""
    model = TestHydra().adapted(adapters=("first", "second"), target_modules=["0"])
    layer = copy.deepcopy(model.base_model.model[0])
    W0 = layer.base_layer.weight.clone()
    alone = {name: layer.get_delta_weight(name) for name in ("first", "second")}
    layer.merge(adapter_names=["second"])
    torch.testing.assert_close(layer.get_delta_weight("first"), alone["first"])
    with pytest.warns(UserWarning, match="Already following adapters were merged second"):
        layer.merge(adapter_names=["first"])
    torch.testing.assert_close(layer.base_layer.weight.data, W0 + alone["first"] + alone["second"])


def test_compiled_training_step(unchecked):
    model = TestHydra().adapted("llama").train()
    copied = copy.deepcopy(model)
    expected = output(model, "llama")
    expected.square().mean().backward()
    found = output(torch.compile(copied.get_base_model(), backend="aot_eager", fullgraph=True), "llama")
    found.square().mean().backward()
    torch.testing.assert_close(found, expected)
    gradients = [{key: p.grad for key, p in m.named_parameters() if p.requires_grad} for m in (model, copied)]
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient)


def test_branch_alignment_of_branches_that_change_nothing_yet():
    model = get_peft_model(nn.Sequential(nn.Linear(4, 3)), HydraConfig(r=2, target_modules=["0"]))
    assert branch_alignment(model, k=2)["0"] == (0, 0)


def test_branch_alignment():
    """By hand: W0 diagonal, the parallel branch on its weakest input, the sequential one on its strongest output."""
    linear = nn.Linear(4, 4, bias=False)
    linear.weight.data = torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0]))
    model = get_peft_model(nn.Sequential(linear), HydraConfig(r=1, target_modules=["0"]))
    weak, strong = torch.eye(4)[3:], torch.tensor([[1.0, 0, 0, 1.0]])
    model.base_model.model[0].deltas["default"].load_state_dict(
        {"par_A": weak, "par_B": weak.mT, "seq_A": strong, "seq_B": strong.mT}
    )
    found = branch_alignment(model, k=1)
    assert list(found) == ["0"]
    assert found["0"].parallel == pytest.approx(0, abs=1e-6)
    assert found["0"].sequential == pytest.approx(8 / math.sqrt(65), rel=1e-5)
    assert branch_alignment(model, k=4)["0"] == pytest.approx((1, 1))
    with pytest.raises(ValueError, match=r"k=5: '0' is 4 x 4, use 1..4"):
        branch_alignment(model, k=5)
    with pytest.raises(ValueError, match="no layer of the model carries a Hydra adapter 'other'"):
        branch_alignment(model, k=1, adapter_name="other")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": -1}, "r=-1: use an integer of at least 0"),
        ({"r_seq": -2}, "r_seq=-2: use an integer of at least 0"),
        ({"r": 2.5}, "r=2.5: use an integer of at least 0"),
        ({"r": True}, "r=True: use an integer of at least 0"),
        ({"r": 0}, "r=0 and r_seq=None leave nothing to train"),
        ({"r": 0, "r_seq": 0}, "r=0 and r_seq=0 leave nothing to train"),
        ({"scaling": math.inf}, "scaling=inf: use a finite number"),
        ({"hydra_dropout": 1.0}, r"hydra_dropout=1.0: use a probability in \[0, 1\)"),
        ({"init_weights": "pissa"}, "init_weights='pissa': use one of True, 'kaiming', 'xavier', 'gaussian', False"),
        ({"rank_pattern": {"a": -1}}, r"rank_pattern\['a'\]=-1: r=-1: use an integer"),
        ({"rank_pattern": {"a": [1, 2, 3]}}, r"rank_pattern\['a'\]=\[1, 2, 3\]: use one rank, or a pair"),
        ({"rank_pattern": {"a": (0, 0)}}, r"rank_pattern\['a'\]=\(0, 0\): r=0 and r_seq=0 leave nothing"),
    ],
)
def test_bad_configurations(unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        HydraConfig(**options)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 3, 1), nn.Embedding(3, 3)])
def test_other_layers_are_refused(layer):
    with pytest.raises(
        TypeError, match=f"hydra cannot adapt '0', a {type(layer).__name__}: it supports Linear, Conv1D"
    ):
        get_peft_model(nn.Sequential(layer), HydraConfig(target_modules=["0"]))


def test_half_a_branch():
    with pytest.raises(ValueError, match="seq_A and seq_B make one branch: pass both or neither"):
        hydra_delta(torch.eye(3), seq_A=torch.ones(1, 3))


def test_factors_by_the_names_of_pefts_layers():
    torch.manual_seed(0)
    model = get_peft_model(nn.Sequential(nn.Linear(4, 3)), HydraConfig(r=2, r_seq=0, target_modules=["0"]))
    layer = model.base_model.model[0]
    assert dict(layer.hydra_seq_A) == {}
    assert "default" not in layer.hydra_seq_A
    with torch.no_grad():
        layer.hydra_par_B["default"].fill_(1.0)
    layer.hydra_par_A["default"] = nn.Parameter(torch.ones(2, 4))
    assert torch.equal(layer.get_delta_weight("default"), torch.full((3, 4), 2.0))
