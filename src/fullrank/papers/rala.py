"""Breaking the Low-Rank Dilemma of Linear Attention (RALA, RAVLT)."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any, NamedTuple

from fullrank.papers import Claim, Paper, Trial
from fullrank.papers._repeats import repeat

_IMAGENET = "training on ImageNet-1k with 8 GPUs"
_COCO = "COCO detection training from ImageNet-1k weights"
_ADE20K = "ADE20K segmentation training from ImageNet-1k weights"
_PARAMETERS = {"T": 15, "S": 26, "B": 48, "L": 95}
_KINDS = ("plain linear", "gate only", "weights only", "RALA", "softmax")
_GFLOPS = {"T": 2.4, "S": 4.6, "B": 9.9, "L": 16.0}

PAPER = Paper(
    slug="rala",
    title="Breaking the Low-Rank Dilemma of Linear Attention",
    authors=3,
    published="2024-11-12",
    arxiv="2411.07635",
    position=0,
    repository="https://github.com/qhfan/RALA",
    venue="CVPR 2025",
    topics=(
        "attention",
        "vision",
    ),
    summary=(
        "Linear attention is cheap but its key-value summary and its output features have low rank, so it loses"
        " detail on images. The authors weight tokens when building the key-value buffer and multiply the "
        "output by a token-wise feature map, which restores the rank at linear cost. A vision transformer built"
        " this way, RAVLT, reaches 84.4 % top-1 on ImageNet-1k with 26 M parameters and 4.6 GFLOPs."
    ),
    methods=(
        "fullrank.nn.RankAugmentedLinearAttention",
        "fullrank.nn.rala_attention",
        "fullrank.nn.RAVLT",
        "fullrank.nn.ravlt_tiny",
        "fullrank.nn.ravlt_small",
        "fullrank.nn.ravlt_base",
        "fullrank.nn.ravlt_large",
        "fullrank.nn.kv_buffer_rank",
        "fullrank.nn.feature_rank",
    ),
    usage="""\
import torch
from fullrank.nn import RankAugmentedLinearAttention, feature_rank, rala_attention, ravlt_tiny

layer = RankAugmentedLinearAttention(64, num_heads=1)  # reweight=False, gate=False: plain linear attention
tokens = torch.randn(2, 5 * 7, 64)
print(layer(tokens, grid=(5, 7)).shape)                # a map of (2, 64, 5, 7) needs no grid
print(feature_rank(layer, tokens, grid=(5, 7))[""].effective)

q, k, v = torch.randn(3, 2, 4, 100, 32)                # batch, heads, tokens, head width
print(rala_attention(q, k, v).shape)                   # in place of softmax attention, at linear cost

