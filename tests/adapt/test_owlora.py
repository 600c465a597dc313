from __future__ import annotations

import copy
import json

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import Trainer, TrainingArguments

from fullrank import adapt
from fullrank.adapt import OWLoRACallback, OWLoRAConfig, OwloraConfig, load_tasks
from fullrank.adapt.owlora_projection import Directions, max_cosine, orthonormality_penalty, principal_rank
from fullrank.linalg import svd

from .conformance import Conformance
from .models import TARGETS, build, output


class TestOWLoRA(Conformance):
    def config(self, **options):
        return OWLoRAConfig(**({"r": 2, "energy": 0.3} | options))


class TestReleasedRecipe(Conformance):
    def config(self, **options):
        start = "official" if options.pop("init_weights", True) else False
        return OWLoRAConfig(
            **({"r": 2, "basis": "official_random", "projection": "official", "init_weights": start} | options)
        )


# --- the authors' numbers ---------------------------------------------------------------------------------------------

_OTHER_PARTS = {"region_size", "tau1"}  # fields of the cases of the encoder and of the pseudo labels
_FIELDS = {"in_features", "out_features", "rank", "energy", "basis_init", "basis_rank", "adapters", "seed"}
_BASES = {
    "svd": "svd",
    "random": "official_random",
    "official": "official_random",
    "official_random": "official_random",
}


def golden_layer(config, tensors):
    """The layer of a case, built as a user builds it: truncated, one adapter per task."""
    W0 = tensors["weight_task0"]
    linear = nn.Linear(W0.shape[1], W0.shape[0], bias="bias" in tensors)
    linear.weight.data = W0
    if "bias" in tensors:
        linear.bias.data = tensors["bias"]
    made = OWLoRAConfig(
        r=config["rank"],
        energy=config["energy"],
        rank_rule="official",
        basis=_BASES[config["basis_init"]],
        keep_residual=False,
        projection="official",
        target_modules=["0"],
    )
    model = get_peft_model(nn.Sequential(linear), made, adapter_name="task1")
    for task in range(2, config["adapters"] + 1):
        model.add_task(f"task{task}")
    return model


def check_truncation(config, tensors):
    """Weights alone, one or several: `weight...`, or `caseN.weight...`, and what is said about each."""
    weights: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        case, _, fact = name.rpartition(".")
        weights.setdefault(case, {})[fact] = tensor
    for facts in weights.values():
        U, S, Vh = svd(facts.pop("weight_task0") if "weight_task0" in facts else facts.pop("weight"))
        k = principal_rank(S, config["energy"], "official")
        for fact, expected in facts.items():
            if "truncated" in fact:
                torch.testing.assert_close((U[:, :k] * S[:k]) @ Vh[:k], expected, rtol=1e-4, atol=1e-5)
            elif "singular" in fact:
                torch.testing.assert_close(S, expected.to(S.dtype), rtol=1e-4, atol=1e-5)
            else:
                assert "rank" in fact or fact == "k", fact
                assert k == int(expected)
        assert k == config.get("basis_rank", k)


