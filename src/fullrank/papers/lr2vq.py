"""Learning Low-Rank Representations for Model Compression (LR2VQ)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from fullrank.papers import Claim, Paper, Trial
from fullrank.papers._repeats import mean_and_spread

_IMAGENET = "fine-tuning ResNet-18 and ResNet-50 on ImageNet-1k"

PAPER = Paper(
    slug="lr2vq",
    title="Learning Low-Rank Representations for Model Compression",
    authors=3,
    published="2022-11-21",
    arxiv="2211.11397",
    position=13,
    venue="IJCNN 2023",
    topics=(
        "compression",
        "vision",
    ),
    summary=(
        "Vector quantisation compresses a network by sharing sub-vectors; LR2VQ first maps sub-vectors to a "
        "lower dimension with a learned basis and clusters there. Codebook and basis train end to end with the "
        "task loss, compression is set by the sub-vector size and accuracy by the clustering dimension. "
        "ResNet-18 and ResNet-50 gain 2.8 and 1.0 points over earlier methods at 43x and 31x compression."
    ),
    methods=(
        "fullrank.compress.LR2VQConfig",
        "fullrank.compress.LR2VQMethod",
        "fullrank.compress.VQConv2d",
        "fullrank.compress.VQLinear",
        "fullrank.compress.lr2vq.prepare",
        "fullrank.compress.lr2vq.cluster",
        "fullrank.compress.lr2vq.finalize",
        "fullrank.compress.lr2vq.choose_dim",
        "fullrank.compress.estimate_dim",
        "fullrank.compress.model_size",
    ),
    usage=(
        "from torch import nn\n"
        "\n"
        "from fullrank.compress import LR2VQConfig, lr2vq\n"
        "\n"
        "model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))  # a trained one\n"
        'config = LR2VQConfig(subvector_size={"conv3x3": 18}, k=8, dim=6)\n'
        "lr2vq.prepare(model, config)  # low rank: train for a few epochs\n"
        "lr2vq.cluster(model)          # codes and codebooks: train on\n"
        "lr2vq.finalize(model)         # packed codes\n"
        "print(lr2vq.model_size(model).ratio)\n"
    ),
    notes=(
        "Only the abstract and one summary could be read; there is no official code. The named design (low-rank "
        "representations, k, m and d, training end to end, an estimate of d) is built with a layout of subvectors and "
        "stages chosen by us. Without a projection, at d = m, the same layers are plain product quantisation and DKM. "
        "On digits the best of four inner dimensions is picked after the fact, and its lead over plain quantisation is "
        "no larger than the spread over three seeds."
    ),
    claims=(
        Claim(
            id="resnet18-gain",
            says="ResNet-18 at 43x compression gains 2.8 points over the best earlier vector quantisation.",
            source="abstract",
            paper_value=2.8,
            unit="points",
            needs=_IMAGENET,
        ),
        Claim(
            id="resnet50-gain",
            says="ResNet-50 at 31x compression gains 1.0 point.",
            source="abstract",
            paper_value=1.0,
            unit="points",
            needs=_IMAGENET,
        ),
        Claim(
            id="absolute-accuracy",
            says="That would be 66.1 % (ResNet-18, PQF 63.33) and 73.2 % (ResNet-50, PQF 72.18) top-1.",
            source="our addition, if PQF is the reference",
            paper_value={"ResNet-18": 66.1, "ResNet-50": 73.2, "PQF ResNet-18": 63.33, "PQF ResNet-50": 72.18},
            unit="%",
            needs=_IMAGENET,
            confirmed=False,
        ),
        Claim(
            id="pqf-small-blocks",
            says=(
                "PQF with small blocks has 66.74 % (ResNet-18, 29x) and 75.04 % (ResNet-50, 19x); dense 69.76 "
                "and 76.15."
            ),
            source="PQF repository",
            paper_value={
                "PQF ResNet-18": 66.74,
                "PQF ResNet-50": 75.04,
                "dense ResNet-18": 69.76,
                "dense ResNet-50": 76.15,
            },
            unit="%",
            needs=_IMAGENET,
        ),
        Claim(
            id="dkm",
            says="DKM has 74.5 % on ResNet-50 at 29.4x and 63.9 % on MobileNet-v1 at 22.4x.",
            source="abstract of DKM",
            paper_value={"ResNet-50": 74.5, "MobileNet-v1": 63.9},
            unit="%",
            needs=_IMAGENET,
        ),
        Claim(
            id="better-everywhere",
            says="It beats PQF and vanilla DKM in all configurations of both networks.",
            source="third-party summary",
            needs=_IMAGENET,
            confirmed=False,
        ),
        Claim(
            id="size-by-m-accuracy-by-d",
            says="The compressed size depends on m only, not on d.",
            source="abstract",
            unit="bytes",
            holds=lambda largest_difference: largest_difference == 0,
        ),
        Claim(
            id="interior-d-is-best",
            says=(
                "At equal m and codebook the best d lies inside: better than d = m (plain vector quantisation) "
                "and than the smallest d."
            ),
            source="the paper's argument",
            unit="%",
            holds=lambda m: m["best interior d"] > m["d = m"] and m["best interior d"] > m["smallest d"],
        ),
        Claim(
            id="errors-trade",
            says="With growing d the low-rank error falls and the clustering error rises.",
            source="the paper's argument",
            holds=lambda m: m["Spearman of low-rank error"] <= -0.9 and m["Spearman of clustering error"] >= 0.9,
        ),
        Claim(
            id="d-can-be-estimated",
            says="A dimension estimated before fine-tuning ends within half a point of the best.",
            source="abstract",
            unit="points",
            holds=lambda gap: gap <= 0.5,
        ),
        Claim(
            id="published-sizes",
            says=(
                "Codes, codebooks, first convolution, folded normalisations and biases add up to the sizes that PQF "
                "publishes: 1.54 and 1.03 MB for ResNet-18, 5.09 and 3.19 MB for ResNet-50."
            ),
            source="PQF repository, compared with our count",
            paper_value={
                "ResNet-18 small": 1.54,
                "ResNet-18 large": 1.03,
                "ResNet-50 small": 5.09,
                "ResNet-50 large": 3.19,
            },
            unit="MiB",
            holds=lambda m: all(
                abs(m[name] - size) <= 0.0051
                for name, size in (
                    ("ResNet-18 small", 1.54),
                    ("ResNet-18 large", 1.03),
                    ("ResNet-50 small", 5.09),
                    ("ResNet-50 large", 3.19),
                )
            ),
            kind="finding",
        ),
        Claim(
            id="frozen-weights-cannot-choose",
            says="On weights that do not train, the sum of both errors is smallest at d = m: it cannot choose d.",
            source="derived: every codebook of d dimensions is one of m dimensions too",
            unit="share of the squared norm",
            holds=lambda m: m["d = m"] < m["smallest of d < m"],
            kind="finding",
        ),
        Claim(
            id="low-rank-training-is-needed",
            says="At the smallest d, a few epochs of training at low rank regain at least 20 points that the SVD lost.",
            source="our pilot on digits",
            unit="%",
            holds=lambda m: m["after training"] - m["SVD only"] >= 20,
            kind="finding",
        ),
        Claim(
            id="gain-grows-with-compression",
            says="The best interior d gains more over plain vector quantisation with 8 codewords than with 16.",
            source="our pilot on digits; the paper gains more on the smaller network too",
            unit="points",
            holds=lambda m: m["k = 8"] > m["k = 16"],
            kind="finding",
        ),
    ),
)

_M = 18
_PLAIN = "plain"  # without a projection, d = m
_K = 16  # the codebook that claims are about


class _Size(NamedTuple):
    """How much is trained."""

    images: int
    dense_epochs: int
    low_rank_epochs: int
    fine_epochs: int
    dims: tuple[int, ...]
    codewords: tuple[int, ...]


@PAPER.study
def study(trial: Trial) -> None:
    """A small network on scikit-learn's digits, compressed at equal m and k with every d; sizes of two ResNets."""
    size = trial.pick(
        smoke=_Size(300, 1, 1, 1, (2, 4, 18), (_K, 8)),
        quick=_Size(1797, 8, 3, 4, (2, 3, 4, 6, 9, 18), (_K, 8)),
        full=_Size(1797, 20, 6, 10, (2, 3, 4, 6, 9, 12, 18), (_K, 8)),
    )
    _sizes(trial)
    with trial.one_thread():
        plan = {f"digits seed={seed} {size}": partial(_digits, size, seed) for seed in trial.seeds}
        runs = trial.steps(plan, "digits at every dimension")
    _measure(trial, size, runs)


