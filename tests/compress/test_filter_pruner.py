import copy
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

from fullrank._optional import MissingExtra
from fullrank.compress import (
    BetaRankImportance,
    CifarResNet,
    CifarVGG,
    FilterPruner,
    HRankImportance,
    KeptChannels,
    beta_rank,
    compress,
    count_macs,
    hrank,
    kept_channels,
    load,
    resnet_ratios,
    save,
)
from fullrank.compress.filter_pruner import CRITERIA
from fullrank.compress.kept_channels import SLICEABLE
from fullrank.compress.pruning_method import PRUNING_CRITERIA


class Branched(nn.Module):
    """A residual sum, a depthwise and a grouped convolution, a concatenation, and a linear layer behind flattening."""

    def __init__(self, normalised=True):
        super().__init__()
        norm = nn.BatchNorm2d if normalised else lambda width: nn.Identity()
        self.stem, self.n0 = nn.Conv2d(3, 8, 3, padding=1), norm(8)
        self.c1, self.n1 = nn.Conv2d(8, 12, 3, padding=1), norm(12)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.c2, self.n2 = nn.Conv2d(12, 8, 3, padding=1), norm(8)
        self.grouped = nn.Conv2d(8, 16, 3, stride=2, groups=2)
        self.side = nn.Conv2d(8, 6, 3, stride=2, bias=False)
        self.joined = nn.Conv2d(22, 10, 1)
        self.slope = nn.PReLU(10)
        self.fc = nn.Linear(40, 5)

    def forward(self, x):
        x = torch.relu(self.n0(self.stem(x)))
        y = self.deep(torch.relu(self.n1(self.c1(x))))
        x = torch.relu(x + self.n2(self.c2(y)))
        x = self.slope(self.joined(torch.relu(torch.cat([self.grouped(x), self.side(x)], 1))))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def _branched(**options):
    torch.manual_seed(0)
    model = Branched(**options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model.eval()


def _images(samples=8, size=9):
    return torch.randn(samples, 3, size, size, generator=torch.Generator().manual_seed(1))


def _pruned(model, criterion="beta", x=None, **options):
    x = _images() if x is None else x
    pruner = FilterPruner(model, x[:2], criterion, **options)
    pruner.score([(x, torch.arange(len(x)) % 4)])
    return pruner.prune(), pruner


def _silenced(model, slim):
    """The dense model, whose removed channels are zero wherever they are made or normalised."""
    silent = copy.deepcopy(model)
    for name, module in silent.named_modules():
        kept = kept_channels(slim.get_submodule(name))
        if type(module) not in SLICEABLE or kept is None or kept.outputs is None:
            continue
        gone = [index for index in range(len(module.weight)) if index not in kept.outputs]
        for parameter in module.parameters():
            parameter.data[gone] = 0
    return silent


def _check_like_silenced(model, slim, x):
    with torch.no_grad():
        torch.testing.assert_close(slim(x), _silenced(model, slim)(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("criterion", [name for name in CRITERIA if name != "beta-upstream"])
def test_a_slim_network_computes_what_silenced_filters_would(criterion):
    model, x = _branched(), _images()
    before = copy.deepcopy(model.state_dict())
    slim, pruner = _pruned(model, criterion)
    _check_like_silenced(model, slim, x)
    report = pruner.report()
    assert report.parameters_after == sum(p.numel() for p in slim.parameters()) < report.parameters_before
    assert report.macs_after < report.macs_before
    assert {type(module) for module in slim.modules()} == {type(module) for module in model.modules()}
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not any(parameter.grad is not None for parameter in slim.parameters())


def _line(convolution, norm, axes):
    torch.manual_seed(0)
    pool = {1: nn.AdaptiveAvgPool1d, 3: nn.AdaptiveAvgPool3d}[axes](2)
    return nn.Sequential(
        convolution(3, 8, 3, dilation=2, padding=2), norm(8), nn.ReLU(inplace=True), convolution(8, 6, 3, padding=1),
        nn.ReLU(), pool, nn.Flatten(), nn.Linear(6 * 2**axes, 7), nn.ReLU(), nn.Linear(7, 4),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("axes", [1, 3])
def test_convolutions_of_other_axes_are_pruned(axes):
    convolution, norm = {1: (nn.Conv1d, nn.BatchNorm1d), 3: (nn.Conv3d, nn.BatchNorm3d)}[axes]
    model, x = _line(convolution, norm, axes), torch.randn(8, 3, *[6] * axes)
    slim, pruner = _pruned(model, "beta", x)
    _check_like_silenced(model, slim, x)
    assert [layer.filters_after for layer in pruner.report().layers] == [4, 3, 7, 4]
    slim, _ = _pruned(model, "beta", x, pruning_ratio_dict={"7": 0.5})  # a linear layer is pruned when it is named
    _check_like_silenced(model, slim, x)
    assert slim[7].out_features == slim[9].in_features == 3


def test_the_highest_scores_stay_in_order_and_ties_keep_the_lower_index():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))
    scores = {"0": torch.tensor([0.0, 3.0, 1.0, 3.0, 0.0, 1.0])}
    slim, pruner = _pruned(model, scores, pruning_ratio=0.4)
    assert pruner.report().layers[0].kept == (1, 2, 3)  # int(6 * 0.6); of the tie between 2 and 5 the lower
    torch.testing.assert_close(slim[0].weight, model[0].weight[[1, 2, 3]], rtol=0, atol=0)
    torch.testing.assert_close(slim[2].weight, model[2].weight[:, [1, 2, 3]], rtol=0, atol=0)
    assert slim[2].out_channels == 4  # the model's output
    assert pruner.report().left == {"2": "its outputs are the model's"}


def test_a_shared_channel_has_the_mean_of_its_layers_scores():
    model, x = _branched(), _images()
    slim, pruner = _pruned(model)
    scores = beta_rank(model, x)
    mean = (scores["stem"] + scores["c2"]) / 2
    pairs = (mean[:4] + mean[4:]).topk(2).indices.sort().values  # the same places in both groups of what reads them
    assert kept_channels(slim.stem).outputs == (*pairs.tolist(), *(4 + pairs).tolist())
    assert kept_channels(slim.stem) == KeptChannels(outputs=kept_channels(slim.c2).outputs)
    assert kept_channels(slim.c1).outputs == kept_channels(slim.deep).outputs  # a depthwise filter goes with its input
    assert pruner.scores.keys() == scores.keys()


def test_ratios_limits_and_exceptions():
    model = _branched()
    _, pruner = _pruned(model, pruning_ratio_dict={"c1": 0.25, "joined": 0.0}, ignored_layers=["side"], round_to=4)
    widths = {layer.name: layer.filters_after for layer in pruner.report().layers}
    assert widths == {"stem": 4, "c1": 12, "deep": 12, "c2": 4, "grouped": 8, "side": 6, "joined": 10, "fc": 5}
    assert pruner.report().left == {"side": "side is ignored"}
    _, pruner = _pruned(model, ignored_layers=["c2"])
    assert pruner.report().left["stem"] == "c2 is ignored, and they go together"
    with pytest.warns(UserWarning, match="side keeps 2 filters, not 0"):
        slim, _ = _pruned(model, pruning_ratio=0.1, pruning_ratio_dict={"side": 0.9}, min_channels=2)
    assert slim.side.out_channels == 2


def test_filters_of_all_layers_are_ranked_together():
    model = _branched(normalised=False)
    slim, pruner = _pruned(model, "random", global_pruning=True, pruning_ratio_dict={"joined": 0.5})
    widths = {layer.name: layer.filters_after for layer in pruner.report().layers}
    assert widths["joined"] == 5
    # Pairs of a grouped layer count as one: 4 of stem and c2 in two groups, 12, 8 pairs, 6.
    assert widths["stem"] // 2 + widths["c1"] + widths["grouped"] // 2 + widths["side"] == (4 + 12 + 8 + 6) // 2
    _check_like_silenced(model, slim, _images())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_mode_dtype_and_frozen_parameters_stay(dtype):
    model = _branched().to(dtype).train()
    model.c1.weight.requires_grad_(False)
    slim, _ = _pruned(model, "l2", _images().to(dtype))
    assert slim.training
    assert {parameter.dtype for parameter in slim.parameters()} == {dtype}
    frozen = {name for name, parameter in slim.named_parameters() if not parameter.requires_grad}
    assert frozen == {"c1.weight"}
    slim(_images().to(dtype)).sum().backward()
    assert all(p.grad is not None for name, p in slim.named_parameters() if name not in frozen)
    same = FilterPruner(model, _images().to(dtype), "random", copy_model=False)
    same.score()
    assert same.prune() is model
    assert model.c1.out_channels == 6


def test_shortcuts_padded_with_zeros_keep_their_channels_when_coupled():
    torch.manual_seed(0)
    model, x = CifarResNet(8).eval(), _images(size=8)
    slim, pruner = _pruned(model)
    assert pruner.report().left["layer1.0.conv2"] == "its 16 channels are added to the 64 of layer3.0.conv2"
    widths = {layer.name: layer.filters_after for layer in pruner.report().layers}
    assert {widths[f"layer{stage}.0.conv1"] for stage in (1, 2, 3)} == {8, 16, 32}
    assert widths["layer3.0.conv2"] == 64
    _check_like_silenced(model, slim, x)


def test_uncoupled_layers_choose_for_themselves():
    torch.manual_seed(0)
    model, x = CifarResNet(14).eval(), _images(size=8)
    ratios = resnet_ratios(14, [0.25, 0.5, 0.25, *[0.5] * 6])
    slim, pruner = _pruned(model, x=x, pruning_ratio=0.0, pruning_ratio_dict=ratios, coupled=False)
    scores = beta_rank(model, x)
    for layer in pruner.report().layers[:-1]:
        keep = int(layer.filters_before * (1 - ratios[layer.name]))
        chosen = scores[layer.name].topk(keep).indices.sort().values
        assert layer.filters_after == keep
        assert (layer.kept or tuple(range(keep))) == tuple(chosen.tolist())
    # What follows reads the channels of the last layer before it.
    assert kept_channels(slim.layer1[1].conv1).inputs == kept_channels(slim.layer1[0].conv2).outputs
    assert kept_channels(slim.layer1[0].bn2).outputs == kept_channels(slim.layer1[0].conv2).outputs
    assert slim(x).shape == (8, 10)


class Added(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = self.a(x)
        return self.c(x + self.b(x))


def test_added_layers_of_different_ratios_are_refused():
    with pytest.raises(ValueError, match=r"different ratios to layers that share their channels \(.*0.25"):
        _pruned(Added(), pruning_ratio_dict={"a": 0.25, "b": 0.5})
    with pytest.raises(ValueError, match=r"the slim network does not run \(.*use coupled=True, or equal ratios"):
        _pruned(Added(), pruning_ratio_dict={"a": 0.25, "b": 0.5}, coupled=False)


def test_the_official_initialisation_scales_by_place():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)
    )
    model[1].running_mean.fill_(3)
    nn.init.constant_(model[1].weight, 5)
    scores = {"0": torch.tensor([4.0, 1.0, 3.0, 2.0]), "2": torch.ones(4), "3": torch.ones(4)}
    options = {"pruning_ratio": 0.0, "pruning_ratio_dict": {"0": 0.5}}
    slim, _ = _pruned(model, scores, init_scale="upstream", reset_bn=True, **options)
    plain, _ = _pruned(model, scores, **options)
    # Filters 0 and 2 stay; their places have the scores 4 and 1.
    torch.testing.assert_close(slim[0].weight, plain[0].weight * torch.tensor([5.0, 2.0]).view(2, 1, 1, 1))
    # A whole layer behind a pruned one takes its scores, the next takes none.
    torch.testing.assert_close(slim[2].weight, plain[2].weight * torch.tensor([5.0, 2.0, 4.0, 3.0]).view(4, 1, 1, 1))
    torch.testing.assert_close(slim[3].weight, plain[3].weight, rtol=0, atol=0)
    assert (slim[1].weight.unique().item(), slim[1].running_mean.unique().item()) == (1, 0)
    assert (plain[1].weight.unique().item(), plain[1].running_mean.unique().item()) == (5, 3)


@pytest.mark.parametrize("network", [CifarResNet(8), CifarVGG()], ids=["ResNet", "VGG"])
def test_multiply_adds_are_half_the_operations_that_torch_counts(network):
    x = torch.randn(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        network.eval()(x)
    assert 2 * sum(count_macs(network, x).values()) == counter.get_total_flops()
    assert count_macs(network, x.expand(3, -1, -1, -1)) == count_macs(network, x)


def test_a_slim_network_is_saved_and_loaded_into_a_dense_skeleton(tmp_path):
    model, x = _branched(), _images()
    slim, pruner = _pruned(model)
    folder = save(slim, tmp_path / "slim")
    loaded = load(folder, skeleton=Branched())
    torch.testing.assert_close(loaded(x), slim(x), rtol=0, atol=0)
    assert kept_channels(loaded.joined) == kept_channels(slim.joined)
    again, _ = _pruned(slim)  # pruned once more: indices stay those of the first network
    torch.testing.assert_close(load(save(again, tmp_path / "again"), skeleton=Branched())(x), again(x), rtol=0, atol=0)
    assert set(kept_channels(again.c1).outputs) < set(kept_channels(slim.c1).outputs)
    for suffix in (".json", ".csv", ".parquet"):
        assert pruner.report().save(tmp_path / f"report{suffix}").stat().st_size > 100
    with pytest.raises(ValueError, match="a Identity stands where a pruned layer belongs"):
        load(folder, skeleton=Branched(normalised=False))


@pytest.mark.parametrize("method", PRUNING_CRITERIA)
def test_compress_prunes_filters(method, tmp_path):
    model, x = _branched(), _images()
    small = compress(model, method, data=[x], pruning_ratio=0.5, example_inputs=x[:1])
    _check_like_silenced(model, small.model, x)
    report = small.report
    assert report.method == method
    assert report.parameters_after == sum(p.numel() for p in small.model.parameters()) < report.parameters_before
    assert {layer.kind for layer in report.layers} == {"pruned"}
    assert {layer.name for layer in report.layers} | set(report.left) == set(count_macs(model, x))
    folder = save(small.model, tmp_path / "small", report)
    torch.testing.assert_close(load(folder, skeleton=Branched())(x), small.model(x), rtol=0, atol=0)


def test_a_pruned_model_of_transformers_is_loaded_without_its_weights(tmp_path):
    config = ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4
    )
    torch.manual_seed(0)
    model = ResNetForImageClassification(config).eval()
    batch = {"pixel_values": torch.randn(6, 3, 32, 32)}
    small = compress(model, "beta-rank", data=[batch], pruning_ratio=0.5)
    assert small.report.parameters_after < 0.5 * small.report.parameters_before
    folder = save(small.model, tmp_path / "small", small.report)
    loaded = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, small.model(**batch).logits, rtol=1e-5, atol=1e-6)


