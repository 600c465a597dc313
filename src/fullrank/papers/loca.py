"""LoCA: Location-Aware Cosine Adaptation for Parameter-Efficient Fine-Tuning (LoCA)."""

from fullrank.papers import Claim, Paper

_ROBERTA = "RoBERTa-base weights and GLUE"

PAPER = Paper(
    slug="loca",
    title="LoCA: Location-Aware Cosine Adaptation for Parameter-Efficient Fine-Tuning",
    authors=8,
    published="2025-02-04",
    arxiv="2502.06820",
    position=24,
    repository="https://github.com/TL-UESTC/LoCA",
    venue="ICLR 2025",
    topics=(
        "adapters",
        "language",
    ),
    summary=(
        "LoCA learns a weight update as a few coefficients of a two-dimensional cosine transform and also "
        "learns where in the spectrum they sit. Positions are discrete, so their gradients are estimated by "
        "finite differences. A theory compares frequency-domain and low-rank updates, and tests cover language "
        "and vision models."
    ),
    notes=(
        "The location gradient is a finite difference between neighbouring cells; at the learning rates of "
        "short runs locations do not move at all, so a run has to report how many moved. The official package "
        "counts amplitudes only: twice as many numbers again are optimised as locations."
    ),
    claims=(
        Claim(
            id="parameter-efficiency",
            says=(
                "On language and vision tasks LoCA is more parameter-efficient than LoRA-type and frequency-"
                "type methods at comparable cost."
            ),
            source="abstract",
            holds=lambda m: (
                m["LoCA"] >= m["FourierFT"] - 0.3 and m["LoRA"] - m["LoCA"] <= 1 and m["parameter ratio"] >= 6
            ),
        ),
        Claim(
            id="chosen-cells-beat-random",
            says="Random frequency cells can be worse than low rank in expectation; chosen cells are better.",
            source="abstract",
            unit="relative error",
            holds=lambda m: m["chosen"] < m["low rank"],
        ),
        Claim(
            id="glue",
            says=(
                "On GLUE with RoBERTa-base and 24 thousand parameters it is at or slightly above FourierFT and "
                "LoRA on average."
            ),
            source="tables, numbers not confirmed",
            needs=_ROBERTA,
            confirmed=False,
        ),
        Claim(
            id="rte-rival",
            says=(
                "On RTE at k = 256 an independent project has 79.1 % for FourierFT and lost by moving locations more."
            ),
            source="an independent project that uses the authors' functions",
            paper_value=79.1,
            unit="%",
            needs=_ROBERTA,
            confirmed=False,
        ),
        Claim(
            id="beats-the-head",
            says="LoCA beats training the head alone by at least 6 points.",
            source="premise of the tables",
            unit="points",
            holds=lambda m: m["LoCA"] - m["head only"] >= 6,
        ),
        Claim(
            id="locations-are-found",
            says=(
                "Started one cell off the true places, learned locations recover at least 40 % of them; fixed "
                "ones at most 5 %."
            ),
            source="the method's claim, on a synthetic target",
            unit="share",
            holds=lambda m: (
                m["learned cells"] >= 0.4
                and m["fixed cells"] <= 0.05
                and m["learned loss"] <= 0.65
                and m["fixed loss"] >= 0.95
            ),
        ),
        Claim(
            id="learned-places-do-not-gain-on-text",
            says="On short text runs learned locations do not gain over fixed ones, although cells move.",
            source="our pilot on TREC with MiniLM",
            unit="points",
            holds=lambda m: m["moved"] > 0 and abs(m["learned"] - m["fixed"]) <= 1,
            kind="finding",
        ),
    ),
)
