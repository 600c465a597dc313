"""Greenformers: Improving Computation and Memory Efficiency in Transformer Models via Low-Rank Approximation
(Greenformers, Low-Rank Transformer).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from fullrank.papers import Claim, Paper, Trial
from fullrank.papers._repeats import repeat

PAPER = Paper(
    slug="greenformers",
    title="Greenformers: Improving Computation and Memory Efficiency in Transformer Models via Low-Rank Approximation",
    authors=1,
    published="2021-08-24",
    arxiv="2108.10808",
    position=8,
    repository="https://github.com/SamuelCahyawijaya/greenformer",
    topics=(
        "compression",
        "attention",
        "language",
    ),
    summary=(
        "A thesis on cheaper transformers: every large linear map is replaced by a two-factor low-rank map "
        "(Low-Rank Transformer) and compared with Linformer. The low-rank version wins for short sequences up "
        "to about 512 tokens and for small devices, Linformer for longer ones. Applied to BERT-base the "
        "estimate is over 30 % lower training cost."
    ),
    methods=(
        "fullrank.compress.auto_fact",
        "fullrank.compress.fact_report",
        "fullrank.nn.LowRankTransformerEncoderLayer",
        "fullrank.nn.LinformerEncoderLayer",
        "fullrank.nn.crossover_length",
    ),
    usage="""\
import torch
from fullrank.compress import auto_fact, fact_report
from fullrank.nn import LinformerEncoderLayer, LowRankTransformerEncoderLayer, crossover_length

model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.Linear(512, 256))
small = auto_fact(model, rank=0.5, deepcopy=True)     # half of the break-even rank, exact SVD
for row in fact_report(model, small):
    print(row.name, "rank", row.rank, f"{row.parameters_before} -> {row.parameters_after}, error {row.error:.2f}")

