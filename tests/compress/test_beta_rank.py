import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fullrank.compress import (
    CifarResNet,
    FilterPruner,
    beta_rank,
    collect_deviations,
    filter_l1,
    hrank,
    map_ranks,
    resnet_ratios,
    stability_fraction,
)

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_OPTIONS = {"seed", "N", "Cin", "Cout", "H", "W", "k", "stride", "pad", "dilation", "groups", "low"}
_SCORES = {
    "official_beta_minmax": {"variant": "upstream"},
    "indep_in_over_out": {"ratio": "in_over_out", "normalize": None},
    "indep_out_over_in": {"normalize": None},
}


@pytest.mark.golden("beta-rank")
def test_golden(case):
    config = case.spec["config"]
    if "compress_rate" in config:
        _check_loading(case, config)
    else:
        _check_scores(case.tensors, config)


def _check_scores(tensors, config):
    assert set(config) <= _OPTIONS
    conv = nn.Conv2d(
        config["Cin"], config["Cout"], config["k"], config["stride"], config["pad"], config.get("dilation", 1),
        config.get("groups", 1), bias=False,
    )  # fmt: skip
    conv.weight = nn.Parameter(tensors["weight"])
    model, x = nn.Sequential(conv, nn.ReLU(inplace=True)), tensors["x"]
    torch.testing.assert_close(conv(x).detach(), tensors["y"], rtol=1e-4, atol=1e-5)
    found = {name: beta_rank(model, x, **options)["0"] for name, options in _SCORES.items()}
    found["official_l1"] = filter_l1(model, x)["0"]
    found["official_hrank"] = map_ranks(tensors["relu_map"]).mean(0)
    for name, scores in found.items():
        wanted = tensors[name].double()
        torch.testing.assert_close(scores, wanted, rtol=1e-5, atol=1e-5 if name == "official_beta_minmax" else 0)
        if name != "official_hrank":  # which has ties
            assert scores.argsort().tolist() == wanted.argsort().tolist()
    deviations = collect_deviations(model, x)["0"]
    torch.testing.assert_close(deviations.input[0], tensors["indep_sigma_in"], rtol=1e-10, atol=0)
    # the convolution rounds in float32, every processor in its own way
    torch.testing.assert_close(deviations.output, tensors["indep_sigma_out"], rtol=1e-5, atol=1e-7)
    size = conv.weight.detach().double().abs().flatten(1)
    torch.testing.assert_close(size.sum(1), tensors["indep_l1_sum"], rtol=1e-10, atol=0)
    torch.testing.assert_close(size.mean(1), tensors["indep_l1_mean"], rtol=1e-10, atol=0)


def _check_loading(case, config):
    assert set(config) == {"compress_rate", "num_classes", "seed"}
    rates, tensors = config["compress_rate"], case.tensors
    depth = 2 * (len(rates) - 3) + 2
    torch.manual_seed(0)
    model = CifarResNet(depth, config["num_classes"])
    state = {name.removeprefix("full."): value for name, value in tensors.items() if name.startswith("full.")}
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    # Score files are numbered in the order of the convolutions.
    scores = {
        name: tensors.get(f"rank{number}", torch.rand(len(module.weight), dtype=torch.float64))
        for number, (name, module) in enumerate(
            ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), 1
        )
    }
    pruner = FilterPruner(
        model, torch.randn(1, 3, 32, 32), scores, pruning_ratio=0.0, pruning_ratio_dict=resnet_ratios(depth, rates),
        coupled=False, init_scale="upstream", reset_bn=True,
    )  # fmt: skip
    pruner.score()
    slim = pruner.prune()
    report = pruner.report()
    assert [report.parameters_before, report.parameters_after] == case.spec["param_count_full_then_pruned"]
    before, after = model.state_dict(), slim.state_dict()
    for name, shapes in case.spec["all_conv_shapes_full_then_pruned"].items():
        assert [list(before[name].shape), list(after[name].shape)] == shapes
    for name, value in tensors.items():
        if name.startswith("pruned."):
            torch.testing.assert_close(after[name.removeprefix("pruned.")], value, rtol=1e-6, atol=0)


