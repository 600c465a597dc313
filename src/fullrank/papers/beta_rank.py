"""Beta-Rank: A Robust Convolutional Filter Pruning Method For Imbalanced Medical Image Analysis (Beta-Rank)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from fullrank.papers import Claim, Paper, Trial
from fullrank.papers._pruning_protocols import PROTOCOLS, Setting
from fullrank.papers._repeats import Repeats, mean_and_spread, repeat

_CIFAR = "training and pruning full-size networks on CIFAR for hundreds of epochs on a GPU"
_MEDICAL = "the ISIC-2017 and IDRiD image sets and 150 epochs at 256 x 256 pixels on a GPU"
_MFLOPS = {
    "VGG-16, CIFAR-10": 313.73,
    "ResNet-56, CIFAR-10": 125.49,
    "ResNet-56, ISIC": 8167.6,
    "ResNet-110, ISIC": 16453.47,
}
_MEGAPARAMETERS = {"VGG-16": 14.98, "ResNet-56": 0.85, "ResNet-110": 1.73}
_RESNET56 = {"dense": 852_563, "rates 0.25": 598_835, "rates 0.4 and 0.5": 382_115}

PAPER = Paper(
    slug="beta-rank",
    title="Beta-Rank: A Robust Convolutional Filter Pruning Method For Imbalanced Medical Image Analysis",
    authors=4,
    published="2023-04-14",
    arxiv="2304.07461",
    position=2,
    repository="https://github.com/mohofar/Beta-Rank",
    topics=(
        "compression",
        "vision",
        "pathology",
    ),
    summary=(
        "Filter pruning usually looks at weights or at feature maps alone and suffers when medical data are few"
        " and imbalanced. Beta-Rank scores a filter by what it does to its input, combining input, output and "
        "weights, and removes the lowest. Up to 58 % of the FLOPs on IDRiD and 45 % on ISIC go without loss, "
        "and a phone app shows the real memory and time saved."
    ),
    notes=(
        "The equation divides the input deviation by the output deviation, the code does the inverse; the inverse is "
        "the default. The code also takes channels for rows when it cuts the input window, ignores padding, and scales "
        "every kept filter by one plus its raw score, with the wrong index; all of it is offered as the upstream "
        "variant. On imbalanced digits most of the gap to HRank comes from that scaling, which nearly freezes networks "
        "pruned by scores of large size: without it a few points are left, and torch-pruning's group norm is ahead. "
        "The published sizes follow no one way of counting: VGG-16's 14.98 M leave batch normalisation out, and "
        "ResNet-110's 1.73 M hold it."
    ),
    methods=(
        "fullrank.compress.beta_rank",
        "fullrank.compress.BetaRankImportance",
        "fullrank.compress.FilterPruner",
        "fullrank.compress.hrank",
        "fullrank.compress.stability_fraction",
        "fullrank.compress.imbalanced_report",
        "fullrank.compress.make_imbalanced",
    ),
    usage="""
import torch
from fullrank.compress import CifarResNet, FilterPruner, beta_rank, compress, load, save