low_rank = LowRankTransformerEncoderLayer(64, 4, 256, rank=16, batch_first=True)   # for nn.TransformerEncoderLayer
linear = LinformerEncoderLayer(64, 4, seq_len=512, k=64, dim_feedforward=256)
x = torch.randn(2, 100, 64)
print(low_rank(x).shape, linear(x).shape)
print("LRT is cheaper up to", crossover_length(d_model=64, rank=16, k=64), "tokens")
""",
    extra="adapt",
    notes=(
        "The library holds only the factoriser; the Low-Rank Transformer and Linformer follow the thesis and its "
        "companions. Its default solver keeps random factors and so destroys trained weights, its truncated SVD is "
        "randomised without oversampling, and its rank limit for convolutions ignores the kernel; exact SVD and the "
        "true break-even are our defaults, the library's integers an option. The crossover at 512 tokens belongs to "
        "one width, rank and projection and to attention as of 2021; fused attention moves it to longer inputs."
    ),
    claims=(
        Claim(
            id="short-sequences-lrt",
            says=(
                "On short inputs, up to about 512 tokens, the Low-Rank Transformer (LRT) is faster than the dense one "
                "and than Linformer (tested at 64, 128 and 256 tokens)."
            ),
            source="abstract",
            unit="ms",
            holds=lambda m: all(
                m[f"LRT at {length}"] < min(m[f"Linformer at {length}"], m[f"dense at {length}"])
                for length in (64, 128, 256)
            ),
        ),
        Claim(
            id="short-sequences-memory",
            says="On short inputs the Low-Rank Transformer also needs less memory than both (tested at 256 tokens).",
            source="abstract",
            unit="MB",
            holds=lambda m: m["LRT"] < min(m["Linformer"], m["dense"]),
        ),
        Claim(
            id="long-sequences-linformer",
            says="On long inputs, from about 512 tokens on, Linformer is the faster one (tested at 2048 tokens).",
            source="abstract",
            unit="ms",
            holds=lambda m: m["Linformer at 2048"] < min(m["LRT at 2048"], m["dense at 2048"]),
        ),
        Claim(
            id="crossover",
            says=(
                "The times of the Low-Rank Transformer and Linformer cross once, near 512 tokens (here: anywhere "
                "between 256 and 2048 tokens)."
            ),
            source="abstract",
            paper_value=512,
            unit="tokens",
            holds=lambda m: m["crossings"] == 1 and 256 <= m["tokens"] <= 2048,
        ),
        Claim(
            id="lrt-is-smaller",
            says="The Low-Rank Transformer is significantly smaller, Linformer is not.",
            source="abstract",
            unit="parameters of one layer",
            holds=lambda m: m["LRT"] <= 0.8 * m["dense"] and m["Linformer"] >= m["dense"],
        ),
        Claim(
            id="pretraining-cost",
            says=(
                "Pre-training a BERT-base-like Low-Rank Transformer saves more than 30 % of the compute, money and CO2."
            ),
            source="abstract",
            paper_value=30.0,
            unit="%",
            needs="pre-training BERT-base",
        ),
        Claim(
            id="speech-lrt",
            says=(
                "In speech recognition over 50 % fewer parameters, 1.26x (first version) or 1.35x faster "
                "inference, and lower error rates."
            ),
            source="abstract of the companion paper 1910.13923",
            paper_value={"fewer parameters, %": 50, "speed-up, first version": 1.26, "speed-up, later version": 1.35},
            needs="the speech corpora of the companion paper",
        ),
        Claim(
            id="bert-parameters",
            says="BERT-base has 109,482,240 parameters, at rank 256 66,818,304, at rank fraction 0.4 58,052,352.",
            source="official notebook",
            paper_value={"dense": 109482240, "rank 256": 66818304, "rank 0.4": 58052352},
            unit="parameters",
            holds=lambda m: (m["dense"], m["rank 256"], m["rank 0.4"]) == (109482240, 66818304, 58052352),
        ),
        Claim(
            id="gpt2-parameters",
            says="GPT-2 has 124,439,808 parameters, at rank 256 77,253,888, at rank fraction 0.4 73,383,168.",
            source="official notebook",
            paper_value={"dense": 124439808, "rank 256": 77253888, "rank 0.4": 73383168},
            unit="parameters",
            holds=lambda m: (m["dense"], m["rank 256"], m["rank 0.4"]) == (124439808, 77253888, 73383168),
        ),
        Claim(
            id="vgg16-parameters",
            says="VGG16 has 138,357,544 parameters, at rank 256 25,596,712, at rank fraction 0.4 52,613,904.",
            source="official notebook",
            paper_value={"dense": 138357544, "rank 256": 25596712, "rank 0.4": 52613904},
            unit="parameters",
            holds=lambda m: (m["dense"], m["rank 256"], m["rank 0.4"]) == (138357544, 25596712, 52613904),
        ),
        Claim(
            id="bert-cpu-speed",
            says=(
                "BERT-base on CPU, 32 x 256 tokens, rank 0.2 on the last six layers and the pooler: inference falls "
                "from 4.15 s to 3.01 s, forward and backward from 3.33 s to 2.41 s (here: both at least 1.2 times "
                "faster)."
            ),
            source="official notebook",
            paper_value={"dense": 4.15, "low rank": 3.01, "dense with backward": 3.33, "low rank with backward": 2.41},
            unit="s",
            holds=lambda m: (
                m["dense"] >= 1.2 * m["low rank"] and m["dense with backward"] >= 1.2 * m["low rank with backward"]
            ),
        ),
        Claim(
            id="bert-gpu-speed",
            says="BERT-base on GPU, 64 x 256 tokens: 785 ms become 683 ms, 1.15 times faster (here: at least 1.05).",
            source="official notebook",
            paper_value={"dense": 785.0, "low rank": 683.0},
            unit="ms",
            needs="one GPU",
            holds=lambda m: m["dense"] >= 1.05 * m["low rank"],
        ),
        Claim(
            id="imdb",
            says=(
                "Fine-tuned BERT on IMDB, SVD of rank 192 on the last four layers and the pooler: 92.43 % (of 92.86 %) "
                "with 90.3 M of 108.3 M parameters, 10 % faster, without retraining."
            ),
            source="official notebook",
            paper_value={
                "dense": 92.86,
                "low rank": 92.43,
                "dense M parameters": 108.3,
                "low rank M parameters": 90.3,
                "faster": 10,
            },
            unit="%",
            needs="BERT-base weights fine-tuned on IMDB",
        ),
        Claim(
            id="cifar10-resnext",
            says=(
                "ResNeXt50 on CIFAR-10 after 5 epochs, low rank by design in its last two stages: 83 % with 12.9 M "
                "parameters against 85 % with 23.0 M."
            ),
            source="official notebook",
            paper_value={"dense": 85.0, "low rank": 83.0, "dense M parameters": 23.0, "low rank M parameters": 12.9},
            unit="%",
            needs="ResNeXt50 weights pre-trained on ImageNet and CIFAR-10",
        ),
        Claim(
            id="cifar10-by-design",
            says=(
                "A small residual network with low-rank convolutions by design stays within 2 points of the dense one "
                "on CIFAR-10 with at most 60 % of its parameters."
            ),
            source="official notebook, at small scale",
            unit="%",
            holds=lambda m: m["dense"] - m["low rank"] <= 2 and m["parameters"] <= 60,
        ),
        Claim(
            id="gpt2-in-context",
            says=(
                "GPT-2 large (774 M parameters) classifies SST in context with 68.7 % after an SVD of rank 384 in some "
                "layers, 64.0 % before."
            ),
            source="official notebook",
            paper_value={"dense": 64.0, "low rank": 68.7},
            unit="%",
            needs="GPT-2 large weights",
        ),
        Claim(
            id="lrt-quality",
            says="A Low-Rank Transformer stays within 2 points of the dense one with at most 60 % of its parameters.",
            source="thesis (quality kept), as a test on digits",
            unit="%",
            holds=lambda m: m["dense"] - m["LRT"] <= 2 and m["parameters"] <= 60,
            confirmed=False,
        ),
        Claim(
            id="exact-svd-is-enough",
            says="Exact truncation is nowhere more than 0.3 points below the library's randomised one, at any rank.",
            source="official code (randomised, no oversampling), compared on MiniLM and STS-B",
            unit="Spearman x 100, exact less library, smallest over ranks",
            holds=lambda difference: difference >= -0.3,
            kind="finding",
        ),
        Claim(
            id="last-layers-lose-least",
            says="At half the break-even rank, factorising only the last two layers loses less than factorising all.",
            source="recipe of the official notebooks, on MiniLM and STS-B",
            unit="Spearman x 100",
            holds=lambda m: m["last two layers"] > m["all layers"],
            kind="finding",
        ),
        Claim(
            id="crossover-is-no-law",
            says=(
                "The crossover depends on width, rank and projection: six widths less nine ranks plus two projections "
                "predicts it within a factor of two."
            ),
            source="our count of multiply-adds, which gives 512 at width 256, rank 128 and projection 64",
            unit="tokens",
            holds=lambda m: 0.5 * m["predicted"] <= m["measured"] <= 2 * m["predicted"],
            kind="finding",
        ),
        Claim(
            id="fused-attention-moves-the-crossover",
            says="With fused attention the crossover lies at longer inputs than with attention as of 2021.",
            source="derived: fused attention keeps no square matrix of scores",
            unit="tokens",
            holds=lambda m: m["fused"] > m["eager"],
            kind="finding",
        ),
        Claim(
            id="default-solver-destroys",
            says=(
                "The library's default solver keeps random factors: on a trained encoder it loses at least 10 points "
                "more than SVD at the same rank."
            ),
            source="official code",
            unit="Spearman x 100",
            holds=lambda m: m["SVD"] - m["random"] >= 10,
            kind="finding",
        ),
        Claim(
            id="convolution-limit-ignores-kernel",
            says=(
                "The library's rank limit for convolutions ignores the kernel size and is smaller than the rank at "
                "which a factorised 3 x 3 convolution stops saving parameters."
            ),
            source="official code",
            unit="rank",
            holds=lambda m: m["library"] < m["break-even"],
            kind="finding",
        ),
    ),
)


class Shape(NamedTuple):
    """An encoder layer and the lengths it is timed at."""

    width: int
    heads: int
    rank: int
    k: int
    batch: int
    lengths: tuple[int, ...]
    repeats: int


class Size(NamedTuple):
    """How much is measured."""

    shape: Shape
    digits_epochs: int
    digits_seeds: int
    fractions: tuple[float, ...]
    pairs: int
    bert_batch: int
    images: int
    image_epochs: int


_LENGTHS = (64, 128, 256, 512, 1024, 2048)
_SMOKE = Size(Shape(16, 2, 4, 4, 1, (64, 128, 256, 2048), 1), 1, 1, (0.5,), 16, 1, 40, 1)
_QUICK = Size(Shape(256, 4, 128, 64, 4, _LENGTHS, 4), 20, 3, (0.75, 0.5), 300, 4, 3000, 4)
_FULL = Size(
    Shape(768, 12, 256, 256, 16, (*_LENGTHS, 4096, 8192, 16384), 7), 30, 5, (0.9, 0.75, 0.5), 1379, 32, 10_000, 30
)


@PAPER.study
def study(trial: Trial) -> None:
    """Where the two encoders cross, what the library's integers are, and what factoring trained models costs."""
    size = trial.pick(smoke=_SMOKE, quick=_QUICK, full=_FULL)
    _counts(trial)
    with trial.one_thread():
        _crossover(trial, size.shape)
        _bert_speed(trial, size)
        _digits(trial, size)
        _images(trial, size)
    _encoder(trial, size)