@pytest.mark.golden("comel")
def test_golden(case):
    """Truncation, basis, forward, every gradient plain and projected, and the penalty with its gradients."""
    config, tensors = case.spec["config"], case.tensors
    if _OTHER_PARTS & set(config):
        pytest.skip("a case of the bag model")
    assert set(config) <= _FIELDS
    if "x" not in tensors:
        check_truncation(config, tensors)
        return
    (tolerance,) = case.spec["tolerance"].values()
    assert tolerance == "rel 1e-4 + abs 1e-5"
    close = {"rtol": 1e-4, "atol": 1e-5}
    model = golden_layer(config, tensors)
    layer = model.base_model.model[0]
    first = layer.deltas["task1"]
    unused = set(tensors) - {"weight_task0", "bias"}

    def check(name, found):
        unused.remove(name)
        torch.testing.assert_close(found, tensors[name].view(found.shape), **close)

    check("weight_truncated", (tensors["weight_task0"] + first.weight()).detach())
    assert len(first.basis.down) == config["basis_rank"]
    if "basis_down" in tensors:
        unused -= {"basis_down", "basis_up"}
        down, up = tensors["basis_down"], tensors["basis_up"]
        assert (first.basis.down.shape, first.basis.up.shape) == (down.shape, up.shape)
        if first.config.basis == "official_random":  # another draw of theirs
            torch.testing.assert_close(first.basis.up, up)
            first.basis = Directions(down, up)
        torch.testing.assert_close(first.basis.down.mT @ first.basis.down, down.mT @ down, **close)
        torch.testing.assert_close(first.basis.up @ first.basis.up.mT, up @ up.mT, **close)
    for task, delta in layer.deltas.items():
        names = {"D": f"{task}.down.weight", "U": f"{task}.up.weight", "w": f"{task}.scales"}
        delta.load_state_dict({ours: tensors[theirs] for ours, theirs in names.items()})
        unused -= set(names.values())
    unused -= {"x", "grad_output"}
    y = model(tensors["x"])
    check("y", y.detach())
    (y * tensors["grad_output"]).sum().backward()
    check("grad_down_raw", delta.D.grad)
    check("grad_up_raw", delta.U.grad)
    check("grad_scales", delta.w.grad)
    model.project_gradients()
    check("grad_down_projected", delta.D.grad)
    check("grad_up_projected", delta.U.grad)
    model.zero_grad()
    penalty = model.orthogonal_penalty()
    check("penalty", penalty.detach())
    penalty.backward()
    check("grad_down_penalty", delta.D.grad)
    check("grad_up_penalty", delta.U.grad)
    assert not unused


# --- the promise ------------------------------------------------------------------------------------------------------