network, images = CifarResNet(20), torch.randn(64, 3, 32, 32)  # yours, trained, and its training images
scores = beta_rank(network, images)                            # layer -> one score a filter
pruner = FilterPruner(network, images[:1], "beta", pruning_ratio=0.4)
pruner.score(images)
slim = pruner.prune()                                          # an ordinary module: fine-tune it as usual
print(pruner.report().macs_before, pruner.report().macs_after)
smaller = compress(network, "beta-rank", data=[images], pruning_ratio=0.4)
""",
    extra="compress",
    claims=(
        Claim(
            id="cifar10-vgg16",
            says="On CIFAR-10 VGG-16 Beta-Rank is level with L1 and HRank at 58 % and 78 % fewer FLOPs.",
            source="official README",
            paper_value={
                "dense": 93.96,
                "L1 58 %": 93.79,
                "L1 78 %": 93.01,
                "HRank 58 %": 93.68,
                "HRank 78 %": 93.2,
                "Beta 58 %": 93.97,
                "Beta 78 %": 93.13,
            },
            unit="%",
            needs=_CIFAR,
        ),
        Claim(
            id="cifar10-resnet56",
            says="On CIFAR-10 ResNet-56 Beta-Rank is the best of three at 27 % and 72 % fewer FLOPs.",
            source="official README",
            paper_value={
                "dense": 93.26,
                "L1 27 %": 93.97,
                "L1 72 %": 91.99,
                "HRank 27 %": 93.7,
                "HRank 72 %": 91.91,
                "Beta 27 %": 94.0,
                "Beta 72 %": 92.09,
            },
            unit="%",
            needs=_CIFAR,
        ),
        Claim(
            id="cifar100-vgg16",
            says="On CIFAR-100 VGG-16 the three criteria are close, L1 or HRank in front.",
            source="official README",
            paper_value={
                "dense": 74.24,
                "L1 55 %": 73.23,
                "L1 25 %": 73.82,
                "HRank 55 %": 72.58,
                "HRank 25 %": 74.02,
                "Beta 55 %": 72.75,
                "Beta 25 %": 74.01,
            },
            unit="%",
            needs=_CIFAR,
        ),
        Claim(
            id="cifar100-resnet56",
            says="On CIFAR-100 ResNet-56 Beta-Rank and L1 lead at 33 % and 15 % fewer FLOPs.",
            source="official README",
            paper_value={
                "dense": 73.12,
                "L1 33 %": 66.77,
                "L1 15 %": 73.09,
                "HRank 33 %": 66.67,
                "HRank 15 %": 72.62,
                "Beta 33 %": 67.11,
                "Beta 15 %": 72.93,
            },
            unit="%",
            needs=_CIFAR,
        ),
        Claim(
            id="isic-resnet56",
            says=(
                "On imbalanced skin lesions (ISIC, ResNet-56) Beta-Rank keeps accuracy where HRank loses over "
                "10 points."
            ),
            source="official README",
            paper_value={
                "dense": 73.33,
                "L1 24 %": 69.56,
                "L1 41 %": 60.89,
                "HRank 24 %": 59.56,
                "HRank 41 %": 57.33,
                "Beta 24 %": 73.56,
                "Beta 41 %": 72.44,
            },
            unit="%",
            needs=_MEDICAL,
        ),
        Claim(
            id="isic-resnet110",
            says="On ISIC with ResNet-110 Beta-Rank leads at 45 % and 27 % fewer FLOPs.",
            source="official README",
            paper_value={
                "dense": 72.66,
                "L1 45 %": 66.67,
                "L1 27 %": 62.0,
                "HRank 45 %": 67.78,
                "HRank 27 %": 59.11,
                "Beta 45 %": 73.33,
                "Beta 27 %": 71.56,
            },
            unit="%",
            needs=_MEDICAL,
        ),
        Claim(
            id="idrid-resnet56",
            says="On imbalanced retina images (IDRiD, ResNet-56) Beta-Rank leads at 36 % and 46 % fewer FLOPs.",
            source="official README",
            paper_value={
                "dense": 82.52,
                "L1 36 %": 73.79,
                "L1 46 %": 75.08,
                "HRank 36 %": 71.52,
                "HRank 46 %": 70.87,
                "Beta 36 %": 79.94,
                "Beta 46 %": 80.58,
            },
            unit="%",
            needs=_MEDICAL,
        ),
        Claim(
            id="idrid-resnet110",
            says="On IDRiD with ResNet-110 Beta-Rank leads at 45 % and 58 % fewer FLOPs.",
            source="official README",
            paper_value={
                "dense": 79.61,
                "L1 45 %": 73.14,
                "L1 58 %": 74.76,
                "HRank 45 %": 78.32,
                "HRank 58 %": 61.49,
                "Beta 45 %": 80.26,
                "Beta 58 %": 81.88,
            },
            unit="%",
            needs=_MEDICAL,
        ),
        Claim(
            id="medical-recall",
            says="Recall on the medical sets follows the accuracies.",
            source="official README",
            paper_value={
                "ISIC R56 L1": 56.6,
                "ISIC R56 HRank": 47.0,
                "ISIC R56 Beta": 64.7,
                "IDRiD R110 L1": 64.9,
                "IDRiD R110 HRank": 47.7,
                "IDRiD R110 Beta": 68.6,
            },
            unit="%",
            needs=_MEDICAL,
        ),
        Claim(
            id="idrid-five-epochs",
            says="After only five epochs of training the sample notebook reports 53.4 % accuracy on IDRiD.",
            source="sample notebook in the official repository",
            paper_value=53.4,
            unit="%",
            needs=_MEDICAL,
        ),
        Claim(
            id="flops-without-loss",
            says="Up to 58 % (IDRiD) and 45 % (ISIC) of the FLOPs go without loss of accuracy.",
            source="abstract",
            paper_value={"IDRiD": 58.0, "ISIC": 45.0},
            unit="% FLOPs",
            needs=_MEDICAL,
        ),
        Claim(
            id="phone-app",
            says="On a phone memory falls by 79 % and prediction time by 72 %.",
            source="abstract",
            paper_value={"memory": 79.0, "time": 72.0},
            unit="% less",
            needs="the authors' phone application and device",
        ),
        Claim(
            id="dense-flops",
            says=(
                "The dense networks need 125 M FLOPs (ResNet-56) and 314 M (VGG-16) on CIFAR-10, 8.2 G (ResNet-56) and "
                "16.5 G (ResNet-110) on 256 x 256 images."
            ),
            source="official README",
            paper_value=_MFLOPS,
            unit="M FLOPs",
            holds=lambda m: all(abs(m[name] / at - 1) <= 0.03 for name, at in _MFLOPS.items()),
        ),
        Claim(
            id="dense-parameters",
            says="The dense networks have 14.98 M (VGG-16), 0.85 M (ResNet-56) and 1.73 M (ResNet-110) parameters.",
            source="official README",
            paper_value=_MEGAPARAMETERS,
            unit="M parameters",
            holds=lambda m: all(abs(m[name] - at) <= 0.01 for name, at in _MEGAPARAMETERS.items()),
        ),
        Claim(
            id="pruned-parameters",
            says=(
                "ResNet-56 with three classes has 852,563 parameters; two published rate lists leave 598,835 and "
                "382,115."
            ),
            source="official code",
            paper_value=_RESNET56,
            unit="parameters",
            holds=lambda m: all(m[name] == at for name, at in _RESNET56.items()),
        ),
        Claim(
            id="ranking-is-stable",
            says=(
                "Over repeated runs Beta-Rank chooses nearly the same quarter of a layer's filters (stability fraction "
                "0.33 to 0.37), HRank a more varied one (0.35 to 0.55)."
            ),
            source="curves in the official repository",
            paper_value={"Beta low": 0.33, "Beta high": 0.37, "HRank low": 0.35, "HRank high": 0.55},
            unit="stability fraction, lower is more stable",
            holds=lambda m: m["Beta"] < m["HRank"],
        ),
        Claim(
            id="beats-hrank-imbalanced",
            says=(
                "On imbalanced images, under the authors' protocol, Beta-Rank keeps at least 5 points more balanced "
                "accuracy than HRank."
            ),
            source="ordering of the medical tables",
            unit="%",
            holds=lambda m: m["Beta"] - m["HRank"] >= 5,
        ),
        Claim(
            id="beats-random",
            says="Beta-Rank and L1 keep more accuracy than removing filters at random.",
            source="our pilot on imbalanced digits",
            unit="%",
            holds=lambda m: min(m["Beta"], m["L1"]) > m["random"],
            kind="finding",
        ),
        Claim(
            id="fair-protocol-reverses",
            says=(
                "Without the raw-score scaling of the initialisation the order reverses: HRank and L1 keep more"
                " than Beta-Rank."
            ),
            source="our pilot on imbalanced digits",
            unit="%",
            holds=lambda m: m["HRank"] > m["Beta"] and m["L1"] > m["Beta"],
            kind="finding",
        ),
        Claim(
            id="tuned-rivals",
            says=(
                "Pruning ResNet-56 on CIFAR-10 to 2.1 times fewer MACs, torch-pruning publishes 93.77 % for its group "
                "norm, more than either simple criterion (L1, BN scale)."
            ),
            source="README of torch-pruning",
            paper_value={"group norm": 93.77, "L1": 92.93, "BN scale": 93.29, "dense": 93.53},
            unit="%",
            needs=_CIFAR,
            kind="finding",
        ),
        Claim(
            id="torch-pruning-latency",
            says=(
                "torch-pruning publishes 2.2 times lower latency of ResNet-50 at batch 64 (45.2 to 20.7 ms) for 3.9 "
                "times fewer MACs (4.12 to 1.07 G)."
            ),
            source="README of torch-pruning",
            paper_value={"dense ms": 45.2, "pruned ms": 20.7, "dense GMACs": 4.12, "pruned GMACs": 1.07},
            needs="trained ResNet-50 weights and the GPU of that table",
            kind="finding",
        ),
        Claim(
            id="hrankplus-is-better-tuned",
            says=(
                "HRank's own successor publishes higher accuracies on CIFAR-10 than the paper's HRank column at "
                "similar cost, so the paper's HRank arm is not the tuned one."
            ),
            source="README of HRankPlus",
            paper_value={
                "ResNet-56 28 %": 93.85,
                "ResNet-56 47 %": 93.57,
                "ResNet-56 74 %": 92.32,
                "ResNet-110 44 %": 94.20,
                "VGG-16 58 %": 93.73,
            },
            unit="%",
            needs=_CIFAR,
            kind="finding",
        ),
        Claim(
            id="ratio-is-inverted",
            says=(
                "The code's ratio is the inverse of the equation's: when a filter is doubled the code's score grows "
                "fourfold, the equation's not at all."
            ),
            source="official code and README",
            unit="ratio of scores",
            holds=lambda m: abs(m["code"] - 4) <= 0.01 and abs(m["equation"] - 1) <= 0.01,
            kind="finding",
        ),
        Claim(
            id="window-mixes-axes",
            says=(
                "The code takes channels for rows when it cuts the input window, so on maps with more rows than "
                "channels only part of the output rows enters the score."
            ),
            source="official code",
            unit="rows",
            holds=lambda m: m["used"] < m["all"],
            kind="finding",
        ),
        Claim(
            id="scaling-favours-small-scores",
            says=(
                "The gap between Beta-Rank and HRank comes from scaling the kept filters by their raw scores: it costs "
                "HRank far more accuracy than Beta-Rank."
            ),
            source="our pilot on imbalanced digits",
            unit="%",
            holds=lambda m: m["HRank fair"] - m["HRank scaled"] >= m["Beta fair"] - m["Beta scaled"] + 5,
            kind="finding",
        ),
        Claim(
            id="micro-averages-repeat-accuracy",
            says=(
                "The code's F1 is micro-averaged and equals the accuracy; only a macro average shows what happens to "
                "the rare classes."
            ),
            source="official code and the log of its notebook",
            unit="%",
            holds=lambda m: abs(m["micro F1"] - m["accuracy"]) <= 1e-6 and abs(m["macro F1"] - m["accuracy"]) > 0.1,
            kind="finding",
        ),
    ),
)

#: Criterion of `FilterPruner` -> as the tables call it.
_CRITERIA = {
    "random": "random",
    "l1": "L1",
    "hrank": "HRank",
    "beta": "Beta, patches put right",
    "beta-upstream": "Beta, official code",
    "beta-equation": "Beta, printed equation",
    "l2": "group norm of torch-pruning",
}
_RATE_LISTS = {"rates 0.25": [0.0] + [0.25] * 29, "rates 0.4 and 0.5": [0.0] + [0.4] * 2 + [0.5] * 27}
_EXPERIMENTS = 3


@PAPER.study
def study(trial: Trial) -> None:
    """Counts of the networks; then imbalanced digits, and at full scale photographs, pruned by every criterion."""
    _networks(trial)
    _formulas(trial)
    digits = trial.pick(
        smoke=Setting("digits", 8, (4, 4, 4), 200, 40, 1, 1),
        quick=Setting("digits", 32, (16, 32, 32, 32), 1197, 600, 20, 8),
        full=Setting("digits", 32, (32, 64, 64, 64), 1197, 600, 30, 10),
    )
    photographs = trial.pick(
        smoke=Setting("photographs", 32, (8,), 40, 20, 1, 1),
        quick=None,
        full=Setting("photographs", 32, (20,), 10_000, 2000, 40, 20),
    )
    ratios = trial.pick(smoke=(0.5,), quick=(0.4, 0.6), full=(0.4, 0.6, 0.75))
    protocols = trial.pick(smoke=tuple(PROTOCOLS), quick=("fair", "official"), full=tuple(PROTOCOLS))
    with trial.one_thread():
        runs = _prune(trial, digits, ratios, protocols)
        stability = repeat(trial, ("Beta", "HRank"), partial(_stability, trial, digits), f"stability {tuple(digits)}")
        shown = {"digits": runs}
        if photographs:
            shown["photographs"] = _prune(trial, photographs, ratios[:1], protocols)
    _measure(trial, runs, ratios)
    trial.measure("ranking-is-stable", *stability.summary({"Beta": "Beta", "HRank": "HRank"}, "fraction"))
    _show(trial, shown, digits)


def _networks(trial: Trial) -> None:
    """Multiply-adds and parameters, on networks without values; the published rate lists on one with random scores."""
    import torch

    from fullrank.compress import CifarResNet, CifarVGG, FilterPruner, count_macs, resnet_ratios

    with torch.device("meta"):
        networks = {"VGG-16": CifarVGG(), "ResNet-56": CifarResNet(56), "ResNet-110": CifarResNet(110)}
        small, large = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 256, 256)
    macs = {
        "VGG-16, CIFAR-10": count_macs(networks["VGG-16"], small),
        "ResNet-56, CIFAR-10": count_macs(networks["ResNet-56"], small),
        "ResNet-56, ISIC": count_macs(networks["ResNet-56"], large),
        "ResNet-110, ISIC": count_macs(networks["ResNet-110"], large),
    }
    trial.measure("dense-flops", {name: sum(counts.values()) / 1e6 for name, counts in macs.items()})
    trial.measure("dense-parameters", {name: _layer_parameters(network) for name, network in networks.items()})
    dense, counts = CifarResNet(56, 3), {}
    for name, rates in _RATE_LISTS.items():
        ratios = resnet_ratios(56, rates)
        pruner = FilterPruner(dense, torch.zeros(1, 3, 8, 8), "random", pruning_ratio_dict=ratios, coupled=False)
        pruner.score()
        pruner.prune()
        report = pruner.report()
        counts |= {"dense": report.parameters_before, name: report.parameters_after}
    trial.measure("pruned-parameters", counts)


def _layer_parameters(network: Any) -> float:
    """Millions in convolutions and linear layers; the official counter leaves batch normalisation out."""
    from torch import nn

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters()) / 1e6


def _formulas(trial: Trial) -> None:
    """What doubling a filter does to its score, and which output rows the official code looks at."""
    import torch
    from torch import nn

    from fullrank.compress import beta_rank, collect_deviations

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer, maps = nn.Conv2d(16, 16, 3, padding=1, bias=False), torch.randn(16, 16, 32, 32)
    model = nn.Sequential(layer)
    scores = [_scores_of_first(beta_rank, model, maps)]
    with torch.no_grad():
        layer.weight[0] *= 2
    scores.append(_scores_of_first(beta_rank, model, maps))
    trial.measure("ratio-is-inverted", {name: scores[1][name] / scores[0][name] for name in scores[0]})
    seen = collect_deviations(model, maps, variant="upstream")["0"].input[0]
    trial.measure("window-mixes-axes", {"used": int((~seen.isnan()).any(1).sum()), "all": len(seen)})


def _scores_of_first(beta_rank: Any, model: Any, maps: Any) -> dict[str, float]:
    ratios = {"code": "out_over_in", "equation": "in_over_out"}
    return {name: float(beta_rank(model, maps, ratio=ratio, normalize=None)["0"][0]) for name, ratio in ratios.items()}


def _prune(trial: Trial, setting: Setting, ratios: Iterable[float], protocols: Iterable[str]) -> Repeats:
    """Every criterion by every protocol and ratio, on the same trained network of each seed."""
    from fullrank.papers._pruning_protocols import (
        imbalanced_images,
        new_network,
        prune_and_tune,
        test_scores,
        train_dense,
    )

    key = f"{tuple(setting)}"
    plans = {
        _method(protocol, ratio, criterion): (criterion, protocol, ratio)
        for protocol in protocols
        for ratio in ratios
        for criterion in _CRITERIA
        # Scores of groups cannot scale single layers; one dead channel makes the official code's scores infinite, and
        # residual networks have some.
        if not (criterion == "l2" and protocol == "official")
        and not (criterion == "beta-upstream" and setting.task == "photographs")
    }

    training = {f"dense {key} seed={seed}": partial(train_dense, setting, seed, trial.device) for seed in trial.seeds}
    states = dict(zip(trial.seeds, trial.all_tensors(training, f"training {key}"), strict=True))

    def run(method: str, seed: int) -> dict[str, float]:
        network = new_network(setting, seed).to(trial.device)
        network.load_state_dict(states[seed])
        if method == "dense":
            return test_scores(network, imbalanced_images(setting, seed), trial.device) | {"MACs": 100.0}
        return prune_and_tune(network, setting, *plans[method], seed, trial.device)

    return repeat(trial, ("dense", *plans), run, f"pruning {key}")


def _method(protocol: str, ratio: float, criterion: str) -> str:
    return f"{protocol} {ratio:g} {criterion}"


def _stability(trial: Trial, setting: Setting, method: str, seed: int) -> dict[str, float]:
    """Mean over layers: three rankings of the trained network, each from other training images."""
    import torch

    from fullrank.compress import beta_rank, hrank, stability_fraction
    from fullrank.papers._pruning_protocols import imbalanced_images, new_network, train_dense

    network = new_network(setting, seed).to(trial.device)
    network.load_state_dict(
        trial.tensors(f"dense {tuple(setting)} seed={seed}", partial(train_dense, setting, seed, trial.device))
    )
    pixels = imbalanced_images(setting, seed).train_pixels
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    batches = order[: len(order) // _EXPERIMENTS * _EXPERIMENTS].chunk(_EXPERIMENTS)
    score = {"Beta": beta_rank, "HRank": hrank}[method]
    rankings = [score(network, pixels[batch[:64]].to(trial.device)) for batch in batches]
    fractions = [stability_fraction([ranking[name] for ranking in rankings]) for name in rankings[0]]
    return {"fraction": sum(fractions) / len(fractions)}


def _measure(trial: Trial, runs: Repeats, ratios: tuple[float, ...]) -> None:
    """Balanced accuracy, averaged over the ratios; where the authors' protocol is meant, "Beta" is their code."""
    score = "balanced accuracy"

    def found(protocol: str, criterion: str) -> list[float]:
        by_ratio = [runs.values(_method(protocol, ratio, criterion), score) for ratio in ratios]
        return [sum(values) / len(values) for values in zip(*by_ratio, strict=True)]

    official = {"Beta": found("official", "beta-upstream"), "HRank": found("official", "hrank")}
    trial.measure("beats-hrank-imbalanced", *mean_and_spread(official))
    fair = {name: found("fair", criterion) for name, criterion in (("Beta", "beta"), ("L1", "l1"), ("HRank", "hrank"))}
    trial.measure(
        "beats-random",
        *mean_and_spread({"Beta": fair["Beta"], "L1": fair["L1"], "random": found("fair", "random")}),
    )
    trial.measure("fair-protocol-reverses", *mean_and_spread(fair))
    trial.measure(
        "scaling-favours-small-scores",
        *mean_and_spread(
            {
                "HRank fair": fair["HRank"],
                "HRank scaled": official["HRank"],
                "Beta fair": found("fair", "beta-upstream"),
                "Beta scaled": official["Beta"],
            }
        ),
    )
    hardest = _method("official", max(ratios), "hrank")
    trial.measure(
        "micro-averages-repeat-accuracy",
        {name: runs.summary([hardest], name)[0][hardest] for name in ("micro F1", "macro F1", "accuracy")},
    )


