"""LoLDU: Low-Rank Adaptation via Lower-Diag-Upper Decomposition for Parameter-Efficient Fine-Tuning (LoLDU)."""

from fullrank.papers import Claim, Paper

_GLUE = "RoBERTa-base weights and GLUE"
_VIT = "ViT-B weights and the six image sets"
_LLAMA = "LLaMA2-7B weights"

PAPER = Paper(
    slug="loldu",
    title="LoLDU: Low-Rank Adaptation via Lower-Diag-Upper Decomposition for Parameter-Efficient Fine-Tuning",
    authors=7,
    published="2024-10-17",
    arxiv="2410.13618",
    position=16,
    repository="https://github.com/SKDDJ/LoLDU",
    comments=2,
    topics=("adapters",),
    summary=(
        "LoLDU factorises each pretrained weight as lower triangular, diagonal, upper triangular, keeps the "
        "triangular parts of rank r fixed and trains only the diagonal and a scale. The number of trained "
        "parameters falls by three orders of magnitude. It is tested on instruction following, GLUE, image "
        "classification and generation."
    ),
    notes=(
        "The official repository holds the parametrisation only. The abstract's factor of 2600 does not follow "
        "from its own table (33.6 M over 0.016 M is 2100). One of the initialisations in the code is not "
        "consistent with its residual and starts away from the pre-trained weight."
    ),
    claims=(
        Claim(
            id="fewer-parameters",
            says="Up to 2600 times fewer trainable parameters than regular methods.",
            source="abstract; the table gives 33.6 M over 0.016 M",
            paper_value={"abstract": 2600, "table": 2100},
            unit="times",
            holds=lambda m: m["LLaMA2-7B shapes"] >= 2000,
        ),
        Claim(
            id="glue",
            says=(
                "GLUE mean of six with RoBERTa-base: LoLDU 85.8 with 0.0184 M, LoRA 85.2, PiSSA 86.0, VeRA "
                "85.2, full 85.2."
            ),
            source="table",
            paper_value={"full": 85.2, "BitFit": 85.4, "LoRA": 85.2, "PiSSA": 86.0, "VeRA": 85.2, "LoLDU": 85.8},
            unit="%",
            needs=_GLUE,
        ),
        Claim(
            id="glue-tasks",
            says="By task: RTE 81.3 against LoRA's 78.4, the others within a point.",
            source="table",
            paper_value={
                "LoRA SST-2": 95.1,
                "LoRA MRPC": 89.7,
                "LoRA CoLA": 63.4,
                "LoRA QNLI": 93.3,
                "LoRA RTE": 78.4,
                "LoRA STS-B": 91.5,
                "LoLDU SST-2": 94.8,
                "LoLDU MRPC": 89.9,
                "LoLDU CoLA": 63.8,
                "LoLDU QNLI": 92.9,
                "LoLDU RTE": 81.3,
                "LoLDU STS-B": 92.3,
            },
            unit="%",
            needs=_GLUE,
        ),
        Claim(
            id="vit-six-sets",
            says=(
                "ViT-B on six image sets: LoLDU 82.79 (r = 768, 18 K), LoRA 76.22 (581 K), FourierFT 79.29, full 87.23."
            ),
            source="table",
            paper_value={
                "linear": 68.38,
                "full": 87.23,
                "LoRA r=16": 76.22,
                "FourierFT 72K": 76.64,
                "FourierFT 239K": 79.29,
                "LoLDU r=64": 77.83,
                "LoLDU r=768": 82.79,
            },
            unit="%",
            needs=_VIT,
        ),
        Claim(
            id="vit-fine-grained",
            says="Fine-grained sets gain most: aircraft 42.15 against 25.16, cars 66.66 against 45.38.",
            source="table",
            paper_value={"LoRA FGVC": 25.16, "LoRA Cars": 45.38, "LoLDU FGVC": 42.15, "LoLDU Cars": 66.66},
            unit="%",
            needs=_VIT,
        ),
        Claim(
            id="vit-rank-sweep",
            says="Accuracy on aircraft rises with rank, from 27.59 at r = 1 to 42.15 at r = 768 (linear 17.44).",
            source="table",
            paper_value={
                "linear": 17.44,
                "r=1": 27.59,
                "r=8": 28.28,
                "r=16": 31.13,
                "r=32": 32.75,
                "r=64": 34.01,
                "r=128": 34.91,
                "r=256": 36.38,
                "r=512": 38.48,
                "r=768": 42.15,
            },
            unit="%",
            needs=_VIT,
        ),
        Claim(
            id="rank-order",
            says="Quality rises with rank: head only, r = 1, r = 64, r = 384.",
            source="ordering of the rank sweep",
            unit="%",
            holds=lambda m: m["head only"] < m["r=1"] < m["r=64"] <= m["r=384"],
        ),
        Claim(
            id="level-with-lora",
            says="At full rank of the diagonal it is within a point of LoRA with 16 times fewer parameters.",
            source="ordering of the tables",
            unit="points",
            holds=lambda m: m["LoRA r=8"] - m["r=384"] <= 1,
        ),
        Claim(
            id="llama-instruct",
            says=(
                "LLaMA2-7B, 0.016 M parameters: MMLU 46.21, DROP 32.71, HumanEval 15.11, BBH 33.12, level with "
                "LoRA (33.6 M) and MELoRA."
            ),
            source="table",
            paper_value={
                "base MMLU": 45.96,
                "base DROP": 31.55,
                "base HEval": 12.2,
                "base BBH": 32.04,
                "LoRA MMLU": 45.64,
                "LoRA DROP": 32.46,
                "LoRA HEval": 15.09,
                "LoRA BBH": 32.4,
                "MELoRA MMLU": 46.46,
                "MELoRA DROP": 32.65,
                "MELoRA HEval": 16.16,
                "MELoRA BBH": 33.01,
                "LoLDU MMLU": 46.21,
                "LoLDU DROP": 32.71,
                "LoLDU HEval": 15.11,
                "LoLDU BBH": 33.12,
            },
            unit="score",
            needs=_LLAMA,
        ),
        Claim(
            id="diffusion-subjects",
            says=(
                "Subjects in Stable Diffusion: DINO 0.723, CLIP-T 0.319, CLIP-I 0.830, above DreamBooth and "
                "Textual Inversion in image similarity."
            ),
            source="table",
            paper_value={
                "DreamBooth DINO": 0.679,
                "DreamBooth CLIP-T": 0.323,
                "DreamBooth CLIP-I": 0.801,
                "Textual Inversion DINO": 0.649,
                "Textual Inversion CLIP-T": 0.313,
                "Textual Inversion CLIP-I": 0.801,
                "LoLDU DINO": 0.723,
                "LoLDU CLIP-T": 0.319,
                "LoLDU CLIP-I": 0.83,
            },
            unit="score",
            needs="Stable Diffusion weights and a GPU",
        ),
        Claim(
            id="learning-speed",
            says="A concept is acquired after about 100 steps.",
            source="figure",
            paper_value=100,
            unit="steps",
            needs="Stable Diffusion weights and a GPU",
        ),
        Claim(
            id="ldu-factors-matter",
            says=(
                "Frozen factors from the LDU decomposition beat random frozen factors of the same size by at "
                "least 3 points."
            ),
            source="initialisation ablation",
            unit="points",
            holds=lambda m: m["LDU"] - m["random"] >= 3,
        ),
        Claim(
            id="parameter-factor",
            says="The factor that follows from the paper's own table is 2100, not 2600.",
            source="arithmetic on the table",
            paper_value=2600,
            unit="times",
            holds=lambda factor: abs(factor - 2100) < 1,
            kind="finding",
        ),
    ),
)
