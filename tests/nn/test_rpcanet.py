"""RPCANet and RPCANet++: the authors' numbers, properties, bad input."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fullrank.nn.contrast import ContrastLayer
from fullrank.nn.convolutional_lstm import GATES, ConvolutionalLSTM, Memory
from fullrank.nn.large_kernel import LargeKernelConv2d
from fullrank.nn.rpca_loss import RPCALoss, soft_iou_loss
from fullrank.nn.rpcanet import RPCANet, RPCANetOutput, RPCANetPP, UnfoldedRPCA
from fullrank.nn.rpcanet_checkpoint import load_official_rpcanet, rpcanet_from_official, to_official_names
from fullrank.nn.rpcanet_diagnosis import LowRankness, stage_low_rankness, stage_sparsity

SIZES = {
    "stage_num": "num_stages",
    "slayers": "sparse_layers",
    "llayers": "background_layers",
    "mlayers": "merge_layers",
    "channel": "channels",
}
MODELS = {"rpcanet": RPCANet, "rpcanet++": RPCANetPP}


def golden_model(spec, tensors, **options):
    sizes = {SIZES[name]: value for name, value in spec["config"].items()}
    model = MODELS[spec["model"]](**sizes, **options)
    state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}
    load_official_rpcanet(model, state)
    assert spec["mode"].split()[0] in ("eval", "train")
    return model.train(spec["mode"].startswith("train"))


@pytest.mark.golden("rpcanet")
@pytest.mark.filterwarnings("ignore:images of .* are smaller than the contrast's window")
def test_golden_network(case):
    spec, tensors = case.spec, case.tensors
    if "model" not in spec:
        assert spec["what"].startswith("Segmentation metrics")
        return
    tolerance = spec["tolerance"]
    model = golden_model(spec, tensors)
    image = tensors["input"].requires_grad_()
    output = model(image, output_stages=True)
    found = {"restored": output.restored, "object_logits": output.object_logits}
    for number, stage in enumerate(output.stages):
        found |= {f"stage{number}.{name}": value for name, value in stage._asdict().items()}
    assert {name for name in tensors if name.startswith("stage") and name[5].isdigit()} <= set(found)
    for name, value in found.items():
        torch.testing.assert_close(value, tensors[name], **tolerance["outputs"])

    loss = RPCALoss()(output, image.detach(), tensors["mask"])
    soft_iou = soft_iou_loss(torch.sigmoid(output.object_logits), tensors["mask"])
    for value, name in ((loss, "loss"), (soft_iou, "loss.softiou")):
        torch.testing.assert_close(value, tensors[name].squeeze(), **tolerance["loss"], atol=0)
    loss.backward()
    torch.testing.assert_close(image.grad, tensors["grad.input"], **tolerance["outputs"])
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert None not in gradients.values()
    theirs = to_official_names(gradients | {n: b for n, b in model.named_buffers() if b.ndim})
    norms = spec["grad_norms"]
    unused = {name for name, norm in norms.items() if norm is None}
    assert unused == set(spec["unused_parameters"])
    assert {name for name in theirs if "running" not in name} == set(norms) - unused
    floor = 1e-6 * max(norm for norm in norms.values() if norm)  # biases before a batch norm: rounding alone
    for name in set(norms) - unused:
        assert float(theirs[name].norm()) == pytest.approx(
            norms[name], rel=tolerance["grad_norms"]["rtol"], abs=floor
        ), name

    after = {name.removeprefix("after."): value for name, value in tensors.items() if name.startswith("after.")}
    assert bool(after) == model.training
    for name, value in after.items():
        torch.testing.assert_close(theirs[name], value, **tolerance["outputs"])

    counted = sum(p.numel() for p in golden_model(spec, tensors, **layout(spec)).parameters())
    assert counted == spec["parameter_count"]
    double = golden_model(spec, tensors).double()
    logits = double(tensors["input"].detach().double()).object_logits
    torch.testing.assert_close(logits, tensors["object_logits_f64"], rtol=1e-9, atol=1e-10)


def layout(spec):
    return {"official_layout": True} if spec["model"] == "rpcanet++" else {}


# --- properties -------------------------------------------------------------------------------------------------------


def small(**options):
    torch.manual_seed(0)
    return RPCANetPP(**({"num_stages": 2, "channels": 4, "sparse_layers": 1, "merge_layers": 1} | options))


def picture(batch=2, height=20, width=24, dtype=torch.float32):
    return torch.rand(batch, 1, height, width, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("stages", [1, 9])
@pytest.mark.parametrize("build", [RPCANet, RPCANetPP])
def test_any_size(build, stages):
    model = build(num_stages=stages, channels=4, sparse_layers=1, merge_layers=1)
    x = picture(height=33, width=57)
    output = model(x, output_stages=True)
    assert len(output.stages) == stages
    for part in (output.restored, output.object_logits, *(part for stage in output.stages for part in stage)):
        assert part.shape == x.shape
    assert model(x).stages == ()


def test_one_stage_by_hand():
    """The operators of the paper, written out in torch's functions, with the published names."""
    model = small(num_stages=1, contrast_kernel=5).eval()
    W = to_official_names(model.state_dict())
    conv = torch.nn.functional.conv2d

    def c(name, u):
        return conv(u, W[f"decos.0.{name}.weight"], W[f"decos.0.{name}.bias"], padding="same")

    def bn(name, u):
        p = f"decos.0.{name}"
        u = (u - W[f"{p}.running_mean"].view(-1, 1, 1)) / (W[f"{p}.running_var"].view(-1, 1, 1) + 1e-5).sqrt()
        return u * W[f"{p}.weight"].view(-1, 1, 1) + W[f"{p}.bias"].view(-1, 1, 1)

    def block(name, u):
        return u + c(f"{name}.conv2", c(f"{name}.conv1", u).relu())

    D = picture()
    f = block("lowrank.RB_1", bn("lowrank.conv1_C.1", c("lowrank.conv1_C.0", D)).relu())
    i, o, j = (c(f"lowrank.ConvLSTM.conv_x{gate}", f) for gate in "ioj")
    h = o.sigmoid() * (i.sigmoid() * j.tanh())
    B = D + c("lowrank.convC_1", block("lowrank.RB_2", h))
    X = D - B
    u = c("sparse.contrast.0", X).relu()
    squeeze = "sparse.contrast.2.attn.avg_channel"
    pooled = bn(f"{squeeze}.2", c(f"{squeeze}.1", u.mean((2, 3), keepdim=True))).relu()
    theta = bn(f"{squeeze}.5", c(f"{squeeze}.4", pooled)).sigmoid()
    kernel = W["decos.0.sparse.contrast.2.conv.weight"]
    contrast = theta * conv(u, kernel.sum((2, 3), keepdim=True)) - conv(u, kernel, padding=2)
    w = c("sparse.contrast.5", torch.nn.functional.leaky_relu(bn("sparse.contrast.3", contrast), 0.1))
    T = X - W["decos.0.sparse.epsilon"] * c(
        "sparse.convs.4", c("sparse.convs.2", c("sparse.convs.0", X + w).relu()).relu()
    )
    u = bn("merge.mapping.1", c("merge.mapping.0", B + T)).relu()
    expected = c("merge.mapping.6", bn("merge.mapping.4", c("merge.mapping.3", u)).relu())

    output = model(D, output_stages=True)
    for found, by_hand in zip(
        (*output.stages[0], output.restored, output.object_logits), (B, T, expected, expected, T), strict=True
    ):
        torch.testing.assert_close(found, by_hand)
    torch.testing.assert_close(model.object_logits(D), T)


