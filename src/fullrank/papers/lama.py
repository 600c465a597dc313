"""Low Rank Factorization for Compact Multi-Head Self-Attention (LAMA)."""

from fullrank.papers import Claim, Paper

_LARGEST_WEIGHT = {"8 words": 0.514, "21 words": 0.270, "200 words": 0.0359}  # e^2 / (e^2 + words - 1)
_PARAMETERS = {"LAMA": 18_688, "LAMA without token network": 2_048, "Lin": 17_408, "HAN": 16_640, "MHA": 66_048}

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
        "There is no official code and no table could be confirmed, so no number is quoted; the layer follows the "
        "paper's figure. The third-party port leaves out the token network and averages its own inputs as context; "
        "both are options. After the normalisation over heads every score lies between -1 and 1, so on long texts the "
        "attention is close to a mean (a temperature is offered), and a single head gets no gradient. Seeds differ by "
        "2 to 5 points on small text sets, more than the attention layers do."
    ),
    claims=(
        Claim(
            id="matches-baselines",
            says=(
                "On text classification LAMA matches or outperforms strong baselines: here it is no worse than mean "
                "pooling and at most one point below single-head (HAN) attention."
            ),
            source="abstract",
            unit="%",
            holds=lambda m: m["LAMA"] >= m["mean pooling"] and m["LAMA"] >= m["HAN"] - 1,
        ),
        Claim(
            id="matches-baselines-full-size",
            says=(
                "On movie-review sentiment, Yelp business ratings and news topics LAMA matches or outperforms a series "
                "of strong baselines."
            ),
            source="abstract",
            needs="the Yelp reviews, the full news set and the paper's word vectors",
        ),
        Claim(
            id="fewer-parameters",
            says=(
                "Its attention has fewer parameters than comparable multi-head attention (MHA): at most 0.3 times as "
                "many, about 0.03 times without the token network, at most 2 points less accurate."
            ),
            source="abstract",
            unit="%, and ratio of parameters",
            holds=lambda m: (
                m["LAMA"] >= m["MHA"] - 2 and m["parameters"] <= 0.3 and m["parameters without token network"] <= 0.035
            ),
        ),
        Claim(
            id="cheaper",
            says=(
                "It costs less than transformer self-attention: at most half the time of multi-head attention on texts "
                "of 400 tokens."
            ),
            source="abstract",
            unit="ratio of times",
            holds=lambda ratio: ratio <= 0.5,
        ),
        Claim(
            id="interpretable-maps",
            says="Its attention maps can be interpreted: the importance of a word depends on its context.",
            source="abstract",
            needs="people who judge attention maps",
        ),
        Claim(
            id="beats-single-head",
            says="It is more effective than single-head attention.",
            source="abstract of version 1",
            unit="%",
            holds=lambda m: m["LAMA"] >= m["HAN"],
        ),
        Claim(
            id="smaller-and-faster-than-multi-head",
            says="It has fewer parameters and is faster than existing multi-head attention.",
            source="abstract of version 1",
            unit="ratio to multi-head attention",
            holds=lambda m: m["parameters"] < 1 and m["time"] < 1,
        ),
        Claim(
            id="frozen-encoder",
            says="Over frozen token states of a pre-trained encoder LAMA is at least as good as mean pooling.",
            source="control on TREC and movie-review sentences with MiniLM",
            unit="%",
            holds=lambda m: m["LAMA"] >= m["mean pooling"],
            kind="finding",
        ),
        Claim(
            id="long-texts-near-mean",
            says=(
                "Because scores lie between -1 and 1, no word can get more than 51 % of the attention among 8 words, "
                "27 % among 21 and 3.6 % among 200: on long texts LAMA is close to a mean."
            ),
            source="derived from the normalisation in Figure 1",
            unit="largest weight",
            holds=lambda m: all(m[words] <= bound for words, bound in _LARGEST_WEIGHT.items()),
            kind="finding",
        ),
        Claim(
            id="one-head-does-not-learn",
            says="With a single head the score collapses to plus or minus one, and the attention gets no gradient.",
            source="derived from the normalisation in Figure 1",
            unit="norm of the gradient",
            holds=lambda norm: norm <= 1e-6,
            kind="finding",
        ),
        Claim(
            id="learned-context-is-redundant",
            says="A learned context and one of the two factors fold into the other factor: outputs stay the same.",
            source="algebra",
            unit="largest difference of outputs",
            holds=lambda difference: difference <= 1e-6,
            kind="finding",
        ),
        Claim(
            id="token-network-dominates",
            says=(
                "At width 128 with 8 heads the token network holds most of the parameters (18,688 with it, 2,048 "
                "without); with it LAMA is larger than structured self-attention (Lin, 17,408) and HAN (16,640), and "
                "smaller than multi-head attention (66,048)."
            ),
            source="our count",
            unit="parameters",
            holds=lambda m: all(m[name] == count for name, count in _PARAMETERS.items()),
            kind="finding",
        ),
        Claim(
            id="seeds-outweigh-the-layer",
            says="On small text sets accuracy differs more between seeds than between kinds of attention.",
            source="our pilot on TREC",
            unit="points",
            holds=lambda m: m["largest range over seeds"] >= m["range over attention layers"],
            kind="finding",
        ),
    ),
)
