"""Learning Low-Rank Representations for Model Compression (LR2VQ)."""

from fullrank.papers import Claim, Paper

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
    notes=(
        "Only the abstract and one summary could be read; there is no official code. The size is set by the "
        "block length m alone, the accuracy by the dimension d alone."
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
    ),
)