def test_compress_prunes_the_layers_that_are_asked_for_and_resumes(tmp_path):
    model, x = _branched(), _images()

    def stop(done, total, text):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(model, "beta-rank", data=iter([x]), resume=tmp_path, on_progress=stop)
    resumed = compress(model, "beta-rank", data=iter([x]), resume=tmp_path).model
    torch.testing.assert_close(resumed(x), compress(model, "beta-rank", data=[x]).model(x), rtol=0, atol=0)
    part = compress(model, "l1", example_inputs=x, target_modules=["c1", "side"])
    assert part.model.stem.out_channels == 8
    assert {layer.name for layer in part.report.layers} == {"c1", "side"}
    _check_like_silenced(model, part.model, x)
    with pytest.raises(ValueError, match="method 'beta-rank' needs data"):
        compress(model, "beta-rank", example_inputs=x)
    with pytest.raises(ValueError, match="method 'hrank' has no option 'ratio'"):
        compress(model, "hrank", data=[x], ratio=0.5)


def test_torch_pruning_takes_our_importances():
    import torch_pruning as tp

    x = _images()
    for make, score in ((BetaRankImportance, beta_rank), (HRankImportance, hrank)):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))
        scores, dense = score(model, x), copy.deepcopy(model)
        importance = make(model, x)
        graph = tp.DependencyGraph().build_dependency(model, x[:1])
        group = graph.get_pruning_group(model[0], tp.prune_conv_out_channels, idxs=[6, 1])
        torch.testing.assert_close(importance(group), scores["0"][[6, 1]])
        pruner = tp.pruner.BasePruner(
            model, x[:1], importance=importance, pruning_ratio=0.5, ignored_layers=[model[4]],
            in_channel_groups={}, out_channel_groups={},
        )  # fmt: skip
        pruner.step()
        assert (model[0].out_channels, model[2].out_channels) == (4, 3)
        kept = scores["2"].topk(3).indices.sort().values
        torch.testing.assert_close(model[4].weight, dense[4].weight[:, kept], rtol=0, atol=0)
        with pytest.raises(ValueError, match=r"2 has 3 filters, its scores have shape \(6,\): score it again"):
            importance(pruner.DG.get_pruning_group(model[2], tp.prune_conv_out_channels, idxs=[0]))