def test_a_constant_image_has_no_contrast():
    layer = ContrastLayer(4).eval()
    last = layer.squeeze[-1]
    torch.nn.init.constant_(last.weight, 0)
    torch.nn.init.constant_(last.bias, 100.0)  # theta = 1
    contrast = layer(torch.full((1, 4, 40, 40), 0.7)).detach()
    assert float(contrast[..., 8:-8, 8:-8].abs().max()) < 1e-6
    assert float(contrast.abs().max()) > 1e-3  # the border sees zeros


@pytest.mark.parametrize(
    ("model", "built", "used"),
    [
        (lambda **more: RPCANet(), 679_896, 679_896),
        (lambda **more: RPCANetPP(num_stages=3, **more), 1_480_791, 1_480_791 - 5 * 9_248),
        (lambda **more: RPCANetPP(num_stages=6, **more), 2_961_582, 2_961_582 - 5 * 9_248),
        (lambda **more: RPCANetPP(num_stages=9, **more), 4_442_373, 4_442_373 - 5 * 9_248),
    ],
)
def test_published_sizes(model, built, used):
    with torch.device("meta"):
        assert sum(p.numel() for p in model().parameters()) == used
        assert sum(p.numel() for p in model(official_layout=True).parameters()) == built


@pytest.mark.parametrize("build", [RPCANet, RPCANetPP])
def test_every_parameter_learns(build):
    model = build(num_stages=3, channels=4, sparse_layers=1, merge_layers=1)
    x = picture()
    RPCALoss()(model(x), x, (x > 0.8).float()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@pytest.mark.parametrize("training", [False, True])
def test_fast_and_plain_paths_agree(dtype, tolerance, training):
    outputs, gradients = [], []
    x = picture(height=70, width=51, dtype=dtype)
    for method in ("direct", "fft"):
        model = small(contrast_method=method).to(dtype).train(training)
        output = model(x)
        RPCALoss()(output, x, (x > 0.8).to(dtype)).backward()
        outputs.append(torch.cat([output.restored, output.object_logits]))
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*outputs, rtol=0, atol=tolerance * float(outputs[0].detach().abs().max()))
    for direct, fft in zip(*gradients, strict=True):
        torch.testing.assert_close(direct, fft, rtol=100 * tolerance, atol=tolerance)


