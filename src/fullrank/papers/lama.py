"""Low Rank Factorization for Compact Multi-Head Self-Attention (LAMA)."""

from fullrank.papers import Claim, Paper

PAPER = Paper(
    slug="lama",
    title="Low Rank Factorization for Compact Multi-Head Self-Attention",
    authors=3,
    published="2019-11-26",
    arxiv="1912.00835",
    position=9,
    topics=(
        "attention",
        "language",
    ),
    summary=(
        "LAMA adds multi-head attention to a GRU classifier with far fewer parameters: the affinity between "
        "hidden states and one global context vector is written as a low-rank bilinear form, and each rank "
        "gives one head. It needs no query per word. Sentiment, rating and news classification match heavier "
        "attention models, and the heads can be read."
    ),
    notes=(
        "No table of the paper could be confirmed, so no number is quoted. Seeds differ by 2 to 5 points on "
        "small text sets, more than the attention layers do."
    ),
    claims=(
        Claim(
            id="matches-baselines",
            says="On reviews, ratings and news topics LAMA matches or outperforms strong baselines.",
            source="abstract",
            holds=lambda m: m["LAMA"] >= m["mean pooling"] and m["LAMA"] >= m["HAN"] - 1,
        ),
        Claim(
            id="fewer-parameters",
            says="Its attention has far fewer parameters than multi-head attention of comparable accuracy.",
            source="abstract",
            holds=lambda m: m["LAMA"] >= m["MHA"] - 2 and m["parameter ratio"] <= 0.3,
        ),
        Claim(
            id="cheaper",
            says="It costs less than transformer self-attention.",
            source="abstract",
            unit="time ratio",
            holds=lambda ratio: ratio <= 0.5,
        ),
        Claim(
            id="interpretable-maps",
            says="Its attention maps show context-dependent importance of words.",
            source="abstract",
            needs="human judgement of attention maps",
        ),
        Claim(
            id="beats-single-head",
            says=(
                "It is more effective than single-head attention, and smaller and faster than existing multi-"
                "head attention."
            ),
            source="abstract of version 1",
            holds=lambda m: m["LAMA"] >= m["single head"],
        ),
        Claim(
            id="frozen-encoder",
            says="Over frozen token states of a pre-trained encoder LAMA is at least as good as mean pooling.",
            source="our pilot with MiniLM",
            unit="%",
            holds=lambda m: m["LAMA"] >= m["mean pooling"],
            kind="finding",
        ),
    ),
)
