"""Breaking the Low-Rank Dilemma of Linear Attention (RALA, RAVLT)."""

from fullrank.papers import Claim, Paper

_IMAGENET = "training on ImageNet-1k with 8 GPUs"
_COCO = "COCO detection training from ImageNet-1k weights"
_ADE20K = "ADE20K segmentation training from ImageNet-1k weights"

PAPER = Paper(
    slug="rala",
    title="Breaking the Low-Rank Dilemma of Linear Attention",
    authors=3,
    published="2024-11-12",
    arxiv="2411.07635",
    position=0,
    repository="https://github.com/qhfan/RALA",
    venue="CVPR 2025",
    topics=("attention", "vision"),
    summary=(
        "Linear attention is cheap but its key-value summary and its output features have low rank, so it loses detail "
        "on images. The authors weight tokens when building the key-value buffer and multiply the output by a "
        "token-wise feature map, which restores the rank at linear cost. A vision transformer built this way, RAVLT, "
        "reaches 84.4 % top-1 on ImageNet-1k with 26 M parameters and 4.6 GFLOPs."
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
            says="As RetinaNet backbone (1x schedule) RAVLT gives 45.9 to 50.9 box AP on COCO.",
            source="official README",
            paper_value={"T": 45.9, "S": 48.3, "B": 49.8, "L": 50.9},
            unit="box AP",
            needs=_COCO,
        ),
        Claim(
            id="imagenet-ablation",
            says="Both parts matter: without token weights, without the gate, or without both, RAVLT-T is less accurate.",
            source="recalled from the ablation table",
            paper_value={"full": 82.8, "no weights": 82.1, "no gate": 82.5, "neither": 81.4},
            unit="%",
            confirmed=False,
            needs=_IMAGENET,
        ),
        Claim(
            id="output-rank",
            says="One head's output has full rank d = 64 where plain linear attention stays low.",
            source="official repository, issue 10",
            paper_value={"RALA": 64, "head_dim": 64},
            holds=lambda measured: measured["RALA"] >= 0.95 * measured["head_dim"] > measured["plain linear"],
        ),
    ),
)