def _sizes(trial: Trial) -> None:
    """Bytes of ResNet-18 and ResNet-50, counted."""
    small, large = {"conv3x3": 9, "conv1x1": 4, "linear": 4}, {"conv3x3": 18, "conv1x1": 4, "linear": 4}
    settings = {
        "ResNet-18 small": (18, small, 2048),
        "ResNet-18 large": (18, large, 2048),
        "ResNet-50 small": (50, small, 1024),
        "ResNet-50 large": (50, large | {"conv1x1": 8}, 1024),
    }
    rows = {name: trial.step(f"size {name}", partial(_counted, *chosen)) for name, chosen in settings.items()}
    trial.measure("published-sizes", {name: row["plain"] / 2**23 for name, row in rows.items()})
    bits = [value for name, value in rows["ResNet-18 large"].items() if name.startswith("d = ")]
    trial.measure("size-by-m-accuracy-by-d", (max(bits) - min(bits)) / 8)
    trial.table(
        "sizes",
        [
            {"model": name, **{f"{part} MiB": value / 2**23 for part, value in row.items() if part != "dense"},
             "times smaller, plain": row["dense"] / row["plain"]}
            for name, row in rows.items()
        ],
    )  # fmt: skip
    codes = rows["ResNet-18 large"]["codes"] / 2**23
    trial.note(
        f"Of the size only the codes ({codes:.3f} MiB of ResNet-18 with large blocks) are set by m alone: codebooks "
        "shrink in proportion to d and the projection adds m d numbers to each layer, so that the file is not the same "
        "for every d; smaller d has the smaller file. The claim of the abstract holds for the codes, not for all bytes."
    )