# --- exact counts -----------------------------------------------------------------------------------------------------


def _counts(trial: Trial) -> None:
    """Parameters after `auto_fact` by the library's rank rule, on models without values."""
    from fullrank.compress import factor_rank

    rows = []
    for claim, build in (("bert-parameters", _bert), ("gpt2-parameters", _gpt2), ("vgg16-parameters", _vgg16)):
        counts = trial.step(f"counts {claim}", partial(_factored_counts, build))
        trial.measure(claim, counts)
        rows.append({"model": claim.partition("-")[0], **counts})
    trial.table("parameters", rows)
    limit = {"library": factor_rank(64, 128, 0.999, 9, 1, "greenformer"), "break-even": factor_rank(64, 128, 0.999, 9)}
    trial.measure("convolution-limit-ignores-kernel", {name: rank or 0 for name, rank in limit.items()})


def _factored_counts(build: Callable[[], Any]) -> dict[str, int]:
    import torch

    from fullrank.compress import auto_fact

    counts = {}
    with torch.device("meta"):
        for name, rank in (("dense", None), ("rank 256", 256), ("rank 0.4", 0.4)):
            model = build()
            if rank is not None:
                auto_fact(model, rank, "random", rank_rule="greenformer")
            counts[name] = sum(parameter.numel() for parameter in model.parameters())
    return counts