def test_layers_that_cannot_be_cut_are_left():
    class Special(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 1, 3)
            self.plain, self.last = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)
            self.scale = nn.Parameter(torch.ones(4, 1, 1))
            nn.utils.parametrizations.weight_norm(self.b)

        def forward(self, x):
            return self.last(self.plain(self.c(self.b(self.a(x) * self.scale))))

    model = Special()
    slim, pruner = _pruned(model, "l2")
    assert pruner.report().left == {
        "last": "its outputs are the model's",
        "c": "it has one channel",
        "b": "b is parametrised: remove the parametrisation first",
        "a": "a parameter outside of any layer carries its channels",
    }
    assert slim.plain.out_channels == 2


@pytest.mark.usefixtures("unchecked")
def test_bad_calls_are_refused(monkeypatch):
    model, x = _branched(), _images()
    with pytest.raises(ValueError, match="has no convolution"):
        FilterPruner(nn.Linear(2, 2), x)
    with pytest.raises(ValueError, match="stem is on the meta device"):
        FilterPruner(_branched().to("meta"), x)
    with pytest.raises(ValueError, match="example_inputs is missing"):
        FilterPruner(model, None)
    with pytest.raises(ValueError, match="criterion='best' is not known; accepted: beta, "):
        FilterPruner(model, x, "best")
    with pytest.raises(ValueError, match="init_scale='mine' is not known"):
        FilterPruner(model, x, init_scale="mine")
    for ratio in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=f"pruning_ratio={ratio}: the share of filters that go is in"):
            FilterPruner(model, x, pruning_ratio=ratio)
        with pytest.raises(ValueError, match=f"c1={ratio}: the share"):
            FilterPruner(model, x, pruning_ratio_dict={"c1": ratio})
    for name in ("round_to", "min_channels"):
        with pytest.raises(ValueError, match=f"{name}=0: 1 or more is accepted"):
            FilterPruner(model, x, **{name: 0})
    for options in ({"pruning_ratio_dict": {"none": 0.5}}, {"ignored_layers": ["none"]}):
        with pytest.raises(ValueError, match="layers names 'none', which is no convolution or linear layer"):
            FilterPruner(model, x, **options)
    with pytest.raises(ValueError, match="criterion='l2' scores groups"):
        FilterPruner(model, x, "l2", init_scale="upstream")
    with pytest.raises(ValueError, match="does not go with coupled=False"):
        FilterPruner(model, x, coupled=False, global_pruning=True)
    pruner = FilterPruner(model, x)
    with pytest.raises(ValueError, match="call score"):
        pruner.prune()
    with pytest.raises(ValueError, match="call prune"):
        pruner.report()
    with pytest.raises(ValueError, match="data is missing"):
        pruner.score()
    with pytest.raises(ValueError, match="c1 would be left with none of its 12 filters: lower its ratio"):
        _pruned(model, pruning_ratio_dict={"c1": 0.95})
    with pytest.raises(ValueError, match=r"stem has 8 filters, its scores have shape \(9,\)"):
        _pruned(model, {"stem": torch.zeros(9)})
    with pytest.raises(ValueError, match="a has 4 filters, its scores are missing"):
        _pruned(Added(), {"b": torch.zeros(4)}, coupled=False)
    with pytest.raises(ValueError, match="a has no scores to scale it by"):
        _pruned(Added(), {"b": torch.zeros(4)}, init_scale="upstream")
    with pytest.raises(ValueError, match="c2: its scores are not finite"):
        _pruned(model, {"stem": torch.full((8,), torch.nan), "c2": torch.zeros(8)})
    with pytest.raises(ValueError, match="nothing can be pruned: 0: its outputs are the model's"):
        _pruned(nn.Sequential(nn.Conv2d(3, 4, 3)), "random")
    with pytest.raises(ValueError, match=r"criterion='taylor' needs batches of \(inputs, labels\)"):
        FilterPruner(model, x, "taylor").score(x)
    for depth in (7, 57):
        with pytest.raises(ValueError, match=f"depth={depth}: 6 n"):
            CifarResNet(depth)
    with pytest.raises(ValueError, match="rates has 2 numbers, ResNet-56 takes 30"):
        resnet_ratios(56, [0.1, 0.2])
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(MissingExtra, match=r"fullrank\[compress\]"):
        FilterPruner(model, x)