def _counted(depth: int, m: dict[str, int], classifier: int) -> dict[str, int]:
    """Bits of a ResNet: dense, plain, with a projection and d = m / 4, m / 2 and m, and of its codes."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    from fullrank.compress import LR2VQConfig, model_size

    basic = depth == 18
    widths = [(1 if basic else 4) * width for width in (64, 128, 256, 512)]
    layers, kind = ([2, 2, 2, 2], "basic") if basic else ([3, 4, 6, 3], "bottleneck")
    with torch.device("meta"):
        config: Any = ResNetConfig(depths=layers, hidden_sizes=widths, layer_type=kind)
        config.num_labels = 1000
        model = ResNetForImageClassification(config)
    model.to_empty(device="cpu")
    common: dict[str, Any] = {
        "subvector_size": m,
        "k_pattern": {"classifier.1": classifier},
        "skip_modules": ["resnet.embedder.embedder.convolution"],
    }
    plain = model_size(model, LR2VQConfig(**common, projection="none"))
    shares = {"d = m / 4": 0.25, "d = m / 2": 0.5, "d = m": 1.0}
    projected = {name: model_size(model, LR2VQConfig(**common, dim=share)).total for name, share in shares.items()}
    return {"dense": plain.dense, "plain": plain.total, "codes": plain.codes, **projected}


# --- digits -----------------------------------------------------------------------------------------------------------


def _digits(size: _Size, seed: int) -> dict[str, Any]:
    """One trained network, and what becomes of it with every dimension; accuracies in percent."""
    import copy

    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    from fullrank.compress import LR2VQConfig, lr2vq

    pixels, labels = load_digits(return_X_y=True)
    x = torch.as_tensor(pixels[: size.images]).float().reshape(-1, 1, 8, 8) / 16
    y = torch.as_tensor(labels[: size.images])
    fit, test = train_test_split(range(len(y)), test_size=0.28, stratify=y, random_state=seed)
    fit, held = train_test_split(fit, test_size=1 / 6, stratify=y[fit], random_state=seed)
    train = partial(_train, x[fit], y[fit], seed)
    score, validate = partial(_accuracy, x[test], y[test]), partial(_accuracy, x[held], y[held])

    dense = _network(seed)
    train(dense, size.dense_epochs, 3e-3)
    base: dict[str, Any] = {"subvector_size": {"conv3x3": _M}, "k": _K, "assign": "fixed", "skip_modules": ["0"]}
    arms: dict[str, dict[str, Any]] = {str(d): {"dim": d} for d in size.dims}
    arms[_PLAIN] = {"dim": _M, "projection": "none"}
    found: dict[str, Any] = {"dense": score(dense), "arms": {}}
    for name, options in arms.items():
        low_rank = lr2vq.prepare(copy.deepcopy(dense), LR2VQConfig(**base | options))
        arm: dict[str, Any] = {"SVD only": score(low_rank)}
        train(low_rank, size.low_rank_epochs, 1e-3)
        arm["after training"] = score(low_rank)
        for k in size.codewords:
            arm[f"k={k}"] = _quantised(low_rank, k, lambda model: train(model, size.fine_epochs, 1e-3), score)
        found["arms"][name] = arm
    config = LR2VQConfig(**base)
    choice = lr2vq.choose_dim(
        dense, config, lambda model: train(model, size.low_rank_epochs, 1e-3), validate, candidates=size.dims
    )
    return found | {"chosen": choice.dim, "errors": _errors(dense, size.dims)}


def _quantised(low_rank: Any, k: int, train: Callable[[Any], None], score: Callable[[Any], float]) -> dict[str, float]:
    """Clustering, training with fixed codes, and hard codes."""
    import copy
    from dataclasses import replace

    from fullrank.compress import lr2vq
    from fullrank.compress.vq_layers import VQLayer

    model = copy.deepcopy(low_rank)
    layers = [module for module in model.modules() if isinstance(module, VQLayer)]
    for layer in layers:
        layer.settings = replace(layer.settings, k=k)
    before = [layer.weight.detach() for layer in layers]
    lr2vq.cluster(model, starts=4)
    lost = sum(
        float((layer.weight.detach() - weight).square().sum()) for layer, weight in zip(layers, before, strict=True)
    )
    clustered = score(model)
    train(model)
    error = lost / sum(float(weight.square().sum()) for weight in before)
    return {"clustered": clustered, "clustering error": error, "final": score(lr2vq.finalize(model))}


def _errors(dense: Any, dims: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Both errors of the trained weights, by dimension, the mean of the two layers."""
    from fullrank.compress import estimate_dim

    tables = [estimate_dim(dense[place].weight, _M, _K, starts=2) for place in (3, 7)]
    rows = {d: [table.rows[d - 1] for table in tables] for d in dims}
    return {
        str(d): {
            "lowrank": sum(row.lowrank for row in pair) / 2,
            "total": sum(row.total for row in pair) / 2,
        }
        for d, pair in rows.items()
    }


