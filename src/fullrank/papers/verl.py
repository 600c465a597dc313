"""Beyond the Exploration-Exploitation Trade-off: A Hidden State Approach for LLM Reasoning in RLVR (VERL)."""

from fullrank.papers import Claim, Paper

_RLVR = "training reasoning language models with reinforcement learning on GPUs"

PAPER = Paper(
    slug="verl",
    title="Beyond the Exploration-Exploitation Trade-off: A Hidden State Approach for LLM Reasoning in RLVR",
    authors=None,
    published=None,
    arxiv="2509.23808",
    position=29,
    repository="https://github.com/hf618/VERL",
    venue="ICLR 2026 submission, withdrawn",
    topics=(
        "optimisation",
        "measurement",
        "language",
    ),
    summary=(
        "Exploration and exploitation in reinforcement learning for reasoning look opposed when measured on "
        "tokens. Measured by the effective rank of hidden states and its first and second differences along the"
        " answer they are not, and VERL shapes the advantage with both. Gains reach 21 points on one exam set."
    ),
    notes=(
        "Effective rank and its velocity and acceleration are taken over the hidden states of a response. Their"
        " decoupling is reported for reasoning models; in an encoder at equal length rank and velocity are "
        "strongly correlated, so it is no universal fact."
    ),
    claims=(
        Claim(
            id="gaokao",
            says="Up to 21.4 points more on Gaokao 2024.",
            source="abstract",
            paper_value=21.4,
            unit="points",
            needs=_RLVR,
        ),
        Claim(
            id="consistent-gains",
            says="Consistent gains over GRPO and PPO across models and reasoning sets.",
            source="abstract, tables not confirmed",
            needs=_RLVR,
            confirmed=False,
        ),
        Claim(
            id="decoupled",
            says=(
                "Effective rank and its velocity are nearly uncorrelated, unlike token-level measures of "
                "exploration and exploitation."
            ),
            source="figure, not confirmed",
            paper_value=0.0,
            unit="r",
            needs="responses of a reasoning model",
            confirmed=False,
        ),
        Claim(
            id="scaling",
            says="Rank and velocity grow with length, acceleration does not.",
            source="paper",
            holds=lambda m: (
                m["rank growth"] >= 1.6 and m["velocity growth"] >= 1.6 and 0.5 < m["acceleration growth"] < 2
            ),
        ),
        Claim(
            id="shaping-is-safe",
            says="Shaped advantages keep their sign and change by at most 1/kappa of their size.",
            source="method",
            unit="share of violations",
            holds=lambda share: share == 0,
        ),
        Claim(
            id="not-decoupled-in-an-encoder",
            says="In an encoder, at equal length, rank and velocity correlate with 0.75 or more.",
            source="our run on all-MiniLM-L6-v2",
            unit="r",
            holds=lambda r: r >= 0.5,
            kind="finding",
        ),
    ),
)