def _show(trial: Trial, shown: dict[str, Repeats], setting: Setting) -> None:
    from fullrank.papers._pruning_protocols import imbalanced_images

    for task, runs in shown.items():
        rows = []
        for method in runs.runs:
            protocol, ratio, criterion = ("", "0", "") if method == "dense" else method.rsplit(" ", 2)
            means, spreads = runs.summary([method], "balanced accuracy")
            rows.append(
                {
                    "protocol": protocol,
                    "filters removed %": 100 * float(ratio),
                    "criterion": _CRITERIA.get(criterion, "dense"),
                    "balanced accuracy %": means[method],
                    "spread": spreads[method],
                    "macro F1 %": runs.summary([method], "macro F1")[0][method],
                    "AUROC %": runs.summary([method], "AUROC")[0][method],
                    "MACs left %": runs.summary([method], "MACs")[0][method],
                }
            )
        trial.table(task, rows)
    images = imbalanced_images(setting, trial.seeds[0])
    trial.note(
        f"{len(images.train_labels)} digits of {setting.side} x {setting.side} pixels (three classes whole, seven with "
        f"an eighth) train a network of {' '.join(map(str, setting.widths))} filters for {setting.epochs} epochs; "
        f"after pruning it is tuned for {setting.tuning}, and tested at the last epoch on {setting.testing} others. "
        "The fair and the official protocol both reset batch normalisations; they differ in the scaling by raw scores "
        "alone. Numbers of the claims are means over the ratios."
    )
    trial.note(
        "Parameters are those of convolutions and linear layers, and FLOPs their multiply-adds: the official counts of "
        "VGG-16 (14.98 M) leave batch normalisation out, which would make it 14.99 M."
    )