def _patch_deviations(conv, x):
    """sigma_in as the definition says it: patch by patch."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = functional.pad(x.double(), conv._reversed_padding_repeated_twice, mode=mode)
    positions = [
        (length - step * (size - 1) - 1) // stride + 1
        for length, step, size, stride in zip(x.shape[2:], conv.dilation, conv.kernel_size, conv.stride, strict=True)
    ]
    found = torch.empty(conv.groups, *positions, dtype=torch.float64)
    for position in itertools.product(*map(range, positions)):
        patch = x
        for axis, (place, stride, step, size) in enumerate(
            zip(position, conv.stride, conv.dilation, conv.kernel_size, strict=True), 2
        ):
            patch = patch.index_select(axis, place * stride + step * torch.arange(size))
        for group, part in enumerate(patch.chunk(conv.groups, 1)):
            found[(group, *position)] = part.std(correction=0)
    return found


@settings(max_examples=25, deadline=None)
@given(
    axes=st.integers(1, 3), groups=st.integers(1, 2), kernel=st.integers(1, 3), stride=st.integers(1, 3),
    padding=st.integers(0, 2), dilation=st.integers(1, 2), mode=st.sampled_from(["zeros", "reflect", "circular"]),
)  # fmt: skip
def test_box_filtered_deviations_are_those_of_the_patches(axes, groups, kernel, stride, padding, dilation, mode):
    torch.manual_seed(0)
    conv = _CONVOLUTIONS[axes](
        2 * groups, 4, kernel, stride, padding, dilation, groups, padding_mode=mode if axes < 3 else "zeros"
    )
    x = torch.randn(5, 2 * groups, *(7, 6, 5)[:axes])
    found = collect_deviations(nn.Sequential(conv), x)["0"]
    wanted = _patch_deviations(conv, x)
    torch.testing.assert_close(found.input, wanted, rtol=1e-10, atol=1e-12)
    y = conv(x).detach().double()
    torch.testing.assert_close(found.output, y.std(0, correction=0), rtol=1e-6, atol=1e-9)
    ratios = (found.output / wanted.repeat_interleave(4 // groups, 0)).nan_to_num(0, 0, 0).flatten(1).sum(1)
    size = conv.weight.detach().double().abs().flatten(1).mean(1)
    torch.testing.assert_close(beta_rank(nn.Sequential(conv), x, normalize=None)["0"], size * ratios)


def _network(inplace=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=inplace), nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3, stride=2), nn.ReLU(inplace=inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip


def _images(samples=12, size=9):
    return torch.randn(samples, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", [{}, {"ratio": "in_over_out"}, {"variant": "upstream"}], ids=str)
def test_scores_do_not_depend_on_the_order_or_the_division_of_the_data(options):
    model, x = _network(), _images()
    wanted = beta_rank(model, x, **options)
    assert set(wanted) == {"0", "4"}
    shuffled = x[torch.randperm(len(x))]
    for batches in (shuffled, x.split(3), [(part, torch.zeros(3, dtype=torch.int64)) for part in x.split(3)]):
        found = beta_rank(model, batches, **options)
        for name, scores in wanted.items():
            torch.testing.assert_close(found[name], scores, rtol=1e-6, atol=1e-6)


def test_a_pair_of_images_and_labels_is_one_batch():
    model, x = _network(), _images()
    wanted = beta_rank(model, x)
    labels, several = torch.zeros(12, dtype=torch.int64), tuple(x.split(6))
    one = [(x, labels), [x, labels], (x, functional.one_hot(labels, 4).float()), (x, labels.float())]
    many = [[(x, labels)], several, list(several), x.split(5), [[part, labels[:6]] for part in several], iter(several)]
    for data in one + many:
        for name, scores in beta_rank(model, data).items():
            torch.testing.assert_close(scores, wanted[name], rtol=1e-6, atol=1e-6)
    pruner = FilterPruner(model, x, "taylor")
    pruner.score((x, labels))
    assert pruner.prune()(x).shape == (12, 4)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, left, right):
            return self.conv(left - right)

    two = Two()
    alone = beta_rank(nn.Sequential(two.conv), x - x.flip(0))["0"]
    for data in ((x, x.flip(0)), [(x[:6], x.flip(0)[:6]), (x[6:], x.flip(0)[6:])]):
        torch.testing.assert_close(beta_rank(two, data)["conv"], alone, rtol=1e-5, atol=1e-6)


def test_scores_follow_their_filters_and_their_scale():
    model, x = _network(), _images()
    before = {ratio: beta_rank(model, x, ratio=ratio, normalize=None)["0"] for ratio in ("out_over_in", "in_over_out")}
    order = torch.randperm(8)
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight[order])
        model[0].bias.copy_(model[0].bias[order])
    torch.testing.assert_close(
        beta_rank(model, x, normalize=None)["0"], before["out_over_in"][order], rtol=1e-6, atol=0
    )
    with torch.no_grad():
        model[0].weight[2] *= 3
    for ratio, growth in (("out_over_in", 9), ("in_over_out", 1)):
        scores = beta_rank(model, x, ratio=ratio, normalize=None)["0"]
        assert float(scores[2] / before[ratio][order[2]]) == pytest.approx(growth, rel=1e-5)


@pytest.mark.parametrize("variant", ["fixed", "upstream"])
def test_a_dead_filter_has_the_lowest_score(variant):
    model = _network()
    with torch.no_grad():
        model[0].weight[5] = 0
        model[0].bias[5] = 2.5
    scores = beta_rank(model, _images(), variant=variant)["0"]
    assert float(scores[5]) == 0
    assert int((scores == 0).sum()) == 1
    assert float(scores.max()) == 1


def test_a_linear_layer_is_a_convolution_of_one_position():
    torch.manual_seed(0)
    linear, conv, x = nn.Linear(5, 7), nn.Conv1d(5, 7, 1), torch.randn(20, 5)
    conv.load_state_dict({"weight": linear.weight.data[..., None], "bias": linear.bias.data})
    found = beta_rank(nn.Sequential(linear), x, layers=["0"], normalize=None)["0"]
    wanted = beta_rank(nn.Sequential(conv), x[..., None], normalize=None)["0"]
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    tokens = torch.randn(6, 3, 5)  # positions stand between batch and features
    assert collect_deviations(nn.Sequential(linear), tokens, ["0"])["0"].output.shape == (7, 3)


@pytest.mark.parametrize("score", [beta_rank, hrank, filter_l1])
def test_scoring_leaves_the_model_as_it_was(score):
    model, x = _network().train(), _images()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    score(model, x)
    assert model.training
    assert not model[1].training
    assert not any(module._forward_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    for name, scores in score(model, x).items():  # an activation in place does not reach what the hook saw
        torch.testing.assert_close(scores, score(_network(False).train(), x)[name], rtol=1e-6, atol=1e-6)


def test_hrank_ranks_the_map_behind_the_activation():
    model, x = _network(False).eval(), _images()
    found = hrank(model, x.split(5))
    with torch.no_grad():
        first, second = model[:3](x), model[:6](x)
    torch.testing.assert_close(found["0"], torch.linalg.matrix_rank(first).double().mean(0))
    torch.testing.assert_close(found["4"], torch.linalg.matrix_rank(second).double().mean(0))
    block = CifarResNet(8).eval()
    with torch.no_grad():
        joined = block.layer1(block.relu(block.bn1(block.conv1(x))))  # the second convolution's map is the block's
    wanted = torch.linalg.matrix_rank(joined).double().mean(0)
    torch.testing.assert_close(hrank(block, x)["layer1.0.conv2"], wanted)
    bare = nn.Sequential(nn.Conv2d(3, 4, 3))
    with torch.no_grad():
        wanted = torch.linalg.matrix_rank(bare(x).clamp_min(0)).double().mean(0)
    torch.testing.assert_close(hrank(bare, x)["0"], wanted)


def test_l1_is_the_mean_times_the_positions():
    model, x = _network(), _images()
    torch.testing.assert_close(filter_l1(model, x)["0"], 81 * model[0].weight.detach().double().abs().mean((1, 2, 3)))


def test_equal_scores_are_all_one():
    conv = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        conv.weight.copy_(conv.weight[:1].expand_as(conv.weight))
    assert beta_rank(nn.Sequential(conv), _images())["0"].tolist() == [1, 1, 1, 1]


def test_flat_borders_are_left_out():
    """A border of zeros has patches without variation, whose ratio would be infinite."""
    conv = nn.Conv2d(3, 4, 3, padding=3)
    model, x = nn.Sequential(conv), _images()
    found = collect_deviations(model, x)["0"]
    assert bool((found.input == 0).any())
    assert beta_rank(model, x, normalize=None)["0"].isfinite().all()
    assert beta_rank(model, x, ratio="in_over_out", normalize=None)["0"].isfinite().all()


def test_upstream_sees_part_of_the_rows():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    found = collect_deviations(model, _images(), variant="upstream")["0"].input[0]
    assert found.isnan().all(1).tolist() == [False] * 3 + [True] * 6  # three channels, taken for rows


def test_stability_fraction():
    scores = torch.arange(8.0)
    assert stability_fraction([scores] * 3) == pytest.approx(1 / 3)
    assert stability_fraction([scores, -scores]) == 1
    assert stability_fraction([scores, -scores], which="bottom", normalizer=8) == pytest.approx(0.5)
    ties = torch.zeros(8)
    assert stability_fraction([ties, scores], which="bottom") == pytest.approx(0.5)  # both take the lowest indices
    assert stability_fraction([scores], fraction=0.01) == 1


@pytest.mark.usefixtures("unchecked")
def test_bad_calls_are_refused():
    model, x = _network(), _images()
    with pytest.raises(ValueError, match="Sequential has no convolution"):
        beta_rank(nn.Sequential(nn.Linear(2, 2)), torch.randn(4, 2))
    with pytest.raises(ValueError, match="layers names 'nine', which is no convolution or linear layer"):
        beta_rank(model, x, layers=["nine"])
    with pytest.raises(ValueError, match="0 is on the meta device"):
        beta_rank(_network().to("meta"), x)
    with pytest.raises(ValueError, match="needs at least 2 samples; 64 or more are recommended"):
        beta_rank(model, x[:1])
    with pytest.raises(ValueError, match="data holds no batch"):
        beta_rank(model, [])
    with pytest.raises(ValueError, match="data holds a batch without samples"):
        beta_rank(model, [x, x[:0]])
    with pytest.raises(ValueError, match="normalizer=0: "):
        stability_fraction([torch.rand(4)], normalizer=0)
    with pytest.raises(ValueError, match="data is missing"):
        beta_rank(model, None)
    with pytest.raises(ValueError, match=r"0 had inputs of shape \(3, 9, 9\) and now of \(3, 8, 8\)"):
        beta_rank(model, [x, _images(size=8)])
    with pytest.raises(ValueError, match="0: its activations are not finite"):
        beta_rank(model, x * math.nan)
    with pytest.raises(ValueError, match="0: its activations are not finite"):
        hrank(model, x * math.nan)
    for option in ("ratio", "variant", "normalize", "fallback"):
        with pytest.raises(ValueError, match=f"{option}='no' is not known; accepted: "):
            beta_rank(model, x, **{option: "no"})
    with pytest.raises(ValueError, match="0 is a Conv1d: variant='upstream' knows Conv2d only"):
        beta_rank(nn.Sequential(nn.Conv1d(3, 4, 3)), torch.randn(4, 3, 9), variant="upstream")
    with pytest.raises(ValueError, match="0: HRank needs maps of two axes or more, these have 1"):
        hrank(nn.Sequential(nn.Conv1d(3, 4, 3)), torch.randn(4, 3, 9))
    for rankings in ([], [torch.zeros(3), torch.zeros(4)]):
        with pytest.raises(ValueError, match="one or more of equal length are needed"):
            stability_fraction(rankings)
    with pytest.raises(ValueError, match="fraction=0: a share in"):
        stability_fraction([torch.zeros(3)], fraction=0)
    with pytest.raises(ValueError, match="which='best' is not known"):
        stability_fraction([torch.zeros(3)], which="best")

    class Forked(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ValueError, match="unused was not reached"):
        beta_rank(Forked(), x)


def test_constant_inputs_are_named_or_fall_back_if_asked():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3)), torch.full((6, 3, 9, 9), 0.7)
    for options in ({}, {"ratio": "in_over_out"}):
        with pytest.raises(ValueError, match="0: its inputs are constant"):
            beta_rank(model, x, **options)
    scores = beta_rank(model, x, fallback="l1", normalize=None)["0"]
    torch.testing.assert_close(scores, model[0].weight.detach().double().abs().mean((1, 2, 3)))

    rows = _images()
    rows[:, :, :3] = 0.7  # the official code lets the infinite ratio through
    with pytest.raises(ValueError, match="0: its scores are not finite; variant='fixed' leaves flat positions out"):
        beta_rank(model, rows, variant="upstream")
    assert beta_rank(model, rows)["0"].isfinite().all()
