import pytest
import torch
from torch import nn

from fullrank.compress import (
    FilterPruner,
    beta_rank,
    collect_deviations,
    filter_l1,
    map_ranks,
)
from fullrank.compress.cifar_networks import CifarResNet, resnet_ratios

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
    torch.testing.assert_close(deviations.output, tensors["indep_sigma_out"], rtol=1e-10, atol=1e-14)
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
