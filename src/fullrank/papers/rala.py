"""Breaking the Low-Rank Dilemma of Linear Attention (RALA, RAVLT)."""

from fullrank.papers import Claim, Paper

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
    notes=(
        "The released networks are hybrids: RALA in stages 1 and 2, softmax attention in stages 3 and 4; the purely "
        "linear network is an option, and an accuracy must say which one it belongs to. The code adds to the formula a "
        "normaliser from un-rotated queries and keys, rotary positions, a depthwise position term before the gate, and "
        "an output projection. The rank of one head's output comes from the gate; weights on the tokens alone do not "
        "restore it. With convolutions doing the spatial work a small image task cannot separate the attention kinds, "
        "so the order is tested in a plain transformer too."
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
