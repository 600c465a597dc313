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
        "The tables are those of the official README; the abstract gives no numbers. The scale is a free factor, not "
        "alpha over rank, dropout sits between down and up projection, and the sequential branch reads the output with "
        "its bias, so merging changes the bias too. The published language code cannot run Hydra because of misspelt "
        "fields, and the published vision code merges the attention projection with the weight of another layer. On "
        "short text tasks Hydra and its single branches are tied; the order shows where the target needs both."
    ),
    claims=(
        Claim(
            id="glue-mean",
            says=(
                "Mean of eight GLUE tasks with RoBERTa-base: Hydra 87.9 with 0.3 M parameters, LoRA 87.2, full "
                "fine-tuning 86.4, AdapterDrop 85.4 with 0.9 M, BitFit 85.2."
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
            says="VTAB-1k mean of groups with ViT-B/16: Hydra 76.5 with 0.28 M parameters, the best of nine methods.",
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
            says=(
                "Mean of 20 ELEVATER sets, five shots, CLIP ViT-B/32: Hydra 70.95 with 0.20 M parameters (parameter "
                "efficiency score 0.709), KAdaptation 68.92, LoRA 61.48."
            ),
            source="official README",
            paper_value={
                "full": 65.49,
                "linear": 66.32,
                "LoRA": 61.48,
                "Compacter": 62.79,
                "KAdaptation": 68.92,
                "Hydra": 70.95,
                "Hydra efficiency score": 0.709,
            },
            unit="%",
            needs=_CLIP,
        ),
        Claim(
            id="parameter-counts",
            says=(
                "Hydra trains 0.3 M parameters in RoBERTa-base (331,776 with ranks 4 and 8 on the 12 feed-forward "
                "outputs) and 0.28 M with the head in ViT-B/16 (239,712 in the adapters)."
            ),
            source="official README",
            paper_value={"RoBERTa-base": 0.3e6, "ViT-B/16 with head": 0.28e6},
            unit="parameters",
            holds=lambda m: m["RoBERTa-base"] == 331_776 and m["ViT-B/16 adapters"] == 239_712,
        ),
        Claim(
            id="no-inference-cost",
            says=(
                "After merging, inference costs what the base model costs: the merged layer computes the same "
                "in one product."
            ),
            source="abstract",
            unit="difference of outputs, and ratio of parameters to the base",
            holds=lambda m: m["difference"] <= 1e-5 and m["parameters"] == 1.0,
        ),
        Claim(
            id="sequential-aligns",
            says=(
                "The sequential branch learns changes that are much more aligned with the pre-trained weight "
                "than the parallel branch."
            ),
            source="abstract",
            unit="share of the change in the top 32 directions, layer with the least gap",
            holds=lambda m: m["sequential"] - m["parallel"] >= 0.3,
        ),
        Claim(
            id="both-branches-needed",
            says=(
                "A change that mixes new and recombined features is fitted by Hydra, and by neither branch alone (the "
                "parallel one is LoRA) at equal or larger size."
            ),
            source="abstract, as an exact-recovery test",
            unit="relative error",
            holds=lambda m: m["Hydra"] < 1e-3 and min(m["LoRA"], m["sequential"]) >= 0.3,
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
            source="our pilot on TREC and SUBJ with MiniLM",
            unit="points above the head, the worst form",
            holds=lambda m: m["TREC"] >= 5 and m["SUBJ"] >= 1,
            kind="finding",
        ),
        Claim(
            id="text-tasks-tie",
            says="On short text classification Hydra, its single branches and LoRA are tied within 1.5 points.",
            source="our pilot on TREC and SUBJ with MiniLM",
            unit="points, largest gap",
            holds=lambda gap: gap <= 1.5,
            kind="finding",
        ),
        Claim(
            id="robust-over-data-sets",
            says=(
                "Hydra's mean is within one standard error of the best single branch, and its worst data set is at "
                "most one point below the worst of the single branches."
            ),
            source="ordering of the tables, at small scale",
            unit="%",
            holds=lambda m: (
                m["Hydra mean"] >= m["best single mean"] - m["standard error"]
                and m["Hydra worst"] >= m["single worst"] - 1
            ),
        ),
        Claim(
            id="lora-reaches-its-bound",
            says="On that mixed change LoRA of equal or larger size reaches its lowest possible error, no less.",
            source="our pilot on exact recovery",
            unit="relative error",
            holds=lambda m: (1 - 1e-6) * m["Eckart-Young bound"] <= m["LoRA"] <= 1.01 * m["Eckart-Young bound"],
            kind="finding",
        ),
        Claim(
            id="selection-on-the-test-set",
            says=(
                "The VTAB numbers take the best epoch on the test set, which gives more than choosing the epoch on "
                "validation data."
            ),
            source="official code",
            unit="%",
            holds=lambda m: m["best on test"] > m["chosen on validation"],
            kind="finding",
        ),
        Claim(
            id="published-language-code-cannot-run",
            says=(
                "The published language code cannot build Hydra: it reads a misspelt field of the configuration, and a "
                "misspelt flag would skip Hydra's path."
            ),
            source="official code",
            needs="the authors' repository beside ours",
            kind="finding",
        ),
    ),
)
