"""Hydra: Multi-head Low-rank Adaptation for Parameter Efficient Fine-tuning (Hydra)."""

from fullrank.papers import Claim, Paper

_GLUE = "RoBERTa-base weights and GLUE"
_VIT = "ViT-B/16 ImageNet-21k weights and VTAB-1k"
_CLIP = "CLIP ViT-B/32 weights and ELEVATER"

PAPER = Paper(
    slug="hydra",
    title="Hydra: Multi-head Low-rank Adaptation for Parameter Efficient Fine-tuning",
    authors=5,
    published="2023-09-13",
    arxiv="2309.06922",
    position=7,
    repository="https://github.com/extremebird/Hydra",
    venue="Neural Networks, 2024",
    comments=2,
    topics=(
        "adapters",
        "vision",
        "language",
    ),
    summary=(
        "A LoRA branch beside a layer learns new features, a branch after it recombines pretrained ones. Hydra "
        "attaches both to the same linear layer, and since both are linear they merge into the weight at the "
        "end, so inference costs nothing extra. It is compared with single-branch adapters on vision and "
        "language tasks."
    ),
    notes=(
        "The abstract gives no numbers; the tables are those of the official README. On short text tasks the "
        "single branches and Hydra are tied, so an order between them is not promised there; it shows where the"
        " target change needs both branches."
    ),
    claims=(
        Claim(
            id="glue-mean",
            says=(
                "Mean of eight GLUE tasks with RoBERTa-base: Hydra 87.9, LoRA 87.2, full fine-tuning 86.4, "
                "BitFit 85.2, AdapterDrop 85.4."
            ),
            source="official README",
            paper_value={"full": 86.4, "BitFit": 85.2, "AdapterDrop": 85.4, "LoRA": 87.2, "Hydra": 87.9},
            unit="%",
            needs=_GLUE,
        ),
        Claim(
            id="glue-single-sentence",
            says="MNLI, SST-2, MRPC and CoLA: Hydra gains on MRPC (92.2 against 89.7) and CoLA (65.4 against 63.4).",
            source="official README",
            paper_value={
                "LoRA MNLI": 87.5,
                "LoRA SST-2": 95.1,
                "LoRA MRPC": 89.7,
                "LoRA CoLA": 63.4,
                "Hydra MNLI": 87.5,
                "Hydra SST-2": 95.0,
                "Hydra MRPC": 92.2,
                "Hydra CoLA": 65.4,
            },
            unit="%",
            needs=_GLUE,
        ),
        Claim(
            id="glue-pairs",
            says="QNLI, QQP, RTE and STS-B: level with LoRA, better on RTE (87.4 against 86.6).",
            source="official README",
            paper_value={
                "LoRA QNLI": 93.3,
                "LoRA QQP": 90.8,
                "LoRA RTE": 86.6,
                "LoRA STS-B": 91.5,
                "Hydra QNLI": 92.8,
                "Hydra QQP": 90.8,
                "Hydra RTE": 87.4,
                "Hydra STS-B": 91.7,
            },
            unit="%",
            needs=_GLUE,
        ),
        Claim(
            id="vtab",
            says="VTAB-1k mean with ViT-B/16: Hydra 76.5, the best of ten methods.",
            source="official README",
            paper_value={
                "linear": 57.6,
                "full": 68.9,
                "AdaptFormer": 74.7,
                "LoRA": 74.5,
                "NOAH": 75.5,
                "SSF": 75.7,
                "FacT": 75.6,
                "RepAdapter": 76.1,
                "Hydra": 76.5,
            },
            unit="%",
            needs=_VIT,
        ),
        Claim(
            id="elevater",
            says="Mean of 20 ELEVATER sets, five shots: Hydra 70.95, KAdaptation 68.92, LoRA 61.48.",
            source="official README",
            paper_value={
                "full": 65.49,
                "linear": 66.32,
                "LoRA": 61.48,
                "Compacter": 62.79,
                "KAdaptation": 68.92,
                "Hydra": 70.95,
            },
            unit="%",
            needs=_CLIP,
        ),
        Claim(
            id="no-inference-cost",
            says=(
                "After merging, inference costs what the base model costs: the merged layer computes the same "
                "in one product."
            ),
            source="abstract",
            paper_value=0.0,
            unit="relative difference",
            holds=lambda difference: difference < 1e-5,
        ),
        Claim(
            id="sequential-aligns",
            says=(
                "The sequential branch learns changes that are much more aligned with the pre-trained weight "
                "than the parallel branch."
            ),
            source="branch analysis",
            holds=lambda m: m["sequential"] > 1.5 * m["parallel"],
        ),
        Claim(
            id="both-branches-needed",
            says=(
                "A change that mixes both kinds is fitted by Hydra, and by neither branch alone nor by LoRA of "
                "equal size."
            ),
            source="the paper's argument",
            unit="relative error",
            holds=lambda m: m["Hydra"] < 1e-3 and min(m["parallel"], m["sequential"]) > 0.1,
        ),
        Claim(
            id="single-branch-ablation",
            says="Hydra beats its parallel-only and sequential-only ablations.",
            source="ablation tables, numbers not confirmed",
            needs=_VIT,
            confirmed=False,
        ),
        Claim(
            id="beats-the-head",
            says="Every branch form beats training the classification head alone.",
            source="premise of all tables",
            unit="points",
            holds=lambda m: min(m["parallel"], m["sequential"], m["Hydra"]) - m["head only"] >= 5,
        ),
        Claim(
            id="text-tasks-tie",
            says="On short text classification Hydra, its single branches and LoRA are tied within 1.5 points.",
            source="our pilot on TREC and SUBJ with MiniLM",
            unit="points",
            holds=lambda largest_gap: largest_gap <= 1.5,
            kind="finding",
        ),
    ),
)
