"""A Comparative Analysis of Static Word Embeddings for Hungarian (static embeddings for Hungarian)."""

from fullrank.papers import Claim, Paper

_HUBERT = "huBERT, XLM-R and the published Hungarian vectors"

PAPER = Paper(
    slug="hungarian-embeddings",
    title="A Comparative Analysis of Static Word Embeddings for Hungarian",
    authors=1,
    published="2025-05-12",
    arxiv="2505.07809",
    position=15,
    repository="https://github.com/gedeonmate/hungarian_static_embeddings",
    venue="Infocommunications Journal 17(2), 2025",
    topics=("language",),
    summary=(
        "Word2vec, fastText, ELMo and three ways to turn huBERT or XLM-R into one vector per word are compared "
        "on Hungarian. fastText wins the analogy test, X2Static is the best extraction from BERT, and for "
        "tagging and entity recognition with a small BiLSTM the vectors from contextual models win, ELMo first."
        " Vocabularies are cut to the common part so that the comparison is fair."
    ),
    notes=(
        "The official evaluation gives unknown test words a random vector even where a model could embed them, "
        "which costs fastText and decontextualised vectors most; both policies are offered. Sub-word pooling "
        "beats the [CLS] vector in both recipes."
    ),
    claims=(
        Claim(
            id="analogy-mrr",
            says="Analogies, MRR@10: fastText 0.772 is best, huBERT X2Static 0.584 the best from BERT models.",
            source="official notebook",
            paper_value={
                "fastText": 0.772,
                "huBERT X2Static": 0.584,
                "EFNILEX": 0.46,
                "huSpaCy": 0.46,
                "XLM-R X2Static": 0.452,
                "huBERT aggregate": 0.242,
                "XLM-R aggregate": 0.23,
                "ELMo": 0.223,
                "huBERT decontextualised": 0.219,
                "XLM-R decontextualised": 0.018,
            },
            unit="MRR@10",
            needs=_HUBERT,
        ),
        Claim(
            id="analogy-accuracy",
            says="Analogies, accuracy: the same order, from 0.709 (fastText) down to 0.013.",
            source="official notebook",
            paper_value={
                "fastText": 0.709,
                "huBERT X2Static": 0.487,
                "EFNILEX": 0.389,
                "huSpaCy": 0.379,
                "XLM-R X2Static": 0.371,
                "huBERT aggregate": 0.185,
                "XLM-R aggregate": 0.18,
                "ELMo": 0.18,
                "huBERT decontextualised": 0.169,
                "XLM-R decontextualised": 0.013,
            },
            unit="accuracy",
            needs=_HUBERT,
        ),
        Claim(
            id="pos-64",
            says="Part-of-speech tagging, 64 hidden units: ELMo 94.58, huBERT X2Static 93.95, fastText 89.99.",
            source="official notebook",
            paper_value={
                "ELMo": 94.58,
                "huBERT X2Static": 93.95,
                "XLM-R X2Static": 93.76,
                "huSpaCy": 93.33,
                "huBERT decontextualised": 93.17,
                "EFNILEX": 90.48,
                "fastText": 89.99,
                "huBERT aggregate": 87.39,
                "XLM-R decontextualised": 78.37,
                "XLM-R aggregate": 52.57,
            },
            unit="%",
            needs=_HUBERT,
        ),
        Claim(
            id="pos-16",
            says="With 16 hidden units: ELMo 93.00, huBERT X2Static 92.50, fastText 88.33.",
            source="official notebook",
            paper_value={
                "ELMo": 93.0,
                "huBERT X2Static": 92.5,
                "XLM-R X2Static": 92.36,
                "huSpaCy": 91.26,
                "huBERT decontextualised": 91.05,
                "EFNILEX": 87.91,
                "fastText": 88.33,
                "huBERT aggregate": 82.4,
                "XLM-R decontextualised": 67.95,
                "XLM-R aggregate": 55.57,
            },
            unit="%",
            needs=_HUBERT,
        ),
        Claim(
            id="ner-64",
            says="Named entities, 64 hidden units: all between 95.37 and 97.62.",
            source="official notebook",
            paper_value={
                "ELMo": 97.62,
                "huBERT X2Static": 97.49,
                "XLM-R X2Static": 97.44,
                "huSpaCy": 97.13,
                "huBERT decontextualised": 97.38,
                "EFNILEX": 96.8,
                "fastText": 96.78,
                "huBERT aggregate": 97.01,
                "XLM-R decontextualised": 95.37,
                "XLM-R aggregate": 95.68,
            },
            unit="%",
            needs=_HUBERT,
        ),
        Claim(
            id="ner-16",
            says="Named entities, 16 hidden units: all between 95.10 and 97.39.",
            source="official notebook",
            paper_value={
                "ELMo": 97.39,
                "huBERT X2Static": 97.24,
                "XLM-R X2Static": 97.2,
                "huSpaCy": 96.54,
                "huBERT decontextualised": 97.16,
                "EFNILEX": 96.46,
                "fastText": 96.56,
                "huBERT aggregate": 96.61,
                "XLM-R decontextualised": 95.1,
                "XLM-R aggregate": 95.12,
            },
            unit="%",
            needs=_HUBERT,
        ),
        Claim(
            id="x2static-beats-aggregate",
            says="X2Static makes better static vectors from a contextual model than averaging its [CLS] outputs.",
            source="ordering of the tables",
            unit="accuracy",
            holds=lambda m: m["X2Static"] > m["aggregate"],
        ),
        Claim(
            id="x2static-english",
            says="X2Static also beats these recipes on English similarity sets.",
            source="abstract of Gupta and Jaggi",
            needs="the English similarity sets and BERT weights",
        ),
        Claim(
            id="pieces-beat-cls",
            says="Pooling the word's pieces beats the [CLS] vector in both recipes.",
            source="our pilot on NerKor",
            unit="accuracy",
            holds=lambda m: m["decontextualised gain"] >= 0.02 and m["aggregate gain"] >= 0.15,
            kind="finding",
        ),
        Claim(
            id="unknown-words-decide",
            says="Giving unknown words their own vector instead of a random one raises fastText by at least 0.1.",
            source="our pilot on NerKor",
            unit="accuracy",
            holds=lambda m: m["fastText gain"] >= 0.1 and m["decontextualised gain"] >= 0.02,
            kind="finding",
        ),
    ),
)