def test_fused_gates_are_the_single_ones():
    torch.manual_seed(0)
    lstm = ConvolutionalLSTM(3).double()
    f, h, s = torch.rand(3, 2, 3, 8, 9, dtype=torch.float64)
    conv = torch.nn.functional.conv2d
    gates = {}
    for number, gate in enumerate(GATES):
        part = slice(3 * number, 3 * number + 3)
        fields = ((layer.weight[part], layer.bias[part]) for layer in (lstm.features, lstm.memory))
        gates[gate] = sum(conv(u, *field, padding=1) for u, field in zip((f, h), fields, strict=True))
    cell = gates["f"].sigmoid() * s + gates["i"].sigmoid() * gates["j"].tanh()
    found = lstm(f, Memory(h, s))
    torch.testing.assert_close(found.s, cell, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.h, gates["o"].sigmoid() * cell.tanh(), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="built with first=True"):
        ConvolutionalLSTM(3, first=True).double()(f, Memory(h, s))


@settings(max_examples=15, deadline=None)
@given(
    height=st.integers(1, 60), width=st.integers(1, 60), kernel=st.sampled_from([1, 3, 9, 17, 31]),
    into=st.integers(1, 3), out=st.integers(1, 3),
)  # fmt: skip
def test_the_frequency_domain_is_a_convolution(height, width, kernel, into, out):
    layer = LargeKernelConv2d(into, out, kernel, "fft").double().eval()
    x = torch.rand(2, into, height, width, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(x, layer.weight, padding=kernel // 2)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_the_kept_spectrum_follows_the_weight():
    layer = LargeKernelConv2d(2, 2, 9, "fft").eval()
    x = torch.rand(1, 2, 20, 20)

    def is_right():
        expected = torch.nn.functional.conv2d(x, layer.weight, padding=4)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)

    is_right()
    assert len(layer._kept) == 1
    with torch.no_grad():
        layer.weight.mul_(2)
    is_right()
    layer.weight.data.mul_(2)  # no version tells
    is_right()
    layer.load_state_dict({"weight": torch.rand_like(layer.weight)})
    is_right()
    assert copy.deepcopy(layer)._kept == {}
    layer.train()
    assert layer._kept == {}
    assert set(layer.state_dict()) == {"weight"}


def test_checkpointing_changes_nothing():
    x = picture()
    results = []
    for checkpointing in (False, True):
        model = small().train()
        model.gradient_checkpointing = checkpointing
        RPCALoss()(model(x), x, (x > 0.8).float()).backward()
        results.append({n: p.grad for n, p in model.named_parameters()} | dict(model.named_buffers()))
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, msg=name)


def test_switches():
    x = picture()
    full, without_memory, without_contrast = small(), small(memory=False), small(contrast=False)
    assert not [name for name in without_memory.state_dict() if "lstm" in name]
    assert not [name for name in without_contrast.state_dict() if "prior" in name]
    assert (
        len({float(model.eval().object_logits(x).detach().sum()) for model in (full, without_memory, without_contrast)})
        == 3
    )
    colour = small(in_channels=3)(torch.rand(2, 3, 20, 20))
    assert colour.object_logits.shape == (2, 1, 20, 20)
    assert colour.restored.shape == (2, 3, 20, 20)
    normalizing = small(normalize=True).eval()
    pixels = (255 * x).to(torch.uint8)
    unhooked = normalizing._checked(pixels)
    torch.testing.assert_close(unhooked, pixels.float() / 255)