def network(seed=0, **options):
    """A small network whose weights have decaying spectra, with a first task."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 50))
    for layer in (model[0], model[2]):
        U, _, Vh = torch.linalg.svd(layer.weight.data, full_matrices=False)
        layer.weight.data = (U * torch.linspace(0, 4, len(Vh)).neg().exp()) @ Vh
    config = OWLoRAConfig(**({"r": 4, "target_modules": ["0", "2"], "orthogonal_lambda": 0.1} | options))
    return get_peft_model(model, config, adapter_name="one")


def train(model, steps=100, hooks=True, seed=1, lr=1e-2):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.1)
    if hooks:
        model.register_step_hooks(optimizer)
    x, y = torch.randn(32, 40, generator=generator), torch.randn(32, 50, generator=generator)
    for _ in range(steps):
        optimizer.zero_grad()
        ((model(x) - y).square().mean() + model.orthogonal_penalty()).backward()
        optimizer.step()


def trained(tasks=("one", "two", "three"), steps=100, **options):
    model = network(**options)
    for number, task in enumerate(tasks):
        if number:
            model.add_task(task)
        train(model, steps, seed=number)
    return model


def test_orthogonal_after_a_hundred_steps_of_adam():
    model = trained()
    assert max(model.interference().values()) < 1e-4
    for layer in ("0", "2"):
        one, two, three = model.base_model.model.get_submodule(layer).deltas.values()
        assert min(float(delta.weight().detach().norm()) for delta in (one, two, three)) > 0.1
        for later, earlier in ((two, one), (three, one), (three, two)):
            assert max_cosine(later.D, earlier.D) < 1e-4
            assert max_cosine(later.U.mT, earlier.U.mT) < 1e-4
        for delta in (one, two, three):
            assert max_cosine(delta.D, one.basis.down) < 1e-4
            assert max_cosine(delta.U.mT, one.basis.up.mT) < 1e-4


def test_projecting_in_a_loop_of_ones_own_is_the_same():
    hooked, own = trained(("one", "two"), steps=5), network()
    for number, task in enumerate(("one", "two")):
        if number:
            own.add_task(task)
        generator = torch.Generator().manual_seed(number)
        optimizer = torch.optim.AdamW([p for p in own.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
        x, y = torch.randn(32, 40, generator=generator), torch.randn(32, 50, generator=generator)
        for _ in range(5):
            optimizer.zero_grad()
            ((own(x) - y).square().mean() + own.orthogonal_penalty()).backward()
            own.project_gradients()
            optimizer.step()
            own.project_parameters()
    assert all(torch.equal(p, dict(own.named_parameters())[name]) for name, p in hooked.named_parameters())


def test_weaker_projections_drift():
    up = {}
    for kind in ("exact", "gradient", "none"):
        model = trained(("one", "two"), projection=kind)
        one, two = model.base_model.model[0].deltas.values()
        up[kind] = max_cosine(two.U.detach().mT, torch.cat([one.basis.up, one.U.detach()], 1).mT)
    assert up["exact"] < 1e-6 < 1e-3 < up["gradient"] < up["none"]


@pytest.mark.parametrize("conv1d", [False, True])
def test_old_behaviour_is_untouched_in_the_protected_span(conv1d):
    model = trained(("one",))
    layer = model.base_model.model[0]
    protected = torch.cat([layer.deltas["one"].basis.down, layer.deltas["one"].D.detach()])
    if conv1d:
        torch.manual_seed(0)
        model = get_peft_model(build("gpt2"), OWLoRAConfig(r=2, energy=0.4, target_modules=["c_attn"]), "one")
        layer = model.base_model.model.transformer.h[0].attn.c_attn
        layer.deltas["one"].U.data.normal_()
        protected = torch.cat([layer.deltas["one"].basis.down, layer.deltas["one"].D.detach()])
    inside = torch.randn(20, len(protected)) @ protected
    outside = torch.randn(20, layer.in_features)
    before, before_outside = layer(inside).detach(), layer(outside).detach()
    model.add_task("two")
    delta = layer.deltas["two"]
    if conv1d:
        delta.U.data.normal_()
        model.project_parameters()
    else:
        train(model)
    assert float(delta.weight().detach().norm()) > 0.1
    torch.testing.assert_close(layer(inside), before, rtol=0, atol=1e-5)
    change = (layer(outside) - before_outside).detach()
    assert change.abs().max() > 0.01
    one = layer.deltas["one"]
    assert max_cosine(change, one.basis.up.mT) < 1e-3
    assert max_cosine(change, one.U.detach().mT) < 1e-3


@settings(max_examples=15, deadline=None)
@given(st.integers(4, 20), st.integers(4, 20), st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(0, 99))
def test_branches_add_up_and_stay_apart(out, inside, ranks, seed):
    torch.manual_seed(seed)
    options = {"energy": 0.2, "target_modules": ["0"], "orthogonal_lambda": 0}
    base = nn.Sequential(nn.Linear(inside, out))
    W0 = base[0].weight.detach().clone()
    k = principal_rank(svd(W0).S, 0.2)
    room = min(out, inside) - k
    model = get_peft_model(base, OWLoRAConfig(r=min(ranks[0], room), **options), adapter_name="0")
    taken = min(ranks[0], room)
    layer = model.base_model.model[0]
    for task, r in enumerate(ranks[1:], 1):
        if taken + r > room:
            break
        layer.deltas[str(task - 1)].U.data.normal_()
        model.project_parameters()
        model.add_task(str(task), r=r)
        taken += r
    assert model.capacity() == {"0": room - taken}
    assert max(model.interference().values()) < 1e-4
    x = torch.randn(5, inside)
    loop = sum((delta.U @ delta.w.diag() @ delta.D for delta in layer.deltas.values()), W0)
    torch.testing.assert_close(model(x), x @ loop.mT + base[0].base_layer.bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keep_residual", [True, False])
@pytest.mark.parametrize("name", ["mlp", "gpt2"])
def test_folding_all_branches(name, keep_residual):
    """Merged, and side by side in one LoRA adapter, they do what they do one after another."""
    torch.manual_seed(0)
    options = {"r": 2, "energy": 0.4, "keep_residual": keep_residual, "target_modules": TARGETS[name]}
    model = get_peft_model(build(name), OWLoRAConfig(**options), adapter_name="one").eval()
    for task in ("two", "three"):
        model.add_task(task, r=1)
    for delta in model.base_model.deltas():
        nn.init.normal_(delta.U, std=0.3)
        nn.init.normal_(delta.w)
    expected = output(model, name)
    assert not torch.allclose(expected, output(build(name), name), atol=1e-3)
    close = {"rtol": 1e-4, "atol": 1e-4 * float(expected.detach().abs().max())}
    config, state = model.to_lora()
    if keep_residual:
        assert set(config.rank_pattern.values()) == {4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)  # PEFT's remark about Conv1D and patterns
        lora = get_peft_model(build(name), config).eval()
    peft.set_peft_model_state_dict(lora, state)
    torch.testing.assert_close(output(lora, name), expected, **close)
    model.merge_adapter()
    torch.testing.assert_close(output(model, name), expected, **close)
    model.unmerge_adapter()
    assert torch.equal(output(model, name), expected)
    torch.testing.assert_close(output(model.merge_and_unload(), name), expected, **close)


def test_truncating_the_base():
    model = network(keep_residual=False, energy=0.8)
    x = torch.randn(7, 40)
    layer = model.base_model.model[0]
    U, S, Vh = torch.linalg.svd(layer.base_layer.weight, full_matrices=False)
    k = principal_rank(S.detach(), 0.8)
    truncated = (U[:, :k] * S[:k]) @ Vh[:k]
    torch.testing.assert_close(layer(x), x @ truncated.mT + layer.base_layer.bias, rtol=1e-4, atol=1e-5)
    model.add_task("two")  # truncates nothing more
    torch.testing.assert_close(layer(x), x @ truncated.mT + layer.base_layer.bias, rtol=1e-4, atol=1e-5)


@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=12), st.floats(0.05, 0.999))
def test_principal_rank(values, energy):
    S = torch.tensor(sorted(values, reverse=True))
    k, squares = principal_rank(S, energy), S.double().square()
    assert squares[:k].sum() >= (energy - 1e-9) * squares.sum()
    assert squares[: k - 1].sum() < (energy + 1e-9) * squares.sum()
    assert principal_rank(S, energy, "official") in {max(1, min(j, len(S) - 1)) for j in (k, k + 1)}
    assert principal_rank(torch.ones(4), 0.99) == 4
    assert principal_rank(torch.ones(4), 0.99, "official") == 3
    assert principal_rank(torch.zeros(4), 0.9) == 0


def test_penalty_is_zero_for_orthonormal_factors_only():
    Q = torch.linalg.qr(torch.randn(9, 3)).Q
    assert float(orthonormality_penalty(Q.mT, Q)) == pytest.approx(0, abs=1e-10)
    # (||4 I - I||^2 + ||-I||^2) / r^2 with r = 3
    assert float(orthonormality_penalty(2 * Q.mT, 0 * Q)) == pytest.approx((9 * 3 + 3) / 9, rel=1e-5)


def test_a_start_in_the_free_directions():
    model = network()
    model.add_task("two")
    for delta in model.base_model.deltas():
        torch.testing.assert_close(delta.D.norm(dim=1), torch.ones(4))
        assert not delta.U.any()
        assert delta.w.eq(1).all()
    assert max(model.interference().values()) < 1e-6


def test_ranks_of_single_and_fused_layers():
    options = {"r": 2, "energy": 0.2, "target_modules": ["c_attn", "c_proj"], "fused_groups": {"c_attn": 3}}
    model = get_peft_model(build("gpt2"), OWLoRAConfig(r_pattern={"mlp.c_proj": 1}, **options))
    block = model.base_model.model.transformer.h[0]
    assert block.attn.c_attn.deltas["default"].D.shape == (6, 16)
    assert block.attn.c_attn.deltas["default"].U.shape == (48, 6)
    assert len(block.attn.c_proj.deltas["default"].D) == 2
    assert len(block.mlp.c_proj.deltas["default"].D) == 1


def test_released_basis_protects_next_to_nothing():
    model = network(basis="official_random")
    one = model.base_model.model[0].deltas["one"]
    assert one.basis.down.std() == pytest.approx(1 / len(one.basis.down), rel=0.1)
    assert not one.basis.up.any()
    again = network(basis="official_random", seed=0).base_model.model[0].deltas["one"]
    assert torch.equal(again.basis.down, one.basis.down)
    other = network(basis="official_random", basis_seed=1).base_model.model[0].deltas["one"]
    assert not torch.equal(other.basis.down, one.basis.down)
    train(model)
    assert max(model.interference().values()) < 1e-4
    assert max_cosine(one.U.detach().mT, svd(one.base.weight).U[:, :3].mT) > 0.1


# --- tasks ------------------------------------------------------------------------------------------------------------


def training(model):
    return {name.split("owlora_delta.")[1].split(".")[0] for name, p in model.named_parameters() if p.requires_grad}


def test_one_task_is_trained_and_all_add_up():
    model = network()
    assert (model.tasks, training(model)) == (["one"], {"one"})
    model.add_task("two", r=3)
    assert (model.tasks, training(model)) == (["one", "two"], {"two"})
    assert model.active_adapters == ["one", "two"]
    model.set_adapter("one")
    assert training(model) == set()  # a task that is over stays as it is
    model.set_adapter("two")
    assert training(model) == {"two"}


def test_resuming_a_task_stays_out_of_later_ones():
    model = trained()
    before = copy.deepcopy(dict(model.named_parameters()))
    model.resume_task("two")
    assert training(model) == {"two"}
    train(model, seed=7)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all(".two." in name for name in changed)
    assert max(model.interference().values()) < 1e-4
    model.add_task("four")
    train(model, steps=10)
    assert max(model.interference().values()) < 1e-4


def test_every_task_has_a_head_of_its_own():
    torch.manual_seed(0)
    config = OWLoRAConfig(r=2, energy=0.3, target_modules=["0", "2"], modules_to_save=["4"])
    model = get_peft_model(build("mlp"), config, adapter_name="one")
    model.add_task("two")
    heads = model.base_model.model[4].modules_to_save
    assert (heads["one"].weight.requires_grad, heads["two"].weight.requires_grad) == (False, True)
    with torch.no_grad():
        heads["two"].bias += 5
    high = output(model, "mlp")
    model.base_model.set_adapter(["two", "one"])
    assert torch.allclose(output(model, "mlp"), high - 5)


def test_a_head_that_only_an_earlier_task_trained_stays_in_use(tmp_path):
    torch.manual_seed(0)
    config = OWLoRAConfig(r=2, energy=0.3, target_modules=["0"], modules_to_save=["4"])
    model = get_peft_model(build("mlp"), config, adapter_name="one")
    head = model.base_model.model[4]
    with torch.no_grad():
        head.modules_to_save["one"].bias += 5
    before = output(model, "mlp")
    model.add_task("two", modules_to_save=["2"])
    assert torch.equal(output(model, "mlp"), before)
    assert not any(p.requires_grad for p in head.parameters())
    model.save_pretrained(tmp_path)
    assert torch.equal(output(load_tasks(build("mlp"), tmp_path), "mlp"), before)


def test_alternatives_share_no_copy_of_a_module():
    config = OWLoRAConfig(r=2, energy=0.3, target_modules=["0"], modules_to_save=["4"])
    model = get_peft_model(build("mlp"), config, adapter_name="one")
    model.add_adapter("other", OWLoRAConfig(r=2, energy=0.3, target_modules=["0"], modules_to_save=["4"]))
    with pytest.raises(ValueError, match="Only one adapter can be set at a time for ModulesToSaveWrapper"):
        model.base_model.set_adapter(["one", "other"])


def test_tasks_on_different_layers():
    model = network(target_modules=["0"])
    train(model)
    model.add_task("two", target_modules=["0", "2"])
    train(model)
    model.add_task("three")
    train(model)
    assert set(model.interference()) == {"0", "2"}
    assert max(model.interference().values()) < 1e-4
    assert len(model.base_model.model[2].deltas["two"].basis.down) > 0


def test_an_alternative_is_no_task():
    model = network()
    model.add_adapter("other", OWLoRAConfig(r=4, target_modules=["0", "2"]))
    assert model.base_model.model[0].deltas["other"].others == ()
    assert model.active_adapters == ["one"]


def test_deleting_tasks_from_the_end():
    model = trained(steps=2)
    with pytest.raises(ValueError, match="'two', 'three' were trained beside 'one': delete them first"):
        model.delete_adapter("one")
    model.delete_adapter("three")
    assert model.tasks == model.active_adapters == ["one", "two"]


# --- saving and loading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", ["svd", "none", "official_random"])
def test_three_tasks_come_back(tmp_path, basis):
    model = trained(basis=basis, steps=3)
    x = torch.randn(5, 40)
    expected, base = model(x), copy.deepcopy(model).unload()
    model.save_pretrained(tmp_path)
    torch.manual_seed(9)
    again = load_tasks(copy.deepcopy(base), tmp_path)
    assert again.tasks == ["one", "two", "three"]
    assert torch.equal(again(x), expected)
    assert training(again) == set()
    assert again.capacity() == model.capacity()
    assert again.interference() == pytest.approx(model.interference(), abs=1e-6)
    onward = load_tasks(copy.deepcopy(base), tmp_path, is_trainable=True)
    assert training(onward) == {"three"}
    for other in (model, onward):
        torch.manual_seed(3)
        other.add_task("four")
        train(other, steps=5)
    torch.testing.assert_close(onward(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_first_task_may_be_the_default(tmp_path):
    model = get_peft_model(build("mlp"), OWLoRAConfig(r=2, energy=0.3, target_modules=["0"]))
    model.add_task("two")
    for delta in model.base_model.deltas():
        nn.init.normal_(delta.U)
    model.save_pretrained(tmp_path)
    again = load_tasks(build("mlp"), tmp_path)
    assert again.tasks == ["default", "two"]
    assert torch.equal(output(again, "mlp"), output(model, "mlp"))


def test_a_later_task_is_not_loaded_alone(tmp_path):
    model = trained(("one", "two"), steps=1)
    base = copy.deepcopy(model).unload()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"task 'two' follows 'one', which the model does not have: .*load_tasks"):
        PeftModel.from_pretrained(base, tmp_path / "two", adapter_name="two")


def test_a_folder_without_tasks(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(FileNotFoundError, match="holds no task of OWLoRA: give the folder"):
        load_tasks(build("mlp"), tmp_path)


def test_a_base_that_is_not_there_yet():
    with torch.device("meta"):
        linear = nn.Linear(4, 4)
    model = get_peft_model(nn.Sequential(linear), OWLoRAConfig(r=1, target_modules=["0"], energy=0.5))
    with pytest.raises(RuntimeError, match=r"'0' is on the meta device, and basis='svd' needs its singular vectors"):
        model.project_gradients()
    model.to_empty(device="cpu")
    nn.init.normal_(model.base_model.model[0].base_layer.weight)
    model.project_gradients()
    assert len(model.base_model.model[0].deltas["default"].basis.down) > 0


# --- training elsewhere -----------------------------------------------------------------------------------------------


def test_distributed_training(tmp_path):
    alone = network()
    train(alone, steps=5)
    alone.add_task("two")
    two = network()
    train(two, steps=5)
    two.add_task("two")
    two.load_state_dict(alone.state_dict())
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(two)
        parallel.register_step_hooks = two.register_step_hooks
        parallel.orthogonal_penalty = two.orthogonal_penalty
        train(parallel, steps=20)
        train(alone, steps=20)
    finally:
        torch.distributed.destroy_process_group()
    assert all(torch.equal(p, dict(two.named_parameters())[name]) for name, p in alone.named_parameters())


class Regression(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, labels):
        return {"loss": (self.model(x) - labels).square().mean()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("penalty", [True, False])
def test_callback_in_a_trainer(tmp_path, penalty):
    model = trained(("one",), steps=20, orthogonal_lambda=1.0)
    model.add_task("two")
    started = float(model.orthogonal_penalty().detach())
    arguments = TrainingArguments(
        tmp_path, max_steps=60, per_device_train_batch_size=4, report_to=[], use_cpu=True, save_strategy="no",
        learning_rate=0.02, weight_decay=0.1, disable_tqdm=True,
    )  # fmt: skip
    rows = [{"x": torch.randn(40), "labels": torch.randn(50)} for _ in range(8)]
    Trainer(Regression(model), arguments, train_dataset=rows, callbacks=[OWLoRACallback(penalty)]).train()
    assert max(model.interference().values()) < 1e-4
    assert float(model.base_model.model[0].deltas["two"].weight().detach().norm()) > 0.1
    assert (float(model.orthogonal_penalty().detach()) < 0.3 * started) == penalty


# --- bad input --------------------------------------------------------------------------------------------------------


def test_no_free_directions():
    with pytest.raises(
        ValueError, match=r"'one' has no room in '0' \(\d+ of 40 free, rank 49\), '2' \(.* lower energy"
    ):
        network(r=49)
    model = network()
    name, room = min(model.capacity().items(), key=lambda item: item[1])
    with pytest.raises(
        ValueError, match=rf"task 'two' has no room in '{name}' \({room} of \d+ free, rank {room + 1}\)"
    ):
        model.add_task("two", r=room + 1)
    assert (model.tasks, training(model)) == (["one"], {"one"})
    model.add_task("two", r=room)
    assert model.capacity()[name] == 0


def test_a_name_that_is_taken():
    model = network()
    with pytest.raises(ValueError, match=r"there is a task 'one' already: .* resume_task\('one'\) to train it on"):
        model.add_task("one")
    with pytest.raises(ValueError, match="there is no task 'two': the model has 'one'"):
        model.resume_task("two")


def test_options_of_the_model_are_no_options_of_a_task():
    with pytest.raises(ValueError, match="energy, basis: the first task has set this for the whole model"):
        network().add_task("two", basis="none", energy=0.5)


def test_an_optimizer_that_was_made_too_early():
    model = network()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.add_task("two")
    model.register_step_hooks(optimizer)
    model(torch.randn(2, 40)).sum().backward()
    with pytest.raises(RuntimeError, match=r"the optimiser lacks 6 parameters .* created before add_task"):
        optimizer.step()


def test_nothing_is_trained():
    model = network()
    model.set_adapter("one", inference_mode=True)
    for ask in (model.orthogonal_penalty, model.project_gradients, model.project_parameters):
        with pytest.raises(ValueError, match=r"no task of OWLoRA is trained: call add_task\(name\)"):
            ask()


@pytest.mark.parametrize("field", ["r_pattern", "fused_groups"])
def test_a_pattern_that_names_no_layer(field):
    config = OWLoRAConfig(r=1, energy=0.3, target_modules=["0", "2"], **{field: {"2": 1, "qkv": 2}})
    with pytest.warns(UserWarning, match=f"{field} names 'qkv', which is none of the layers that 'default' changes"):
        get_peft_model(build("mlp"), config)


def test_a_weight_that_is_not_finite():
    linear = nn.Linear(4, 4)
    linear.weight.data[1, 2] = torch.nan
    with pytest.raises(ValueError, match="the weight of '0'"):
        get_peft_model(nn.Sequential(linear), OWLoRAConfig(r=1, target_modules=["0"]))


@pytest.mark.usefixtures("unchecked")
def test_a_weight_of_integers():
    linear = nn.Linear(4, 4)
    linear.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"the weight of '0' has dtype torch\.int8: a floating dtype is needed"):
        get_peft_model(nn.Sequential(linear), OWLoRAConfig(r=1, target_modules=["0"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r=0: use an integer of at least 1"),
        ({"r": True}, "r=True: use an integer of at least 1"),
        ({"r_pattern": {"a": -1}}, r"r_pattern\['a'\]=-1: r=-1: use an integer"),
        ({"fused_groups": {"qkv": 0}}, r"fused_groups\['qkv'\]=0: use an integer of at least 1"),
        ({"energy": 0}, r"energy=0: use a share in \(0, 1\]"),
        ({"energy": 1.01}, r"energy=1.01: use a share in \(0, 1\]"),
        ({"basis": "random"}, "basis='random': use one of 'svd', 'none', 'official_random'"),
        ({"projection": "qr"}, "projection='qr': use one of 'exact', 'gradient', 'official', 'none'"),
        ({"rank_rule": "all"}, "rank_rule='all': use one of 'smallest', 'official'"),
        ({"orthogonal_lambda": -1}, "orthogonal_lambda=-1: use a finite number of at least 0"),
        ({"weight_init": 0}, "weight_init=0: use a finite number other than 0"),
        ({"init_weights": "pissa"}, "init_weights='pissa': use one of True, 'official', False"),
    ],
)
def test_bad_configurations(unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        OwloraConfig(**options)


def test_names_as_peft_writes_them():
    assert adapt.OWLoraConfig is adapt.OwloraConfig is OWLoRAConfig
    assert adapt.OWLoraCallback is OWLoRACallback
