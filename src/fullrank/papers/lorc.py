"""ZeroQuant-V2: Exploring Post-training Quantization in LLMs from Comprehensive Study to Low Rank Compensation
(ZeroQuant-V2, LoRC).
"""

from fullrank.papers import Claim, Paper

_OPT = "OPT weights of 6.7 to 66 B parameters, BLOOM weights up to 176 B, and several GPUs"

PAPER = Paper(
    slug="lorc",
    title=(
        "ZeroQuant-V2: Exploring Post-training Quantization in LLMs from Comprehensive Study to Low Rank Compensation"
    ),
    authors=5,
    published="2023-03-14",
    arxiv="2303.08302",
    position=11,
    repository="https://github.com/microsoft/DeepSpeed",
    venue="NeurIPS 2023 workshop ENLSP",
    topics=(
        "compression",
        "language",
    ),
    summary=(
        "ZeroQuant-V2 measures how weights and activations of models from 125 M to 176 B parameters survive "
        "post-training quantisation with rounding, GPTQ and ZeroQuant. Activations turn out more fragile than "
        "weights and nothing restores full quality at 4 bits. Low-Rank Compensation adds the leading singular "
        "directions of the quantisation error back as two thin matrices."
    ),
    notes=(
        "The authors name DeepSpeed as the code's home, but the low-rank compensation is not in it: the facts come "
        "from their slides (which give OPT-66b at 4 bits twice, 10.52 and 10.78), and the QERA repository declares "
        "its identity scale to be this method. DeepSpeed's grid divides by the number of levels and clips the largest "
        "value; the usual grid is the default. The share that rank 8 recovers depends on how concentrated the error "
        "is and is small without outlier channels. Later scalings (LQER, QERA) recover more at the same rank and are "
        "options."
    ),
    claims=(
        Claim(
            id="lorc-w4",
            says=(
                "With 4-bit weights and GPTQ LoRC lowers every model's mean perplexity, for OPT-6.7b from 12.28 to "
                "12.10 (16 bits: 11.90)."
            ),
            source="authors' slides",
            paper_value={
                "OPT-6.7b": 12.28,
                "OPT-6.7b LoRC": 12.1,
                "OPT-13b": 11.42,
                "OPT-13b LoRC": 11.36,
                "OPT-30b": 10.78,
                "OPT-30b LoRC": 10.76,
                "OPT-66b": 10.78,
                "OPT-66b LoRC": 10.34,
                "BLOOM-176b": 11.02,
                "BLOOM-176b LoRC": 10.98,
            },
            unit="perplexity",
            needs=_OPT,
        ),
        Claim(
            id="lorc-w3",
            says=(
                "With 3-bit weights and GPTQ LoRC lowers every model's mean perplexity, for OPT-6.7b from 14.18 to "
                "13.00, for OPT-66b from 17.77 to 10.63."
            ),
            source="authors' slides",
            paper_value={
                "OPT-6.7b": 14.18,
                "OPT-6.7b LoRC": 13.0,
                "OPT-13b": 12.43,
                "OPT-13b LoRC": 11.9,
                "OPT-30b": 11.28,
                "OPT-30b LoRC": 11.14,
                "OPT-66b": 17.77,
                "OPT-66b LoRC": 10.63,
                "BLOOM-176b": 49.46,
                "BLOOM-176b LoRC": 11.3,
            },
            unit="perplexity",
            needs=_OPT,
        ),
        Claim(
            id="lorc-w2",
            says=(
                "With 2-bit weights and GPTQ LoRC lowers OPT-6.7b from 120.56 to 24.17; BLOOM-176b explodes without it "
                "and has 14.15 with it."
            ),
            source="authors' slides",
            paper_value={
                "OPT-6.7b": 120.56,
                "OPT-6.7b LoRC": 24.17,
                "OPT-13b": 40.17,
                "OPT-13b LoRC": 18.53,
                "OPT-30b": 25.74,
                "OPT-30b LoRC": 14.39,
                "OPT-66b": 225.45,
                "OPT-66b LoRC": 13.01,
                "BLOOM-176b LoRC": 14.15,
            },
            unit="perplexity",
            needs=_OPT,
        ),
        Claim(
            id="w8-is-free",
            says="8-bit weights cost nothing: the perplexities are those of 16 bit.",
            source="authors' slides",
            paper_value={"OPT-6.7b": 11.9, "OPT-13b": 11.22, "OPT-30b": 10.7, "OPT-66b": 10.33, "BLOOM-176b": 10.9},
            unit="perplexity",
            holds=lambda m: m["W8"] < 1.01 * m["W16"],
        ),
        Claim(
            id="recovered-share",
            says=(
                "The share of the lost quality that LoRC recovers at rank 8 grows as bits fall: 47 % at 4, 52 % at 3, "
                "89 % at 2 bits for OPT-6.7b (here, on a model with outlier channels: it grows, from at least 40 %)."
            ),
            source="authors' slides (shares from their perplexities)",
            paper_value={"W4": 47.0, "W3": 52.0, "W2": 89.0},
            unit="%",
            holds=lambda m: 40 <= m["W4"] < m["W3"] < m["W2"],
        ),
        Claim(
            id="quantisers-w4a16",
            says=(
                "With 4-bit weights and no LoRC every quantiser costs perplexity, round-to-nearest the most: OPT-6.7b "
                "has 13.44 with it, 12.28 with GPTQ, 12.46 and 12.38 with ZeroQuant-Local and -Global (11.90 at 16 "
                "bits)."
            ),
            source="authors' slides",
            paper_value={
                "OPT-6.7b 16 bits": 11.90,
                "OPT-13b 16 bits": 11.22,
                "OPT-30b 16 bits": 10.70,
                "OPT-66b 16 bits": 10.33,
                "BLOOM-1.7b 16 bits": 20.43,
                "BLOOM-3b 16 bits": 17.58,
                "BLOOM-7.1b 16 bits": 14.96,
                "BLOOM-176b 16 bits": 10.90,
                "OPT-6.7b RTN": 13.44,
                "OPT-13b RTN": 12.09,
                "OPT-30b RTN": 11.52,
                "OPT-66b RTN": 31.52,
                "BLOOM-1.7b RTN": 22.47,
                "BLOOM-3b RTN": 19.01,
                "BLOOM-7.1b RTN": 15.9,
                "BLOOM-176b RTN": 11.2,
                "OPT-6.7b GPTQ": 12.28,
                "OPT-13b GPTQ": 11.42,
                "OPT-30b GPTQ": 10.78,
                "OPT-66b GPTQ": 10.52,
                "BLOOM-1.7b GPTQ": 21.58,
                "BLOOM-3b GPTQ": 18.33,
                "BLOOM-7.1b GPTQ": 15.5,
                "BLOOM-176b GPTQ": 11.02,
                "OPT-6.7b ZQ-Local": 12.46,
                "OPT-13b ZQ-Local": 11.64,
                "OPT-30b ZQ-Local": 11.05,
                "OPT-66b ZQ-Local": 10.79,
                "BLOOM-1.7b ZQ-Local": 21.7,
                "BLOOM-3b ZQ-Local": 18.5,
                "BLOOM-7.1b ZQ-Local": 15.55,
                "BLOOM-176b ZQ-Local": 11.11,
                "OPT-6.7b ZQ-Global": 12.38,
                "OPT-13b ZQ-Global": 11.62,
                "OPT-30b ZQ-Global": 11.04,
                "OPT-66b ZQ-Global": 10.68,
                "BLOOM-1.7b ZQ-Global": 21.38,
                "BLOOM-3b ZQ-Global": 18.33,
                "BLOOM-7.1b ZQ-Global": 15.52,
                "BLOOM-176b ZQ-Global": 11.05,
            },
            unit="perplexity",
            needs=_OPT,
        ),
        Claim(
            id="quantisers-w4a8",
            says=(
                "With 4-bit weights and 8-bit activations OPT suffers far more than BLOOM, most at 66 B parameters: "
                "perplexity 815 with round-to-nearest, 648.69 with GPTQ, 37.82 and 16.32 with ZeroQuant-Global and "
                "-Local."
            ),
            source="authors' slides",
            paper_value={
                "OPT-6.7b RTN": 14.8,
                "OPT-13b RTN": 26.36,
                "OPT-30b RTN": 86.26,
                "OPT-66b RTN": 815.0,
                "BLOOM-1.7b RTN": 22.75,
                "BLOOM-3b RTN": 19.17,
                "BLOOM-7.1b RTN": 16.19,
                "BLOOM-176b RTN": 12.22,
                "OPT-6.7b GPTQ": 13.88,
                "OPT-13b GPTQ": 17.28,
                "OPT-30b GPTQ": 20.71,
                "OPT-66b GPTQ": 648.69,
                "BLOOM-1.7b GPTQ": 21.71,
                "BLOOM-3b GPTQ": 18.44,
                "BLOOM-7.1b GPTQ": 15.75,
                "BLOOM-176b GPTQ": 11.86,
                "OPT-6.7b ZQ-Local": 13.24,
                "OPT-13b ZQ-Local": 14.23,
                "OPT-30b ZQ-Local": 18.53,
                "OPT-66b ZQ-Local": 16.32,
                "BLOOM-1.7b ZQ-Local": 21.86,
                "BLOOM-3b ZQ-Local": 18.66,
                "BLOOM-7.1b ZQ-Local": 15.75,
                "BLOOM-176b ZQ-Local": 11.19,
                "OPT-6.7b ZQ-Global": 13.17,
                "OPT-13b ZQ-Global": 13.07,
                "OPT-30b ZQ-Global": 14.65,
                "OPT-66b ZQ-Global": 37.82,
                "BLOOM-1.7b ZQ-Global": 21.43,
                "BLOOM-3b ZQ-Global": 18.39,
                "BLOOM-7.1b ZQ-Global": 15.58,
                "BLOOM-176b ZQ-Global": 11.49,
            },
            unit="perplexity",
            needs=_OPT,
        ),
        Claim(
            id="int4-is-not-lossless",
            says="No studied method reaches the original quality with INT4 weights.",
            source="abstract",
            unit="perplexity",
            holds=lambda m: min(m["RTN"], m["GPTQ"]) > m["W16"],
        ),
        Claim(
            id="gptq-beats-rounding",
            says="At 4 bits GPTQ has a lower perplexity than rounding to nearest.",
            source="authors' slides (ordering in every column)",
            unit="perplexity",
            holds=lambda m: m["GPTQ"] < m["RTN"],
        ),
        Claim(
            id="activations-are-more-sensitive",
            says="Quantising activations hurts more than quantising weights, above all in larger models.",
            source="abstract",
            needs=_OPT,
        ),
        Claim(
            id="activations-are-more-sensitive-small-model",
            says="In a small language model too, 8-bit activations cost more perplexity than 8-bit weights.",
            source="abstract, at small scale",
            unit="perplexity",
            holds=lambda m: m["A8"] > m["W8"],
        ),
        Claim(
            id="lorc-helps-at-little-cost",
            says=(
                "LoRC recovers quality at 4, 3 and 2 bits: the embeddings' cosine loss falls with rank 8 and falls "
                "further with rank 32."
            ),
            source="abstract, on a sentence encoder",
            unit="1 - cosine",
            holds=lambda m: all(
                m[f"W{bits}, rank 0"] > m[f"W{bits}, rank 8"] > m[f"W{bits}, rank 32"] for bits in (4, 3, 2)
            ),
        ),
        Claim(
            id="minimal-extra-size",
            says=(
                "The model grows minimally: rank 8 in 8 bits adds less than 1 % to a 4-bit matrix of 4096 x 4096 or "
                "4096 x 16384."
            ),
            source="abstract (minimal increase in size)",
            unit="% of the quantised weight",
            holds=lambda m: max(m["4096 x 4096"], m["4096 x 16384"]) < 1,
        ),
        Claim(
            id="rank-8-is-enough",
            says="Little is gained past rank 8: going to rank 32 recovers less perplexity than the first 8 directions.",
            source="recalled from the rank study",
            unit="perplexity",
            holds=lambda m: m["rank 8"] - m["rank 32"] < m["rank 0"] - m["rank 8"],
            confirmed=False,
        ),
        Claim(
            id="int8-factors",
            says="The two thin factors can be stored in 8 bits without visible loss (at most 0.5 % more perplexity).",
            source="recalled",
            unit="perplexity",
            holds=lambda m: m["int8 factors"] <= 1.005 * m["float factors"],
            confirmed=False,
        ),
        Claim(
            id="errors-fall-in-every-layer",
            says="With LoRC the error of the weight and of the output falls in every layer.",
            source="method (best low-rank approximation of the error)",
            unit="smallest relative decrease over layers",
            holds=lambda m: m["weight"] > 0 and m["output"] > 0,
        ),
        Claim(
            id="gptq-plus-lorc",
            says="At 2 and 3 bits LoRC on top of GPTQ is at least as good as GPTQ.",
            source="authors' slides",
            unit="perplexity",
            holds=lambda m: m["W3, GPTQ + LoRC"] <= m["W3, GPTQ"] and m["W2, GPTQ + LoRC"] <= m["W2, GPTQ"],
        ),
        Claim(
            id="rival-scalings",
            says=(
                "On TinyLlama the identity scale (LoRC) has 13.91, LQER 10.69 to 10.78, QERA 10.66 to 10.70 "
                "perplexity on the same quantiser."
            ),
            source="plotting script of the QERA repository",
            paper_value={
                "LoRC": 13.91,
                "LQER, low": 10.69,
                "LQER, high": 10.78,
                "QERA, low": 10.66,
                "QERA, high": 10.70,
            },
            unit="perplexity",
            needs="TinyLlama weights",
            kind="finding",
        ),
        Claim(
            id="lqer-hardware",
            says="LQER claims near-lossless W4A8 with 1.36x fewer hardware resources than the best method before it.",
            source="README of LQER",
            paper_value=1.36,
            unit="x",
            needs="a model of the hardware's area",
            kind="finding",
        ),
        Claim(
            id="asvd-claim",
            says="ASVD claims 10 to 20 % compression without loss of reasoning.",
            source="README of ASVD",
            paper_value={"low": 10, "high": 20},
            unit="%",
            needs="LLaMA weights",
            kind="finding",
        ),
        Claim(
            id="share-depends-on-outliers",
            says=(
                "Without outlier channels rank 8 recovers little (7 % to 8 % of the cosine loss of MiniLM); a layer "
                "with planted outlier columns recovers far more."
            ),
            source="our pilot on MiniLM",
            unit="% recovered",
            holds=lambda m: m["MiniLM"] < 25 and m["planted outliers"] >= 40,
            kind="finding",
        ),
        Claim(
            id="scaled-error-recovers-more",
            says="Weighting the error by the inputs' magnitude (QERA-approx) recovers more than LoRC at equal rank.",
            source="our pilot on MiniLM and STS-B at 2 bits",
            unit="Spearman x 100",
            holds=lambda m: m["QERA-approx"] > m["LoRC"],
            kind="finding",
        ),
        Claim(
            id="deepspeed-grid-clips",
            says="DeepSpeed's asymmetric grid clips the largest value of a group by about one step.",
            source="code of DeepSpeed",
            unit="steps",
            holds=lambda steps: 0.5 <= steps <= 1.5,
            kind="finding",
        ),
    ),
)