def test_decompose_keeps_the_mode():
    model = small().train()
    before = model.state_dict()
    stages = model.decompose(picture())
    assert model.training
    torch.testing.assert_close(model.state_dict(), before)
    torch.testing.assert_close(stages[-1].object, model.eval()(picture()).object_logits)
    assert not stages[0].background.requires_grad


def test_diagnosis():
    model, x = small(), picture()
    found = stage_low_rankness(model, x, k=3)
    assert len(found.stages) == 2
    values = torch.linalg.svdvals(x[:, 0])
    torch.testing.assert_close(found.input.curve, values.mean(0), rtol=1e-4, atol=1e-5)
    shares = values / values.sum(1, keepdim=True)
    assert found.input.effective_rank == pytest.approx(float(torch.special.entr(shares).sum(1).exp().mean()), rel=1e-4)
    assert 0 < found.input.energy < 1
    assert LowRankness.of(torch.zeros(1, 1, 4, 4), 2).effective_rank == 0
    shares = stage_sparsity(model, x)
    assert shares[-1] == pytest.approx(float((model.decompose(x)[-1].object > 0).float().mean()))
    assert all(loose <= strict for loose, strict in zip(stage_sparsity(model, x, tol=0.1), shares, strict=True))
    with pytest.raises(ValueError, match="k=21: 1 to 20 is accepted"):
        stage_low_rankness(model, x, k=21)
    with pytest.raises(ValueError, match=r"tol=-1.0: use 0 or more"):
        stage_sparsity(model, x, tol=-1.0)


def test_compiled(unchecked):
    model, x = small(), picture()
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager")
    for one in (model, compiled):
        one(x).object_logits.sum().backward()
    gradients = [
        {name.removeprefix("_orig_mod."): p.grad for name, p in one.named_parameters()} for one in (model, compiled)
    ]
    for name, gradient in gradients[0].items():
        if gradient is not None:
            torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(dtype):
    model = small().to(dtype).eval()
    x = picture(dtype=torch.float64).to(dtype)
    assert model(x).object_logits.dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert small().eval()(picture()).object_logits.isfinite().all()


# --- files ------------------------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path):
    model = small(contrast_kernel=9).double().eval()
    path = model.save(tmp_path / "model.safetensors")
    for kind in (RPCANetPP, UnfoldedRPCA):
        loaded = kind.load(path).eval()
        assert isinstance(loaded, RPCANetPP)
        assert loaded.configuration == model.configuration
        x = picture(dtype=torch.float64)
        torch.testing.assert_close(loaded(x).object_logits, model(x).object_logits)
    with pytest.raises(ValueError, match="holds no RPCANet: its metadata name 'RPCANetPP'"):
        RPCANet.load(path)


@pytest.mark.parametrize("form", ["pickle", "safetensors", "dict"])
@pytest.mark.parametrize("official_layout", [True, False])
def test_published_checkpoints_go_both_ways(tmp_path, form, official_layout):
    model = small(official_layout=True, contrast_kernel=9).eval()
    state = {name: tensor.contiguous() for name, tensor in to_official_names(model.state_dict()).items()}
    assert sum("ConvLSTM.conv_hf" in name for name in state) == 4
    source = state
    if form == "pickle":
        source = tmp_path / "model.pkl"
        torch.save(state, source)
    elif form == "safetensors":
        source = tmp_path / "model.safetensors"
        save_file(state, source)
    built = rpcanet_from_official(source).eval()
    other = small(official_layout=official_layout, contrast_kernel=9).eval()
    load_official_rpcanet(other, source)
    for found in (built, other):
        torch.testing.assert_close(found(picture()).object_logits, model(picture()).object_logits)
    if official_layout:
        torch.testing.assert_close(to_official_names(other.state_dict()), state)


def test_published_checkpoints_of_the_first_network():
    torch.manual_seed(0)
    model = RPCANet(2, 4, 2, 3, 1).eval()
    built = rpcanet_from_official(to_official_names(model.state_dict())).eval()
    assert built.configuration == model.configuration
    torch.testing.assert_close(built(picture()).restored, model(picture()).restored)


class Malicious:
    def __reduce__(self):
        return print, ("executed",)


