"""Greenformers: Improving Computation and Memory Efficiency in Transformer Models via Low-Rank Approximation
(Greenformers, Low-Rank Transformer).
"""

from fullrank.papers import Claim, Paper

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
            says="Exact truncation is at least as good as the library's randomised one at every rank.",
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
