from __future__ import annotations

import argparse
import sys
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from fullrank._optional import MissingExtra
from fullrank.nn import (
    RAVLT,
    GatedSoftmaxAttention,
    RankAugmentedLinearAttention,
    RAVLTFeatures,
    kv_buffer_rank,
    multiply_adds,
    ravlt_base,
    ravlt_large,
    ravlt_small,
    ravlt_tiny,
    register_with_timm,
)
from fullrank.nn.ravlt_blocks import DropPath

FACTORIES = {"tiny": ravlt_tiny, "small": ravlt_small, "base": ravlt_base, "large": ravlt_large}
#: Parameters; multiply-adds of convolutions and of everything, in millions.
COSTS = {
    "tiny": (14_897_768, 2412, 2626),
    "small": (25_591_208, 4506, 4899),
    "base": (48_241_288, 9802, 10_616),
    "large": (95_242_440, 16_092, 17_256),
}
OTHER_KINDS = [("tiny", "rala", 2549), ("tiny", "softmax", 5380), ("small", "rala", 4754), ("small", "softmax", 9319)]
SMALL = {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4), "head_width": 24}


def small(seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return RAVLT(**({"num_classes": 5} | SMALL | options)).eval()


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the authors' numbers ---------------------------------------------------------------------------------------------


def ours(name):
    """The authors' name of a parameter in our network, written out independently of the loader."""
    stage, *rest = name.removeprefix("layers.").split(".")
    if name.startswith("patch_embed.proj."):
        return name.replace("patch_embed.proj", "stem")
    if not name.startswith("layers."):
        return (
            {"proj": "final_conv", "norm": "final_norm", "head": "head"}[name.split(".")[0]] + "." + name.split(".")[1]
        )
    if rest[0] == "downsample":
        return f"stages.{int(stage) + 1}.downsample.{['reduction', 'norm'].index(rest[1])}.{rest[2]}"
    ending = ".".join(rest[2:])
    for theirs, mine in (("norm1.norm", "norm1"), ("norm2.norm", "norm2"), ("pos", "position"), ("gamma_", "scale")):
        ending = ending.replace(theirs, mine)
    return f"stages.{stage}.blocks.{rest[1]}.{ending}"


def from_config(config):
    known = {
        "flags", "in_chans", "num_classes", "embed_dims", "depths", "num_heads", "mlp_ratios", "drop_path_rate",
        "projection", "layerscales", "layer_init_values", "image", "batch", "seed", "attn flags",
    }  # fmt: skip
    assert set(config) <= known
    scales = zip(config["layerscales"], config["layer_init_values"], strict=True)
    return RAVLT(
        config["in_chans"],
        config["num_classes"],
        embed_dims=config["embed_dims"],
        depths=config["depths"],
        num_heads=config["num_heads"],
        mlp_ratios=config["mlp_ratios"],
        attn_kinds=[{"l": "rala", "v": "softmax"}[flag] for flag in config["flags"]],
        drop_path_rate=config["drop_path_rate"],
        layer_scale=[value if scaled else None for scaled, value in scales],
        head_width=config["projection"],
    )


@pytest.mark.golden("rala")
def test_golden_backbone(case):
    """Logits, the map of every stage, the gradient of the input and the norm of every parameter's gradient."""
    spec, tensors = case.spec, case.tensors
    if "logits" not in tensors:
        assert "output" in tensors  # one attention block: tests/nn/test_rala.py
        return
    model = from_config(spec["config"]).eval()
    state = {name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")}
    model.load_official_state_dict(state)
    assert sum(p.numel() for p in model.parameters()) == spec["parameter_count"]
    logits, features = spec["tolerance"]["logits"], spec["tolerance"]["feat"]

    x = tensors["input"].clone().requires_grad_()
    y = model(x)
    torch.testing.assert_close(y, tensors["logits"], **logits)
    (y * tensors["cotangent"]).sum().backward()
    torch.testing.assert_close(x.grad, tensors["grad.input"], **logits)
    assert {ours(name) for name in spec["grad_norms"]} == {name for name, _ in model.named_parameters()}
    for name, norm in spec["grad_norms"].items():
        assert float(model.get_parameter(ours(name)).grad.norm()) == pytest.approx(norm, **_relative(spec)), name

    with torch.no_grad():
        stem, maps = (
            model.stem(tensors["input"]),
            model.forward_intermediates(tensors["input"], intermediates_only=True),
        )
    found = {"feat.stem": stem} | {f"feat.stage{index}": map for index, map in enumerate(maps)}
    assert set(found) == {name for name in tensors if name.startswith("feat.")}
    for name, value in found.items():
        torch.testing.assert_close(value, tensors[name], **features, check_stride=False)


def _relative(spec):
    return {"rel": spec["tolerance"]["grad_norms"]["rtol"]}


# --- sizes and costs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", FACTORIES)
def test_parameters_and_multiply_adds_are_those_of_the_paper(size):
    with torch.device("meta"):
        model = FACTORIES[size]()
    cost = multiply_adds(model)
    parameters = sum(p.numel() for p in model.parameters())
    assert (parameters, round(cost.convolutions / 1e6), round(cost.all / 1e6)) == COSTS[size]
    assert model.training


@pytest.mark.parametrize(("size", "kinds", "total"), OTHER_KINDS)
def test_networks_of_one_kind_differ_in_products_alone(size, kinds, total):
    with torch.device("meta"):
        model = FACTORIES[size](attn_kinds=kinds)
    parameters, convolutions, _ = COSTS[size]
    cost = multiply_adds(model)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert (round(cost.convolutions / 1e6), round(cost.all / 1e6)) == (convolutions, total)


@pytest.mark.parametrize("kinds", ["rala", "softmax", ("rala", "rala", "softmax", "softmax")])
def test_multiply_adds_against_an_independent_count(kinds):
    """torch's counter sees products: everything but the normalisations, and one more vector per RALA layer."""
    with torch.device("meta"):
        model = small(attn_kinds=kinds)
        counter = FlopCounterMode(display=False)
        with counter:
            model(torch.empty(1, 3, 64, 96))
    norms = []
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm | torch.nn.BatchNorm2d):
            factor = 5 if isinstance(module, torch.nn.LayerNorm) else 2
            module.register_forward_hook(lambda m, i, o, factor=factor: norms.append(factor * o.numel()))
        if isinstance(module, RankAugmentedLinearAttention):
            module.register_forward_hook(lambda m, i, o: norms.append(-o.numel()))
    found = multiply_adds(model, (64, 96))
    assert found.all == counter.get_total_flops() // 2 + sum(norms)


def test_depth_of_the_sizes():
    with torch.device("meta"):
        model = ravlt_large()
    assert [len(stage.blocks) for stage in model.stages] == [4, 7, 19, 8]
    kinds = [type(stage.blocks[0].attn) for stage in model.stages]
    assert kinds == [RankAugmentedLinearAttention] * 2 + [GatedSoftmaxAttention] * 2
    rates = [block.drop_path.rate for stage in model.stages for block in stage.blocks]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.55)
    assert rates == sorted(rates)