def _network(seed: int) -> Any:
    import torch
    from torch import nn

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 24), (24, 32), (32, 32)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers.insert(6, nn.MaxPool2d(2))
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def _train(x: Any, y: Any, seed: int, model: Any, epochs: int, rate: float) -> None:
    import torch

    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()


def _accuracy(x: Any, y: Any, model: Any) -> float:
    import torch

    model.eval()
    with torch.no_grad():
        return 100 * float((model(x).argmax(1) == y).double().mean())


def _measure(trial: Trial, size: _Size, runs: list[dict[str, Any]]) -> None:
    from scipy.stats import spearmanr

    arms = list(runs[0]["arms"])
    final = {k: {arm: [run["arms"][arm][f"k={k}"]["final"] for run in runs] for arm in arms} for k in size.codewords}
    best = {k: _best(values, size) for k, values in final.items()}
    interior, full, smallest = (best[_K][name] for name in ("interior", "full", "smallest"))
    named = {"best interior d": final[_K][interior], "d = m": final[_K][full], "smallest d": final[_K][smallest]}
    trial.measure("interior-d-is-best", *mean_and_spread(named))
    chosen = [final[_K][str(run["chosen"])][index] for index, run in enumerate(runs)]
    top = max(arms, key=lambda arm: sum(final[_K][arm]))
    gaps = [value - own for value, own in zip(final[_K][top], chosen, strict=True)]
    means, spreads = mean_and_spread({"gap": gaps})
    trial.measure("d-can-be-estimated", means["gap"], spreads["gap"])
    first = str(size.dims[0])
    regained = {name: [run["arms"][first][name] for run in runs] for name in ("SVD only", "after training")}
    trial.measure("low-rank-training-is-needed", *mean_and_spread(regained))
    gains = {
        f"k = {k}": [a - b for a, b in zip(values[best[k]["interior"]], values[best[k]["full"]], strict=True)]
        for k, values in final.items()
    }
    trial.measure("gain-grows-with-compression", *mean_and_spread(gains))
    _measure_errors(trial, size, runs, spearmanr)
    _table(trial, size, runs)
    trial.note(
        f"The estimate chose d = {', '.join(str(run['chosen']) for run in runs)} (one for each seed) as the smallest "
        f"dimension whose network of low rank, trained for {size.low_rank_epochs} epochs, is within 1.5 points of the "
        f"dense one on held-out digits. The best of all arms at k = {_K} was {top}. Both forms of d = m were trained, "
        "with and without a projection; the better one stands for plain vector quantisation."
    )