model = ravlt_tiny(num_classes=10).eval()              # attn_kinds="rala" for the purely linear network
print(model(torch.randn(1, 3, 64, 64)).shape)
""",
    notes=(
        "The released networks are hybrids: RALA in stages 1 and 2, softmax attention in stages 3 and 4; the purely "
        "linear network is an option, and an accuracy must say which one it belongs to. The code adds to the formula a "
        "normaliser from un-rotated queries and keys, rotary positions, a depthwise position term before the gate, and "
        "an output projection. The rank of one head's output comes from the gate; weights on the tokens alone do not "
        "restore it; the position term alone restores it too. With convolutions doing the spatial work a small image "
        "task cannot separate the attention kinds, so the order is tested in a plain transformer too: there RALA and "
        "softmax attention are tied after a short training, both above plain linear attention, and softmax attention "
        "with the same gate is as good."
    ),
    claims=(
        Claim(
            id="imagenet-top1-small",
            says="RAVLT-S reaches 84.4 % top-1 on ImageNet-1k with 26 M parameters and 4.6 GFLOPs.",
            source="abstract",
            paper_value=84.4,
            unit="%",
            needs=_IMAGENET,
        ),
        Claim(
            id="imagenet-top1-sizes",
            says="Top-1 on ImageNet-1k grows with the size of the model, from T to L.",
            source="official README, commit 5cd02cd",
            paper_value={"T": 82.8, "S": 84.4, "B": 85.5, "L": 85.8},
            unit="%",
            needs=_IMAGENET,
        ),
        Claim(
            id="coco-retinanet",
            says=(
                "As RetinaNet backbone (1x schedule) RAVLT gives 45.9 to 50.9 box AP on COCO, with 24, 34, 57 and "
                "104 M parameters in the detector."
            ),
            source="official README",
            paper_value={"T": 45.9, "S": 48.3, "B": 49.8, "L": 50.9},
            unit="box AP",
            needs=_COCO,
        ),
        Claim(
            id="coco-mask-rcnn-1x",
            says="With Mask R-CNN (1x schedule) box and mask AP grow with the size of the backbone.",
            source="official README",
            paper_value={
                "T box": 47.3,
                "T mask": 42.7,
                "S box": 49.8,
                "S mask": 44.6,
                "B box": 51.2,
                "B mask": 45.7,
                "L box": 52.3,
                "L mask": 46.4,
            },
            unit="AP",
            needs=_COCO,
        ),
        Claim(
            id="coco-mask-rcnn-3x",
            says="With Mask R-CNN (3x schedule) the larger backbones reach 51.4 to 53.6 box AP.",
            source="official README",
            paper_value={"S box": 51.4, "S mask": 45.5, "B box": 52.7, "B mask": 46.4, "L box": 53.6, "L mask": 47.3},
            unit="AP",
            needs=_COCO,
        ),
        Claim(
            id="coco-cascade-3x",
            says="With Cascade Mask R-CNN (3x schedule) the larger backbones reach 54.2 to 55.6 box AP.",
            source="official README",
            paper_value={"S box": 54.2, "S mask": 46.8, "B box": 55.3, "B mask": 47.7, "L box": 55.6, "L mask": 48.0},
            unit="AP",
            needs=_COCO,
        ),
        Claim(
            id="ade20k-semantic-fpn",
            says="With Semantic FPN RAVLT gives 47.9 to 52.6 mIoU on ADE20K.",
            source="official README",
            paper_value={"T": 47.9, "S": 49.5, "B": 51.9, "L": 52.6},
            unit="mIoU",
            needs=_ADE20K,
        ),
        Claim(
            id="ade20k-upernet",
            says="With UperNet the larger backbones give 50.7 to 53.2 mIoU on ADE20K.",
            source="official README",
            paper_value={"S": 50.7, "B": 52.5, "L": 53.2},
            unit="mIoU",
            needs=_ADE20K,
        ),
        Claim(
            id="imagenet-ablation",
            says=(
                "Both parts matter: without token weights, without the gate, or without both, RAVLT-T is less accurate."
            ),
            source="recalled from the ablation table",
            paper_value={"full": 82.8, "no weights": 82.1, "no gate": 82.5, "neither": 81.4},
            unit="%",
            needs=_IMAGENET,
            confirmed=False,
        ),
        Claim(
            id="imagenet-deit-swap",
            says=(
                "Put into DeiT-T in place of its attention, RALA beats softmax and plain linear attention on "
                "ImageNet-1k."
            ),
            source="recalled from the paper",
            paper_value={"softmax": 72.2, "plain linear": 68.5, "RALA": 75.1},
            unit="%",
            needs=_IMAGENET,
            confirmed=False,
        ),
        Claim(
            id="swap-in-order",
            says=(
                "In a plain vision transformer without convolutions, accuracy rises from plain linear attention"
                " over softmax to RALA."
            ),
            source="ordering of the DeiT-T comparison",
            unit="%",
            holds=lambda m: m["plain linear"] < m["softmax"] <= m["RALA"] and m["RALA"] - m["plain linear"] >= 3,
        ),
        Claim(
            id="output-rank",
            says="One head's output has full rank d = 64 where plain linear attention stays low.",
            source="official repository, issue 10",
            paper_value={"RALA": 64, "head_dim": 64},
            holds=lambda m: m["RALA"] >= 0.85 * m["head_dim"] and m["plain linear"] <= 0.35 * m["head_dim"],
        ),
        Claim(
            id="buffer-rank",
            says="Weighting the tokens raises the effective rank of the key-value buffer.",
            source="abstract",
            holds=lambda m: m["weighted"] > m["plain linear"],
        ),
        Claim(
            id="model-sizes",
            says="The four networks have 15, 26, 48 and 95 M parameters and 2.4, 4.6, 9.9 and 16.0 GFLOPs at 224 px.",
            source="official README",
            paper_value={
                "T M parameters": 15,
                "S M parameters": 26,
                "B M parameters": 48,
                "L M parameters": 95,
                "T GFLOPs": 2.4,
                "S GFLOPs": 4.6,
                "B GFLOPs": 9.9,
                "L GFLOPs": 16.0,
            },
            holds=lambda m: (
                all(abs(m[f"{size} M parameters"] - at) <= 0.5 for size, at in _PARAMETERS.items())
                and all(abs(m[f"{size} GFLOPs"] / at - 1) <= 0.03 for size, at in _GFLOPS.items())
            ),
        ),
        Claim(
            id="linear-cost",
            says="Forward time grows linearly with the number of tokens, where softmax attention grows quadratically.",
            source="abstract",
            unit="exponent of the number of tokens",
            holds=lambda m: m["RALA"] <= 1.15 and m["softmax"] >= 1.6,
        ),
        Claim(
            id="rank-comes-from-the-gate",
            says="The gate alone restores the rank of the output; token weights alone do not.",
            source="our rank study at random initialisation",
            holds=lambda m: (
                m["gate only"] >= 0.85 * m["head_dim"]
                and m["gate only effective"] >= 3 * m["plain linear effective"]
                and m["weights only"] <= 0.35 * m["head_dim"]
            ),
            kind="finding",
        ),
        Claim(
            id="small-task-does-not-separate",
            says=(
                "With a convolutional stem and position encodings, a small image task does not separate plain linear "
                "attention, gate only, weights only, RALA and softmax: all stay within 3 points, with RALA at most "
                "half a point below plain linear and 2 points below softmax attention."
            ),
            source="our pilot on CIFAR-10",
            unit="%",
            holds=lambda m: (
                max(m[kind] for kind in _KINDS) - min(m[kind] for kind in _KINDS) <= 3
                and m["RALA"] >= m["plain linear"] - 0.5
                and m["RALA"] >= m["softmax"] - 2
            ),
            kind="finding",
        ),
        Claim(
            id="cifar10-order",
            says=(
                "Trained for 60 epochs on all of CIFAR-10, RAVLT-T is more accurate with RALA than with plain linear "
                "attention and at most half a point below softmax attention."
            ),
            source="ordering of the accuracy tables, at small scale",
            unit="%",
            holds=lambda m: m["plain linear"] < m["RALA"] and m["RALA"] >= m["softmax"] - 0.5,
            needs="one GPU and an hour: it is measured at full scale",
        ),
        Claim(
            id="weights-leave-buffer-rank",
            says=(
                "At small scale the token weights do not raise the effective rank of the key-value buffer, before or "
                "after a short training."
            ),
            source="our rank study at random initialisation and after a short training on CIFAR-10",
            holds=lambda m: (
                m["weighted, random"] <= 1.1 * m["plain linear, random"]
                and m["weighted, trained"] <= 1.1 * m["plain linear, trained"]
            ),
            kind="finding",
        ),
        Claim(
            id="released-networks-are-hybrids",
            says=(
                "The released networks use softmax attention in stages 3 and 4: parameters are the same as in the "
                "purely linear network, but more multiply-adds are needed, so the size does not show which of the two "
                "a published accuracy belongs to."
            ),
            source="official code and the author's answer in issue 9 of the repository",
            holds=lambda m: m["hybrid parameters"] == m["linear parameters"] and m["hybrid GMACs"] > m["linear GMACs"],
            kind="finding",
        ),
        Claim(
            id="flops-count-convolutions-only",
            says=(
                "The published FLOPs count convolutions only: a count of all operators is at least 5 % higher for each "
                "size."
            ),
            source="our count on the official code",
            unit="GFLOPs",
            paper_value={"T": 2.4, "S": 4.6, "B": 9.9, "L": 16.0},
            holds=lambda m: all(m[f"{size} all"] >= 1.05 * at for size, at in _GFLOPS.items()),
            kind="finding",
        ),
    ),
)

#: Kind -> options of `RankAugmentedLinearAttention`; softmax attention is its sibling.
_OPTIONS: dict[str, dict[str, bool]] = {
    "plain linear": {"reweight": False, "gate": False},
    "gate only": {"reweight": False},
    "weights only": {"gate": False},
    "RALA": {},
}
_HEAD_DIM = 64  # of the rank study
_GIRTHS = {"widths": (16, 32, 48, 64), "depths": (1, 1, 2, 1), "heads": (1, 2, 3, 4)}  # of the small RAVLT


class _Size(NamedTuple):
    """How much is trained: images and epochs of the small RAVLT and of the plain transformer, and its blocks."""

    ravlt: tuple[int, int]
    plain: tuple[int, int]
    depth: int
    width: int
    testing: int
    tokens: tuple[int, ...]


@PAPER.study
def study(trial: Trial) -> None:
    """Sizes and ranks, then CIFAR-10 with and without convolutions around the attention, then what a forward costs."""
    size = trial.pick(
        smoke=_Size((64, 1), (64, 1), 1, 32, 250, (196, 784)),
        quick=_Size((2000, 5), (3000, 7), 3, 64, 2000, (784, 1764, 3136, 7056, 12_544)),
        full=_Size((10_000, 20), (10_000, 20), 4, 96, 2000, (784, 1764, 3136, 7056, 12_544)),
    )
    _sizes(trial)
    with trial.one_thread():
        random = _ranks(trial)
        trained = _with_convolutions(trial, size)
        _buffers(trial, random, trained)
        _swapped_in(trial, size)
        _cost(trial, size.tokens)
    if trial.scale == "full":
        _all_of_cifar10(trial)


def _sizes(trial: Trial) -> None:
    """Parameters and multiply-adds of the four networks, counted on skeletons."""
    import torch

    from fullrank.nn import multiply_adds
    from fullrank.nn.ravlt_sizes import SIZES, ravlt

    def count(size: str, kinds: Any) -> dict[str, float]:
        with torch.device("meta"):
            model = ravlt(size, attn_kinds=kinds)
        cost = multiply_adds(model)
        parameters = sum(p.numel() for p in model.parameters())
        return {"parameters": parameters, "convolutions": cost.convolutions / 1e9, "all": cost.all / 1e9}

    kinds = {"hybrid": ("rala", "rala", "softmax", "softmax"), "linear": "rala"}
    counts: dict[str, dict[str, Any]] = {"T": {}, "S": {}, "B": {}, "L": {}}
    pairs = list(product(zip(counts, SIZES, strict=True), kinds))
    for (letter, size), kind in trial.track(pairs, "counting parameters"):
        counts[letter][kind] = trial.step(f"count {size} {kind}", partial(count, size, kinds[kind]))
    hybrid = {letter: found["hybrid"] for letter, found in counts.items()}
    trial.measure(
        "model-sizes",
        {f"{letter} M parameters": found["parameters"] / 1e6 for letter, found in hybrid.items()}
        | {f"{letter} GFLOPs": found["convolutions"] for letter, found in hybrid.items()},
    )
    trial.measure("flops-count-convolutions-only", {f"{letter} all": found["all"] for letter, found in hybrid.items()})
    trial.measure(
        "released-networks-are-hybrids",
        {f"{kind} parameters": counts["S"][kind]["parameters"] for kind in kinds}
        | {f"{kind} GMACs": counts["S"][kind]["all"] for kind in kinds},
    )
    trial.table(
        "sizes",
        [
            {
                "size": letter,
                "parameters": int(found["hybrid"]["parameters"]),
                "GMACs, convolutions": found["hybrid"]["convolutions"],
                "GMACs, all": found["hybrid"]["all"],
                "GMACs, all, purely linear": found["linear"]["all"],
            }
            for letter, found in counts.items()
        ],
    )


def _ranks(trial: Trial) -> dict[str, Any]:
    """One random block of one head on real images: ranks of the buffer and of the output."""
    sides = trial.pick(smoke=(14,), quick=(14, 28), full=(14, 28))
    variants = [(kind, rope, lepe) for kind in (*_OPTIONS, "softmax") for rope, lepe in ((True, False), (False, False))]
    variants.append(("plain linear", True, True))
    rows = []
    found: dict[str, Any] = {}
    for side, (kind, rope, lepe) in trial.track(list(product(sides, variants)), "ranks of a random block"):
        ranks = trial.step(
            f"ranks {side} {kind} rope={rope} lepe={lepe}", partial(_block_ranks, side, kind, rope, lepe)
        )
        rows.append(
            {"tokens": side**2, "kind": kind, "rotary": "yes" if rope else "no", "LePE": "yes" if lepe else "no"}
            | ranks
        )
        if rope and not lepe:
            found[kind] = ranks  # of the larger grid in the end
    trial.table("ranks-of-a-random-block", rows)
    rank, effective = "rank of the output", "effective rank of the output"
    trial.measure(
        "output-rank",
        {"RALA": found["RALA"][rank], "plain linear": found["plain linear"][rank], "head_dim": _HEAD_DIM},
    )
    trial.measure(
        "rank-comes-from-the-gate",
        {
            "gate only": found["gate only"][rank],
            "gate only effective": found["gate only"][effective],
            "plain linear effective": found["plain linear"][effective],
            "weights only": found["weights only"][rank],
            "head_dim": _HEAD_DIM,
        },
    )
    return found


def _block_ranks(side: int, kind: str, rope: bool, lepe: bool) -> dict[str, float | None]:
    """Mean ranks over 16 images, enlarged to four pixels per token and embedded at random."""
    import torch
    from torch import nn

    from fullrank.nn import feature_rank, kv_buffer_rank
    from fullrank.papers._images import cifar10

    pixels = cifar10("test", 250).pixels[:16]
    enlarged = nn.functional.interpolate(pixels, size=4 * side, mode="bilinear", align_corners=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        embed, layer = (
            nn.Linear(48, _HEAD_DIM),
            _attention(kind, _HEAD_DIM, 1, rope=rope, lepe_kernel=5 if lepe else None),
        )
        for parameter in (*embed.parameters(), *layer.parameters()):
            nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        tokens = nn.functional.layer_norm(embed(nn.functional.unfold(enlarged, 4, stride=4).mT), (_HEAD_DIM,))
    output = feature_rank(layer, tokens, grid=(side, side))[""]
    ranks: dict[str, float | None] = {
        "rank of the output": float(output.numerical.float().mean()),
        "effective rank of the output": float(output.effective.mean()),
    }
    if kind == "softmax":  # it has no buffer
        return ranks | {"effective rank of the buffer": None}
    return ranks | {
        "effective rank of the buffer": float(kv_buffer_rank(layer, tokens, grid=(side, side))[""].effective.mean())
    }


def _attention(kind: str, dim: int, heads: int, **options: Any) -> Any:
    from fullrank.nn import GatedSoftmaxAttention, RankAugmentedLinearAttention

    if kind.startswith("softmax"):
        return GatedSoftmaxAttention(dim, heads, gate=kind != "softmax", **options)
    return RankAugmentedLinearAttention(dim, heads, **_OPTIONS[kind], **options)


def _with_convolutions(trial: Trial, size: _Size) -> Any:
    """RAVLT with all stages of one kind: convolutions and local positions do the spatial work."""
    images, epochs = size.ravlt
    about = f"{images} images, {epochs} epochs, RAVLT"
    runs = repeat(trial, (*_OPTIONS, "softmax"), partial(_train_ravlt, trial, size), about)
    trial.measure("small-task-does-not-separate", *runs.summary(list(runs.runs)))
    trial.table("with-convolutions", runs.rows(parameters="parameters"))
    return runs


def _train_ravlt(trial: Trial, size: _Size, kind: str, seed: int) -> dict[str, Any]:
    import torch

    from fullrank.nn import RAVLT, kv_buffer_rank
    from fullrank.papers._images import cifar10, image_accuracy, train_on_images

    images, epochs = size.ravlt
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = RAVLT(
            num_classes=10, embed_dims=_GIRTHS["widths"], depths=_GIRTHS["depths"], num_heads=_GIRTHS["heads"],
            mlp_ratios=2, attn_kinds="softmax" if kind == "softmax" else "rala", rala_options=_OPTIONS.get(kind),
            drop_path_rate=0, head_width=128, stem_stride=2,
        )  # fmt: skip
    train_on_images(
        network, cifar10("train", images), epochs, seed=seed, device=trial.device, batch=min(64, images),
        watch=trial.progress,
    )  # fmt: skip
    run = {
        "accuracy": image_accuracy(network, cifar10("test", size.testing), trial.device),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }
    if kind != "softmax":
        ranks = kv_buffer_rank(network, cifar10("test", size.testing).pixels[:64].to(trial.device))
        run["buffer"] = sum(float(layer.effective.mean()) for layer in ranks.values()) / len(ranks)
    return run


def _buffers(trial: Trial, random: dict[str, Any], trained: Any) -> None:
    """Effective rank of the key-value buffer with and without weights on the tokens."""
    names = {"weighted": "RALA", "plain linear": "plain linear"}
    after, spread = trained.summary(names, "buffer")
    before = {name: random[kind]["effective rank of the buffer"] for name, kind in names.items()}
    trial.measure("buffer-rank", after, spread)
    trial.measure(
        "weights-leave-buffer-rank",
        {f"{name}, random": value for name, value in before.items()}
        | {f"{name}, trained": value for name, value in after.items()},
    )


def _swapped_in(trial: Trial, size: _Size) -> None:
    """A plain transformer in which only the attention differs."""
    images, epochs = size.plain
    about = f"{images} images, {epochs} epochs, plain transformer"
    kinds = trial.pick(
        smoke=("plain linear", "softmax", "RALA"),
        quick=("plain linear", "softmax", "RALA", "softmax and gate"),
        full=(*_OPTIONS, "softmax", "softmax and gate"),
    )
    runs = repeat(trial, kinds, partial(_train_plain, trial, size), about)
    trial.measure("swap-in-order", *runs.summary(("plain linear", "softmax", "RALA")))
    trial.table("swapped-in", runs.rows(parameters="parameters"))
    trial.note(
        "The gate adds parameters to every layer, which neither plain linear nor softmax attention has: the row "
        "'softmax and gate', where it was run, shows what the gate alone is worth."
    )


def _train_plain(trial: Trial, size: _Size, kind: str, seed: int) -> dict[str, Any]:
    import torch

    from fullrank.papers._images import cifar10, image_accuracy, train_on_images
    from fullrank.papers._plain_vit import PlainViT

    images, epochs = size.plain
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = PlainViT(
            lambda: _attention(kind, size.width, size.width // 32, rope=False, lepe_kernel=None), size.width, size.depth
        )
    train_on_images(
        network, cifar10("train", images), epochs, seed=seed, device=trial.device, batch=min(64, images),
        watch=trial.progress,
    )  # fmt: skip
    return {
        "accuracy": image_accuracy(network, cifar10("test", size.testing), trial.device),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }


def _cost(trial: Trial, tokens: tuple[int, ...]) -> None:
    """Forward time of one attention layer on one image, C = 64 and one head, and its exponent in the tokens."""
    import numpy as np

    times: dict[str, list[float]] = {}
    for kind, number in trial.track(list(product(("RALA", "softmax"), tokens)), "timing"):
        times.setdefault(kind, []).append(trial.step(f"time {kind} {number}", partial(_seconds, trial, kind, number)))
    exponents = {kind: float(np.polyfit(np.log(tokens), np.log(taken), 1)[0]) for kind, taken in times.items()}
    trial.measure("linear-cost", exponents)
    rows = [
        {"tokens": number} | {f"{kind} ms": 1000 * taken[index] for kind, taken in times.items()}
        for index, number in enumerate(tokens)
    ]
    trial.table("forward-time", rows)
    _figure(trial, tokens, times)


def _seconds(trial: Trial, kind: str, tokens: int) -> float:
    """The least of several forward passes, so that other work on the machine counts little."""
    import math
    import time

    import torch

    side = math.isqrt(tokens)
    layer = _attention("softmax and gate" if kind == "softmax" else kind, 64, 1).to(trial.device)
    x = torch.randn(1, 64, side, side, generator=torch.Generator().manual_seed(0)).to(trial.device)
    taken = []
    with torch.no_grad():
        for _ in range(8):
            began = time.perf_counter()
            float(layer(x).sum())  # waits for the device
            taken.append(time.perf_counter() - began)
    return min(taken)


def _all_of_cifar10(trial: Trial) -> None:
    """RAVLT-T at full resolution on all images, one kind of attention after the other."""
    kinds = {"plain linear": "rala", "RALA": "rala", "hybrid": None, "softmax": "softmax"}

    def run(kind: str, seed: int) -> dict[str, Any]:
        import torch

        from fullrank.nn import RAVLT
        from fullrank.nn.ravlt import HYBRID
        from fullrank.papers._images import cifar10, image_accuracy, train_on_images

        train, test = cifar10("train", 50_000, "cifar10-full"), cifar10("test", 10_000, "cifar10-full")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = RAVLT(
                num_classes=10, attn_kinds=kinds[kind] or HYBRID, rala_options=_OPTIONS.get(kind), stem_stride=1
            )
        train_on_images(network, train, 60, seed=seed, device=trial.device, batch=256, watch=trial.progress)
        return {"accuracy": image_accuracy(network, test, trial.device)}

    runs = repeat(trial, kinds, run, "all images, 60 epochs, RAVLT-T")
    trial.measure("cifar10-order", *runs.summary(("plain linear", "RALA", "softmax")))
    trial.table("all-of-cifar10", runs.rows())


def _figure(trial: Trial, tokens: tuple[int, ...], times: dict[str, list[float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for (kind, taken), colour in zip(times.items(), ("#0f766e", "#b45309"), strict=True):
        axes.loglog(tokens, [1000 * second for second in taken], "o-", c=colour, label=kind)
    axes.set(xlabel="tokens", ylabel="forward pass of one layer, ms")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    trial.figure("forward-time", figure)