# --- the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (33, 97), (70, 40)])
def test_any_size_of_image(size):
    model = small()
    maps = model.forward_intermediates(images(2, 3, *size), intermediates_only=True)
    for map, info in zip(maps, model.feature_info, strict=True):
        rows, columns = (-(-length // info["reduction"]) for length in size)
        assert map.shape == (2, info["num_chs"], rows, columns)
    assert model(images(2, 3, *size)).shape == (2, 5)


def test_a_single_token_is_remarked():
    with pytest.warns(UserWarning, match="a stage of 16 channels sees a single token"):
        assert small()(images(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(("stride", "reduction"), [(4, 32), (2, 16), (1, 8)])
def test_stem_strides(stride, reduction):
    model = small(stem_stride=stride)
    assert model.forward_features(images(1, 3, 64, 64)).shape == (1, 24, 64 // reduction, 64 // reduction)
    assert model.feature_info[-1]["reduction"] == reduction


def test_channels_last_and_state(tmp_path):
    model, x = small(), images(2, 3, 64, 64)
    expected = model(x)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected)
    save_file(model.state_dict(), tmp_path / "ravlt.safetensors")
    other = small(seed=1)
    other.load_state_dict(load_file(tmp_path / "ravlt.safetensors"))
    torch.testing.assert_close(other(x), expected)
    torch.testing.assert_close(model.to(memory_format=torch.channels_last)(x), expected)


def test_initial_values():
    model = small(layer_scale=(1.0, 1e-6, None, 0.5))
    weight = model.stages[2].blocks[0].ffn.fc1.weight
    assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert not model.stages[0].blocks[0].attn.lepe.bias.any()
    scales = [None if s.blocks[0].scale1 is None else s.blocks[0].scale1[0].item() for s in model.stages]
    assert scales == [1, pytest.approx(1e-6), None, 0.5]
    assert model(images(1, 3, 64, 64)).isfinite().all()


def test_drop_path_keeps_the_mean():
    drop, x = DropPath(0.25), torch.ones(4000, 2, 1, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = drop(x)
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert bool((y[:, 0] == y[:, 1]).all())
    assert float(y.mean()) == pytest.approx(1, abs=0.04)
    assert drop.eval()(x) is x


def test_options_of_rala_reach_every_layer():
    plain = small(attn_kinds="rala", rala_options={"reweight": False, "gate": False})
    layers = [m for m in plain.modules() if isinstance(m, RankAugmentedLinearAttention)]
    assert len(layers) == 5
    assert not any(layer.gate or layer.reweight for layer in layers)
    assert list(kv_buffer_rank(plain, images(1, 3, 64, 64))) == [
        f"stages.{stage}.blocks.{block}.attn" for stage, block in ((0, 0), (1, 0), (2, 0), (2, 1), (3, 0))
    ]


def test_training_step_with_checkpointing():
    x = images(2, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        model = small(drop_path_rate=0.3).train()
        model.set_grad_checkpointing(enable)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model(x).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_compiled(unchecked):
    model, x = small(), images(1, 3, 64, 64)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


# --- timm's conventions -----------------------------------------------------------------------------------------------


def test_heads():
    model, x = small(), images(2, 3, 64, 64)
    features = model.forward_features(x)
    assert features.shape == (2, model.num_features, 2, 2)
    torch.testing.assert_close(model.forward_head(features), model(x))
    pooled = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features.mean((2, 3)))
    torch.testing.assert_close(model.get_classifier()(pooled), model(x))
    model.reset_classifier(11)
    assert model(x).shape == (2, 11)
    assert model.num_classes == 11
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), pooled)
    model.reset_classifier(0, global_pool="")
    torch.testing.assert_close(model(x), features)


def test_intermediates():
    model, x = small(), images(1, 3, 64, 64)
    features, maps = model.forward_intermediates(x)
    torch.testing.assert_close(features, model.forward_features(x))
    last, some = model.forward_intermediates(x, indices=(0, -3), stop_early=True)
    torch.testing.assert_close(some, maps[:2])
    torch.testing.assert_close(last, maps[1])
    torch.testing.assert_close(model.forward_intermediates(x, indices=2, intermediates_only=True), maps[2:])
    with pytest.raises(ValueError, match=r"indices \(4,\): name some of the 4 stages, -4..3"):
        model.forward_intermediates(x, indices=(4,))
    with pytest.raises(ValueError, match="only norm=False and 'NCHW'"):
        model.forward_intermediates(x, norm=True)


def test_features_only():
    x = images(1, 3, 64, 64)
    with torch.device("meta"):
        backbone = ravlt_tiny(features_only=True, out_indices=(1, 3))
    assert isinstance(backbone, RAVLTFeatures)
    assert [info["num_chs"] for info in backbone.feature_info] == [128, 512]
    model = small()
    raw = RAVLTFeatures(model, (0, 2), norm=False)(x)
    torch.testing.assert_close(raw, model.forward_intermediates(x, (0, 2), intermediates_only=True))
    normed = RAVLTFeatures(model, (0, 2))
    assert len(normed.stages) == 3
    for map, expected in zip(normed(x), raw, strict=True):
        mean, variance = expected.mean(1, keepdim=True), expected.var(1, keepdim=True, unbiased=False)
        torch.testing.assert_close(map, (expected - mean) / (variance + 1e-6).sqrt(), rtol=1e-4, atol=1e-4)
    normed.set_grad_checkpointing()
    normed(x)[0].sum().backward()


def test_groups_of_parameters():
    import re

    model = small()
    assert model.no_weight_decay() == {
        f"stages.{s}.blocks.{b}.scale{n}" for s, b in ((0, 0), (1, 0), (2, 0), (2, 1), (3, 0)) for n in (1, 2)
    }
    for coarse in (False, True):
        groups = model.group_matcher(coarse)
        blocks = [groups["blocks"]] if coarse else [pattern for pattern, _ in groups["blocks"]]
        for name, _ in model.named_parameters():
            matched = [bool(re.match(pattern, name)) for pattern in (groups["stem"], *blocks)]
            assert sum(matched) == (0 if name.startswith("head") or (coarse and name.startswith("final")) else 1), name


def test_registration_with_timm(monkeypatch):
    """timm cannot be imported everywhere: a module with its registration function stands in."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match="timm"):
        register_with_timm()
    entrypoints = {}
    timm, models = ModuleType("timm"), ModuleType("timm.models")
    models.register_model = lambda fn: entrypoints.setdefault(fn.__name__, fn) if fn.__module__ in sys.modules else None
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "timm.models", models)
    register_with_timm()
    assert set(entrypoints) == {f"ravlt_{size}" for size in FACTORIES}
    with torch.device("meta"):
        model = entrypoints["ravlt_tiny"](
            pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, num_classes=3
        )
    assert model.num_classes == 3


# --- checkpoints of the authors ---------------------------------------------------------------------------------------


def official(model):
    """A checkpoint under the authors' names, as their code saves one."""
    theirs = {}
    for name, tensor in model.state_dict().items():
        part = name.split(".")
        if part[0] == "stem":
            new = f"patch_embed.proj.{'.'.join(part[1:])}"
        elif part[0] == "stages" and part[2] == "downsample":
            new = f"layers.{int(part[1]) - 1}.downsample.{('reduction', 'norm')[int(part[3])]}.{part[4]}"
        elif part[0] == "stages":
            ending = ".".join(part[4:])
            for mine, its in (
                ("norm1", "norm1.norm"),
                ("norm2", "norm2.norm"),
                ("position", "pos"),
                ("scale", "gamma_"),
            ):
                ending = ending.replace(mine, its)
            new = f"layers.{part[1]}.blocks.{part[3]}.{ending}"
        else:
            new = name.replace("final_conv", "proj").replace("final_norm", "norm")
        if new.endswith(("qkvo.weight", "attn.proj.weight", "fc1.weight", "fc2.weight", "head.weight")):
            tensor = tensor[:, :, None, None]
        theirs[new] = tensor.view(1, -1, 1, 1) if "gamma_" in new else tensor
    for stage, (dim, heads) in enumerate(zip(model.embed_dims, SMALL["num_heads"], strict=True)):
        d = dim // heads
        angle = 1 / 10_000 ** torch.linspace(0, 1, d // 4)
        theirs[f"layers.{stage}.RoPE.angle"] = angle.repeat_interleave(2)
    return theirs


def test_official_checkpoints(tmp_path):
    source, x = small(seed=3), images(1, 3, 64, 64)
    expected = source(x)
    state = official(source)
    averaged = {name: tensor + 1 for name, tensor in state.items() if "angle" not in name}
    file, holder = tmp_path / "small.pth", {"model": state, "model_ema": averaged, "args": argparse.Namespace(lr=1e-3)}
    torch.save(holder, file)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "small.safetensors")
    for given in (state, holder, file, str(file), tmp_path / "small.safetensors"):
        model = small()
        model.load_official_state_dict(given)
        torch.testing.assert_close(model(x), expected)
    model.load_official_state_dict(file, ema=True)
    torch.testing.assert_close(model.head.bias, source.head.bias + 1)


def test_checkpoints_that_do_not_fit(tmp_path, unchecked):
    model, state = small(), official(small())
    with torch.device("meta"):
        other = official(ravlt_small())
        other = {name: tensor for name, tensor in other.items() if "angle" not in name}
    with pytest.raises(
        ValueError, match=r"stem.0.weight is \(32, 3, 3, 3\) .* and \(4, 3, 3, 3\) here.* like ravlt_small"
    ):
        model.load_official_state_dict(other)
    with pytest.raises(ValueError, match=r"It has 5 classes: build the network with num_classes=5"):
        small(num_classes=7).load_official_state_dict(state)
    with pytest.raises(ValueError, match=r"missing in the checkpoint: head.bias"):
        model.load_official_state_dict({name: t for name, t in state.items() if name != "head.bias"})
    with pytest.raises(ValueError, match=r"Its widths are those of no published size"):
        small(depths=(1, 1, 1, 1)).load_official_state_dict(state)
    with pytest.raises(ValueError, match=r"holds 'patch.weight', which no RAVLT of the authors has"):
        model.load_official_state_dict(state | {"patch.weight": torch.ones(1)})
    with pytest.raises(ValueError, match=r"layers.0.RoPE.angle holds other rotary frequencies"):
        model.load_official_state_dict(state | {"layers.0.RoPE.angle": torch.ones(4)})
    with pytest.raises(ValueError, match=r"the checkpoint has no 'model_ema' .* pass ema=False"):
        model.load_official_state_dict({"model": state}, ema=True)
    for nothing in ([state], {"model": 3}):
        with pytest.raises(ValueError, match=r"the checkpoint holds a (list|int): a state dict is accepted"):
            model.load_official_state_dict(nothing)
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        model.load_official_state_dict(tmp_path / "none.pth")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (1, 1)}, r"depths=\(1, 1\) has 2 entries for 4 stages"),
        ({"attn_kinds": ("rala", "softmax")}, "attn_kinds=.* has 2 entries for 4 stages"),
        ({"attn_kinds": "linear"}, "attn_kinds names 'linear': use 'rala' or 'softmax'"),
        ({"stem_stride": 3}, "stem_stride=3: use one of 4, 2, 1"),
        ({"global_pool": "max"}, "global_pool='max': use 'avg', or ''"),
        ({"global_pool": ""}, "global_pool='' leaves a map, which num_classes=5 cannot classify"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate=1.0: use a share in \[0, 1\)"),
        ({"num_heads": (1, 3, 2, 4)}, "dim=8 is not a multiple of num_heads=3"),
    ],
)
def test_bad_options(options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_pretrained_weights_are_the_authors_to_give():
    with pytest.raises(ValueError, match=r"pretrained=True: no weights travel with fullrank.*load_official_state_dict"):
        ravlt_tiny(pretrained=True)
    with pytest.raises(ValueError, match="indices"), torch.device("meta"):
        ravlt_tiny(features_only=True, out_indices=(4,))