def _bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig())


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config())


def _vgg16() -> Any:
    """VGG configuration D, as in torchvision."""
    from torch import nn

    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        layers += [nn.MaxPool2d(2)] if width == 0 else [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        channels = width or channels
    head = [nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential(*layers, nn.Flatten(), *head)


# --- the crossover ----------------------------------------------------------------------------------------------------


def _crossover(trial: Trial, shape: Shape) -> None:
    """Time and memory of one layer of each kind, with attention written out and fused."""
    from fullrank.nn import crossover_length

    times: dict[str, dict[str, float]] = {}
    plan = [(fused, length) for fused in (False, True) for length in shape.lengths]
    for fused, length in trial.track(plan, "timing encoder layers"):
        kind = "fused" if fused else "eager"
        times[f"{kind} {length}"] = trial.step(
            f"layers {kind} {length} {shape} {trial.device}", partial(_layer_times, shape, length, fused, trial.device)
        )
    eager = {length: times[f"eager {length}"] for length in shape.lengths}
    at = {f"{name} at {length}": 1000 * eager[length][name] for length in eager for name in eager[length]}
    trial.measure("short-sequences-lrt", at)
    trial.measure("long-sequences-linformer", at)
    trial.measure("short-sequences-memory", trial.step(f"memory {shape}", partial(_memory, shape, 256)))
    layers = _layers(shape, max(shape.lengths), False)
    trial.measure(
        "lrt-is-smaller", {name: sum(p.numel() for p in layer.parameters()) for name, layer in layers.items()}
    )
    predicted = crossover_length(shape.width, shape.rank, shape.k)
    (crossings, eager_at), (_, fused_at) = (_crossings(shape.lengths, times, kind) for kind in ("eager", "fused"))
    trial.measure("crossover", {"crossings": crossings, "tokens": eager_at})
    trial.measure("crossover-is-no-law", {"predicted": predicted, "measured": eager_at})
    trial.measure("fused-attention-moves-the-crossover", {"eager": eager_at, "fused": fused_at})
    rows = [
        {"attention": kind, "tokens": length, **{f"{name}, ms": 1000 * value for name, value in row.items()}}
        for kind in ("eager", "fused")
        for length in shape.lengths
        for row in [times[f"{kind} {length}"]]
    ]
    trial.table("layer-times", rows)
    trial.note(
        f"One encoder layer of width {shape.width}, rank {shape.rank}, k {shape.k}, forward and backward, one thread. "
        f"Predicted crossover {predicted} tokens; measured with attention written out {eager_at:.0f}, fused "
        f"{fused_at:.0f}. Where the times do not cross, half of the shortest or twice the longest length stands."
    )
    _figure(trial, shape, times)


def _layers(shape: Shape, longest: int, fused: bool) -> dict[str, Any]:
    """The three layers: the dense one is a low-rank one whose maps are dense."""
    from torch import nn

    from fullrank.nn import LinformerEncoderLayer, LowRankTransformerEncoderLayer

    inner = 4 * shape.width
    dense = LowRankTransformerEncoderLayer(shape.width, shape.heads, inner, 1, 0.0, batch_first=True, fused=fused)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        setattr(dense.self_attn, name, nn.Linear(shape.width, shape.width))
    dense.linear1, dense.linear2 = nn.Linear(shape.width, inner), nn.Linear(inner, shape.width)
    return {
        "dense": dense,
        "LRT": LowRankTransformerEncoderLayer(
            shape.width, shape.heads, inner, shape.rank, 0.0, batch_first=True, fused=fused
        ),
        "Linformer": LinformerEncoderLayer(
            shape.width, shape.heads, longest, min(shape.k, longest), inner, 0.0, fused=fused
        ),
    }


def _layer_times(shape: Shape, length: int, fused: bool, device: str) -> dict[str, float]:
    """Median seconds of a step by layer; the layers take turns."""
    import torch

    layers = {name: layer.to(device) for name, layer in _layers(shape, max(shape.lengths), fused).items()}
    x = torch.randn(shape.batch, length, shape.width, generator=torch.Generator().manual_seed(0)).to(device)

    def step(layer: Any) -> None:
        layer(x).sum().backward()
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    seconds: dict[str, list[float]] = {name: [] for name in layers}
    for turn in range(shape.repeats + 1):
        for name, layer in layers.items():
            began = time.perf_counter()
            step(layer)
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in seconds.items()}


def _memory(shape: Shape, length: int) -> dict[str, float]:
    """Megabytes of a training step: weights, gradients, Adam's moments and activations."""
    import torch

    from fullrank.adapt import training_memory

    x = torch.randn(shape.batch, length, shape.width)
    return {
        name: (training_memory(layer, {"src": x}).total + sum(p.nbytes for p in layer.parameters())) / 1e6
        for name, layer in _layers(shape, length, False).items()
    }


def _crossings(lengths: tuple[int, ...], times: dict[str, dict[str, float]], kind: str) -> tuple[int, float]:
    """How often the times of LRT and Linformer cross, and where they do first, interpolated on a log scale."""
    import math

    gaps = [math.log(times[f"{kind} {n}"]["LRT"] / times[f"{kind} {n}"]["Linformer"]) for n in lengths]
    steps = list(zip(gaps, gaps[1:], lengths, lengths[1:], strict=False))
    crossed = [step for step in steps if step[0] * step[1] < 0]
    if not crossed:
        return 0, lengths[0] / 2 if gaps[0] > 0 else 2.0 * lengths[-1]
    before, after, low, high = crossed[0]
    return len(crossed), math.exp(math.log(low) + math.log(high / low) * before / (before - after))


def _figure(trial: Trial, shape: Shape, times: dict[str, dict[str, float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), ("eager", "fused"), strict=True):
        for name in ("dense", "LRT", "Linformer"):
            axes.loglog(
                shape.lengths, [1000 * times[f"{kind} {n}"][name] for n in shape.lengths], "o-", ms=4, label=name
            )
        axes.set(title=f"{kind} attention", xlabel="tokens")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("ms, forward and backward")
    figure.axes[1].legend(frameon=False, fontsize=8)
    trial.figure("crossover", figure)


# --- a whole encoder --------------------------------------------------------------------------------------------------


def _bert_speed(trial: Trial, size: Size) -> None:
    """BERT-base with rank fraction 0.2 in its last six layers and the pooler."""
    found = trial.step(
        f"bert speed {size.bert_batch} {trial.device}", partial(_bert_times, size.bert_batch, trial.device)
    )
    if trial.device == "cpu":
        trial.measure("bert-cpu-speed", found)
    else:
        trial.measure("bert-gpu-speed", {name: 1000 * found[name] for name in ("dense", "low rank")})


def _bert_times(batch: int, device: str) -> dict[str, float]:
    import torch
    from transformers import BertConfig, BertModel

    from fullrank.compress import auto_fact

    small: dict[str, Any] = {
        "hidden_size": 48,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "intermediate_size": 96,
    }
    dense: Any = BertModel(BertConfig(**(small if batch == 1 else {}))).eval()
    dense.to(device)
    ids = torch.randint(1000, (batch, 256), generator=torch.Generator().manual_seed(0)).to(device)
    low_rank = auto_fact(dense, 0.2, submodules=[*list(dense.encoder.layer)[-6:], dense.pooler], deepcopy=True)

    def run(model: Any, backward: bool) -> float:
        began = time.perf_counter()
        with torch.set_grad_enabled(backward):
            output = model(input_ids=ids).pooler_output.sum()
        if backward:
            output.backward()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - began

    sides = {"dense": dense, "low rank": low_rank}
    found: dict[str, list[float]] = {}
    for turn in range(4):
        for backward in (False, True):
            for name, model in sides.items():
                seconds = run(model, backward)
                if turn:
                    found.setdefault(f"{name} with backward" if backward else name, []).append(seconds)
    return {name: statistics.median(values) for name, values in found.items()}


# --- quality by design ------------------------------------------------------------------------------------------------


def _digits(trial: Trial, size: Size) -> None:
    """Digits as sequences of 64 pixels, two layers of each kind."""
    kinds, epochs = ("dense", "LRT", "Linformer"), size.digits_epochs
    about = f"digits as sequences, {epochs} epochs"
    found = repeat(trial, kinds, partial(_digit_run, epochs=epochs), about, range(size.digits_seeds))
    counts = {kind: found.runs[kind][0]["parameters"] for kind in kinds}
    mean, spread = found.summary(kinds)
    share = 100 * counts["LRT"] / counts["dense"]
    trial.measure(
        "lrt-quality", {"dense": mean["dense"], "LRT": mean["LRT"], "parameters": share},
        {"dense": spread["dense"], "LRT": spread["LRT"], "parameters": 0.0},
    )  # fmt: skip
    trial.table(
        "digits",
        [
            {"layers": kind, "accuracy, %": mean[kind], "spread": spread[kind], "parameters": counts[kind]}
            for kind in mean
        ],
    )


def _digit_run(kind: str, seed: int, epochs: int) -> dict[str, Any]:
    """Accuracy in percent; parameters of the two layers."""
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from torch import nn

    pixels, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = (
        torch.as_tensor(part)
        for part in train_test_split(pixels, labels, test_size=0.2, stratify=labels, random_state=seed)
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Sequential(*(_layers(Shape(64, 4, 16, 16, 1, (64,), 1), 64, True)[kind] for _ in range(2)))
        value, place, head = nn.Linear(1, 64), nn.Parameter(torch.randn(64, 64)), nn.Linear(64, 10)
    weights = [*layers.parameters(), *value.parameters(), place, *head.parameters()]

    def logits(x: Any) -> Any:
        return head(layers(value(x.float().unsqueeze(-1) / 16) + place).mean(1))

    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(train_x) // 64)
    optimizer = torch.optim.AdamW(weights, lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(train_x), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits(train_x[rows]), train_y[rows]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        right = (logits(test_x).argmax(-1) == test_y).double().mean()
    return {"accuracy": 100 * float(right), "parameters": sum(p.numel() for p in layers.parameters())}


def _images(trial: Trial, size: Size) -> None:
    """A small residual network on CIFAR-10 whose later convolutions are of low rank from the start."""
    kinds, images, epochs = ("dense", "low rank"), size.images, size.image_epochs
    run = partial(_image_run, images=images, epochs=epochs, device=trial.device)
    found = repeat(trial, kinds, run, f"CIFAR-10 by design, {images} images, {epochs} epochs")
    counts = {kind: found.runs[kind][0]["parameters"] for kind in kinds}
    mean, spread = found.summary(kinds)
    share = 100 * counts["low rank"] / counts["dense"]
    trial.measure("cifar10-by-design", mean | {"parameters": share}, spread | {"parameters": 0.0})
    trial.note(
        f"CIFAR-10: {size.images} images, {size.image_epochs} epochs, the last two of three residual blocks of low "
        "rank from the start. So brief a training says more about how fast a network learns than about what it can "
        "reach."
    )


def _image_run(kind: str, seed: int, images: int, epochs: int, device: str) -> dict[str, Any]:
    """Accuracy in percent; parameters of the network."""
    import numpy as np
    import torch
    from torch import nn

    from fullrank import data
    from fullrank.compress import auto_fact

    def tensors(split: str, limit: int) -> tuple[Any, Any]:
        records = data.load("cifar10", split)[:limit]
        images = np.stack([record["image"] for record in records])
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        return x.to(device), torch.tensor([record["label"] for record in records]).to(device)

    class Residual(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
            self.skip = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

        def forward(self, x: Any) -> Any:
            y = self.norm1(self.first(x)).relu()
            return (self.norm2(self.second(y)) + self.skip(x)).relu()

    train_x, train_y = tensors("train", images)
    test_x, test_y = tensors("test", min(images, 2000))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        blocks = [Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2)]
        stem = [nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU()]
        model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
        if kind == "low rank":  # by design: new weights, the last two blocks
            auto_fact(model, 0.5, "random", submodules=blocks[1:])
        model.to(device)
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(train_x) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(train_x), generator=generator).split(64):
            images = train_x[rows].flip(-1) if torch.rand(1, generator=generator) < 0.5 else train_x[rows]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), train_y[rows]).backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        right = torch.cat([model(part).argmax(-1) for part in test_x.split(500)]) == test_y
    return {"accuracy": 100 * float(right.double().mean()), "parameters": sum(p.numel() for p in model.parameters())}


# --- a trained encoder ------------------------------------------------------------------------------------------------


def _encoder(trial: Trial, size: Size) -> None:
    """MiniLM on sentence similarity after factoring, without training."""
    arms = [("exact", f) for f in size.fractions] + [("library", f) for f in size.fractions]
    arms += [("snmf", min(size.fractions)), ("random", min(size.fractions)), ("last two layers", min(size.fractions))]
    plan = {"original": partial(_similarity, "original", 1.0, size.pairs)}
    plan |= {f"{arm} {fraction:g}": partial(_similarity, arm, fraction, size.pairs) for arm, fraction in arms}
    runs = trial.steps({f"{name} {size.pairs}": run for name, run in plan.items()}, "factoring MiniLM")
    found = dict(zip(plan, runs, strict=True))
    half = f"{min(size.fractions):g}"
    trial.measure("exact-svd-is-enough", min(found[f"exact {f:g}"] - found[f"library {f:g}"] for f in size.fractions))
    trial.measure(
        "last-layers-lose-least",
        {"last two layers": found[f"last two layers {half}"], "all layers": found[f"exact {half}"]},
    )
    trial.measure("default-solver-destroys", {"SVD": found[f"exact {half}"], "random": found[f"random {half}"]})
    trial.table(
        "minilm", [{"solver and rank fraction": name, "Spearman x 100": value} for name, value in found.items()]
    )


def _similarity(arm: str, fraction: float, pairs: int) -> float:
    from dataclasses import replace

    from fullrank.compress import auto_fact
    from fullrank.data import bundled_encoder
    from fullrank.tasks import load_as_is, load_examples, quality_of

    model, tokenizer = load_as_is(bundled_encoder())
    examples = load_examples("stsb")
    examples = replace(examples, train=examples.train[:2], test=examples.test[:pairs])
    quality = quality_of(model, tokenizer, examples, max_length=64)
    layers: Any = model.get_submodule("encoder.layer")
    if arm == "last two layers":
        auto_fact(model, fraction, submodules=list(layers[-2:]))
    elif arm == "library":  # randomised, without oversampling
        auto_fact(model, fraction, "randomized", submodules=list(layers), oversample=0)
    elif arm != "original":
        auto_fact(model, fraction, {"exact": "svd"}.get(arm, arm), submodules=list(layers))
    return quality.measure(model)[quality.metric]