def _best(values: Mapping[str, list[float]], size: _Size) -> dict[str, str]:
    """The arms that the claims compare."""
    smallest, full = str(size.dims[0]), [str(_M), _PLAIN]
    interior = [arm for arm in values if arm not in (smallest, *full)]

    def mean(arm: str) -> float:
        return sum(values[arm])

    return {"smallest": smallest, "interior": max(interior, key=mean), "full": max(full, key=mean)}


def _measure_errors(trial: Trial, size: _Size, runs: list[dict[str, Any]], spearmanr: Callable[..., Any]) -> None:
    count = len(runs)
    lowrank = [sum(run["errors"][str(d)]["lowrank"] for run in runs) / count for d in size.dims]
    total = [sum(run["errors"][str(d)]["total"] for run in runs) / count for d in size.dims]
    cluster = [sum(run["arms"][str(d)][f"k={_K}"]["clustering error"] for run in runs) / count for d in size.dims]
    trial.measure(
        "errors-trade",
        {
            "Spearman of low-rank error": float(spearmanr(size.dims, lowrank).statistic),
            "Spearman of clustering error": float(spearmanr(size.dims, cluster).statistic),
        },
    )
    trial.measure("frozen-weights-cannot-choose", {"d = m": total[-1], "smallest of d < m": min(total[:-1])})
    trial.table(
        "errors",
        [
            {
                "d": d,
                "low-rank error %": 100 * lost,
                "clustering error after training %": 100 * clustering,
                "sum when frozen %": 100 * both,
            }
            for d, lost, clustering, both in zip(size.dims, lowrank, cluster, total, strict=True)
        ],
    )


def _table(trial: Trial, size: _Size, runs: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    columns = {"SVD only": (), "after training": ()} | {
        f"k={k} {stage}": (f"k={k}", stage) for k in size.codewords for stage in ("clustered", "final")
    }
    rows = []
    for arm in runs[0]["arms"]:
        row: dict[str, Any] = {"d": arm}
        for column, path in columns.items():
            values = [run["arms"][arm][path[0]][path[1]] if path else run["arms"][arm][column] for run in runs]
            means, spreads = mean_and_spread({column: values})
            row[f"{column} %"] = means[column]
            if column.endswith("final"):
                row[f"{column} spread"] = spreads[column]
        rows.append(row)
    dense = sum(run["dense"] for run in runs) / len(runs)
    trial.table("digits", rows)
    trial.note(f"The dense network has {dense:.1f} % on the test digits.")
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for k, colour in zip(size.codewords, ("#0f766e", "#b45309"), strict=False):
        values = [row[f"k={k} final %"] for row in rows if row["d"] != _PLAIN]
        axes.plot(size.dims, values, "o-", c=colour, label=f"{k} codewords")
    axes.set(xlabel="dimension d of the representations (m = 18)", ylabel="accuracy after training, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    trial.figure("accuracy-by-dimension", figure)