def test_bad_checkpoints(unchecked, tmp_path, capsys):
    state = to_official_names(small(num_stages=3).state_dict())
    with pytest.raises(ValueError, match="the checkpoint has 3 stages, the model has 2: build it with num_stages=3"):
        load_official_rpcanet(small(), state)
    with pytest.raises(ValueError, match="the checkpoint has 3 stages, the model has 2"):
        small().load_state_dict(small(num_stages=3).state_dict())
    with pytest.raises(ValueError, match="belongs to another model"):
        load_official_rpcanet(small(), {"weight": torch.ones(1)})
    with pytest.raises(ValueError, match="belongs to no RPCANet"):
        rpcanet_from_official({"weight": torch.ones(1)})
    with pytest.raises(ValueError, match=r"the checkpoint does not fit RPCANetPP.* rpcanet_from_official\(source\)"):
        load_official_rpcanet(small(num_stages=3, memory=False), state)
    with pytest.raises(ValueError, match=r"has shape .* in the checkpoint and .* in the model"):
        load_official_rpcanet(small(num_stages=3, channels=8), state)
    with pytest.raises(ValueError, match=r"the checkpoint has 'decos.0.other.weight', which no RPCANet has"):
        load_official_rpcanet(small(num_stages=3), state | {"decos.0.other.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="the checkpoint is not a state dict"):
        load_official_rpcanet(small(), {"decos.0.a": 3})
    torch.save({"decos.0.a": Malicious()}, tmp_path / "bad.pkl")
    with pytest.raises(pickle.UnpicklingError):
        rpcanet_from_official(tmp_path / "bad.pkl")
    assert capsys.readouterr().out == ""


# --- the loss, and bad input ------------------------------------------------------------------------------------------


def test_loss_of_certain_predictions():
    x = picture()
    mask = (x > 0.7).float()
    certain = RPCANetOutput(x, 200 * mask - 100)
    assert float(RPCALoss()(certain, x, mask)) == pytest.approx(0, abs=1e-5)
    nothing = RPCANetOutput(x, torch.full_like(x, -100.0))
    assert float(RPCALoss()(nothing, x, 0 * mask)) == pytest.approx(0, abs=1e-5)
    assert float(RPCALoss()(nothing, x, mask)) > 0.9
    assert float(RPCALoss(fidelity_weight=1.0)(certain, x + 1, mask)) == pytest.approx(1, rel=1e-5)
    assert float(RPCALoss(binarize=True)(certain, x, (3 * mask).to(torch.uint8))) == pytest.approx(0, abs=1e-5)


def test_the_loss_of_integer_images_is_that_of_the_images_they_stand_for():
    x = picture()
    image, output = (255 * x).round().to(torch.uint8), RPCANetOutput(x, x)
    of_integers, of_numbers = (float(RPCALoss()(output, each, (x > 0.7).float())) for each in (image, image / 255))
    assert of_integers == pytest.approx(of_numbers, rel=1e-6)


def test_bad_masks(unchecked):
    x = picture()
    with pytest.raises(ValueError, match="mask has 255 among its values: 0 and 1 are accepted; pass binarize=True"):
        RPCALoss()(RPCANetOutput(x, x), x, torch.full_like(x, 255))
    with pytest.raises(ValueError, match=r"mask has shape \(2, 20, 24\): \(2, 1, 20, 24\), the object's, is accepted"):
        RPCALoss()(RPCANetOutput(x, x), x, x[:, 0])


def test_bad_images(unchecked):
    model = small().eval()
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 20, 24\): .* convert colour to grey first: x.mean"):
        model(picture().expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match=r"x has shape \(0, 1, 20, 24\): \(batch, 1, height, width\), none of them 0"):
        model(picture()[:0])
    with pytest.raises(
        TypeError, match=r"x has dtype torch.uint8: .* pass x.float\(\) / 255, or build .* normalize=True"
    ):
        model(picture().to(torch.uint8))
    with pytest.warns(UserWarning, match="images of 9 x 24 are smaller than the contrast's window of 17 x 17"):
        assert model(picture(height=9)).restored.shape[2] == 9
    with pytest.raises(ValueError, match=r"a batch of one image in training mode: .* freeze_squeeze_bn=True"):
        model.train()(picture(batch=1))
    frozen = small(freeze_squeeze_bn=True)
    x = picture(batch=1)
    RPCALoss()(frozen(x), x, (x > 0.5).float()).backward()
    assert small(contrast=False)(x).restored.shape == x.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_stages": 0}, "num_stages=0: use at least 1"),
        ({"sparse_layers": -1}, "sparse_layers=-1: use 0 or more layers"),
        ({"contrast_kernel": 16}, "kernel_size=16: use an odd size"),
        ({"channels": 3}, "channels=3: the contrast prior squeezes them to a quarter"),
        ({"contrast_method": "quick"}, "method='quick': use one of 'auto', 'fft', 'direct'"),
    ],
)
def test_bad_sizes(unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
