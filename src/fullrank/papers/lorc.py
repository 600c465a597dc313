"""ZeroQuant-V2: Exploring Post-training Quantization in LLMs from Comprehensive Study to Low Rank Compensation
(ZeroQuant-V2, LoRC).
"""

from fullrank.papers import Claim, Paper

_OPT = "OPT and BLOOM weights"

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
        "The authors name DeepSpeed as the code's home, but the low-rank compensation is not in it; the QERA "
        "repository declares its identity scale to be this method. Later scalings (LQER, QERA) recover more at "
        "the same rank and are offered as options."
    ),
    claims=(
        Claim(
            id="lorc-w4",
            says=(
                "W4A16 with GPTQ, mean perplexity: LoRC lowers every model's, for OPT-6.7b from 12.28 to 12.10 "
                "(16 bit 11.90)."
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
            says="W3A16: for OPT-6.7b from 14.18 to 13.00, for OPT-66b from 17.77 to 10.63.",
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
            says="W2A16: for OPT-6.7b from 120.56 to 24.17; BLOOM-176b explodes without and has 14.15 with LoRC.",
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
            holds=lambda m: abs(m["W8"] / m["W16"] - 1) < 0.01,
        ),
        Claim(
            id="recovered-share",
            says=(
                "The share of the lost quality that LoRC recovers grows as bits fall: 47 % at 4, 52 % at 3, 89 "
                "% at 2 bits (OPT-6.7b)."
            ),
            source="authors' slides",
            paper_value={"W4": 47.0, "W3": 52.0, "W2": 89.0},
            unit="%",
            holds=lambda m: m["W4"] < m["W3"] < m["W2"] and min(m.values()) > 0,
        ),
        Claim(
            id="quantisers-w4a16",
            says=(
                "W4A16 without LoRC, OPT-6.7b: round-to-nearest 13.44, GPTQ 12.28, ZeroQuant-Local 12.46, "
                "-Global 12.38."
            ),
            source="authors' slides",
            paper_value={
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
                "W4A8 without LoRC: quantised activations hurt OPT far more than BLOOM (OPT-66b RTN 815, GPTQ "
                "648.69, ZQ-Local 16.32)."
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
            holds=lambda m: min(m["RTN"], m["GPTQ"], m["ZQ-Local"]) > m["W16"],
        ),
        Claim(
            id="activations-are-more-sensitive",
            says="Quantising activations hurts more than quantising weights.",
            source="abstract",
            needs="a large language model with activation outliers",
        ),
        Claim(
            id="lorc-helps-at-little-cost",
            says=(
                "LoRC recovers quality with a minimal increase of the model's size, at every bit width and more"
                " with rank."
            ),
            source="abstract",
            holds=lambda m: m["rank 8"] < m["rank 2"] < m["none"] and m["size increase"] < 0.1,
        ),
        Claim(
            id="errors-fall-in-every-layer",
            says="The weight error falls in every layer with LoRC.",
            source="theorem behind the method",
            holds=lambda smallest_decrease: smallest_decrease > 0,
        ),
        Claim(
            id="gptq-plus-lorc",
            says="At 2 and 3 bits LoRC on top of GPTQ is at least as good as GPTQ.",
            source="authors' slides",
            unit="perplexity",
            holds=lambda m: m["GPTQ + LoRC"] <= m["GPTQ"],
        ),
        Claim(
            id="rival-scalings",
            says=(
                "On TinyLlama the identity scale (LoRC) has 13.91, LQER 10.69 to 10.78, QERA 10.66 to 10.70 "
                "perplexity on the same quantiser."
            ),
            source="plotting script of the QERA repository",
            paper_value={"LoRC": 13.91, "LQER": 10.69, "QERA": 10.66},
            unit="perplexity",
            needs="TinyLlama weights",
        ),
        Claim(
            id="lqer-hardware",
            says="LQER claims near-lossless W4A8 with 1.36x fewer hardware resources than the best method before it.",
            source="README of LQER",
            paper_value=1.36,
            unit="x",
            needs="a hardware model",
        ),
        Claim(
            id="asvd-claim",
            says="ASVD claims 10 to 20 % compression without loss of reasoning.",
            source="README of ASVD",
            paper_value="10 to 20",
            unit="%",
            needs="LLaMA weights",
        ),
    ),
)
