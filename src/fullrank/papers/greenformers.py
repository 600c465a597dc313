"""Greenformers: Improving Computation and Memory Efficiency in Transformer Models via Low-Rank Approximation
(Greenformers, Low-Rank Transformer).
"""

from fullrank.papers import Claim, Paper

_BERT = "BERT, GPT-2 or VGG weights from a model hub"

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
    notes=(
        "The library's truncated SVD is an iterative approximation; the exact one is at least as good. The "
        "crossover between the Low-Rank Transformer and Linformer holds for eager attention, as in 2021; fused "
        "attention moves it."
    ),
    claims=(
        Claim(
            id="short-sequences-lrt",
            says=(
                "Up to 512 tokens the Low-Rank Transformer is faster and smaller than the dense one and than Linformer."
            ),
            source="abstract",
            holds=lambda m: m["LRT at 256"] < min(m["Linformer at 256"], m["dense at 256"]),
        ),
        Claim(
            id="long-sequences-linformer",
            says="From 512 tokens on Linformer is the better one.",
            source="abstract",
            holds=lambda m: m["Linformer at 2048"] < m["LRT at 2048"],
        ),
        Claim(
            id="lrt-is-smaller",
            says="The Low-Rank Transformer is significantly smaller, Linformer is not.",
            source="abstract",
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
            paper_value={"first version": 1.26, "later version": 1.35},
            unit="x",
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
                "BERT-base on CPU, 32 x 256 tokens, rank 0.2 on the last six layers: 4.15 s become 3.01 s, with"
                " backward 3.33 s become 2.41 s."
            ),
            source="official notebook",
            paper_value={"dense": 4.15, "low rank": 3.01, "dense with backward": 3.33, "low rank with backward": 2.41},
            unit="s",
            holds=lambda m: m["dense"] / m["low rank"] >= 1.2,
        ),
        Claim(
            id="bert-gpu-speed",
            says="BERT-base on GPU, 64 x 256 tokens: 785 ms become 683 ms.",
            source="official notebook",
            paper_value={"dense": 785.0, "low rank": 683.0},
            unit="ms",
            needs="a GPU",
        ),
        Claim(
            id="imdb",
            says=(
                "Fine-tuned BERT on IMDB keeps 92.43 % (of 92.86 %) at 90.3 M parameters, 10 % faster, without "
                "retraining."
            ),
            source="official notebook",
            paper_value={"dense": 92.86, "low rank": 92.43},
            unit="%",
            needs=_BERT,
        ),
        Claim(
            id="cifar10-resnext",
            says="CIFAR-10 ResNeXt50 by design: 83 % at 12.9 M parameters against 85 % at 23.0 M.",
            source="official notebook",
            paper_value={"dense": 85.0, "low rank": 83.0},
            unit="%",
            needs="CIFAR-10 training of ResNeXt50 on a GPU",
        ),
        Claim(
            id="gpt2-in-context",
            says="GPT-2 large classifies SST in context with 68.7 % after factorising some layers, 64.0 % before.",
            source="official notebook",
            paper_value={"dense": 64.0, "low rank": 68.7},
            unit="%",
            needs=_BERT,
        ),
        Claim(
            id="lrt-quality",
            says="A Low-Rank Transformer stays within 2 points of the dense one with at most 60 % of its parameters.",
            source="thesis, quality tables",
            unit="points",
            holds=lambda m: m["dense"] - m["LRT"] <= 2 and m["parameter share"] <= 0.6,
        ),
        Claim(
            id="exact-svd-is-enough",
            says=(
                "Exact truncation is at least as good as the library's iterative one, and factorising only the "
                "last layers loses least."
            ),
            source="our pilot on MiniLM and STS-B",
            unit="Spearman x 100",
            holds=lambda m: m["exact"] >= m["library"] - 0.3 and m["last layers"] >= max(m["exact"], m["library"]),
            kind="finding",
        ),
    ),
)
