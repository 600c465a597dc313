"""Rankify: A Comprehensive Python Toolkit for Retrieval, Re-Ranking, and Retrieval-Augmented Generation (Rankify)."""

from fullrank.papers import Claim, Paper

_PRINT = "the package's own listings; a count of features, not a measurement"

PAPER = Paper(
    slug="rankify",
    title="Rankify: A Comprehensive Python Toolkit for Retrieval, Re-Ranking, and Retrieval-Augmented Generation",
    authors=5,
    published="2025-02-04",
    arxiv="2502.02464",
    position=33,
    repository="https://github.com/DataScienceUIBK/rankify",
    topics=("retrieval",),
    summary=(
        "A Python toolkit that puts retrieval, re-ranking and retrieval-augmented generation behind one "
        "interface. Many sparse and dense retrievers and re-rankers are included, with pre-retrieved data sets "
        "for fair comparison. It is on PyPI with documentation."
    ),
    notes=(
        "The toolkit has defects that ours is tested against: a sliding window that loses passages, answer "
        "pipelines that ignore the re-ranked order, metrics that break ties otherwise than trec_eval. Its main "
        "tables could not be read."
    ),
    claims=(
        Claim(
            id="inventory-first",
            says="40 pre-retrieved data sets, 7 retrievers and 24 re-rankers.",
            source="README, first version",
            paper_value={"data sets": 40, "retrievers": 7, "re-rankers": 24},
            needs=_PRINT,
        ),
        Claim(
            id="inventory-now",
            says="Over 40 data sets, 28 re-rankers with 44 methods, 6 generation methods, 4 language model back ends.",
            source="README",
            paper_value={"data sets": 40, "re-rankers": 28, "methods": 44, "generation methods": 6, "back ends": 4},
            needs=_PRINT,
        ),
        Claim(
            id="unified",
            says="One modular and lightweight framework for retrieval, re-ranking and generation.",
            source="abstract",
            needs=_PRINT,
        ),
        Claim(
            id="main-tables",
            says="Re-rankers raise top-k accuracy on NQ, WebQ and TriviaQA and nDCG@10 on DL19, DL20 and BEIR.",
            source="tables, not readable",
            needs="the pre-retrieved data sets and re-ranking models",
            confirmed=False,
        ),
        Claim(
            id="fusion-beats-both",
            says=(
                "Fusing lexical and dense retrieval by reciprocal rank beats either, on question answering and "
                "on abstracts."
            ),
            source="premise of hybrid retrieval",
            unit="nDCG@10",
            holds=lambda m: (
                m["xquad fused"] > max(m["xquad BM25"], m["xquad dense"])
                and m["vaswani fused"] > max(m["vaswani BM25"], m["vaswani dense"])
            ),
        ),
        Claim(
            id="stemming-helps",
            says="Stemming raises BM25 on short abstracts.",
            source="premise of lexical retrieval",
            unit="MAP",
            holds=lambda m: m["stemmed"] > m["plain"],
        ),
        Claim(
            id="reranking-reaches-the-answer",
            says="Re-ranking changes what the answer is generated from.",
            source="the framework's premise",
            unit="share of questions",
            holds=lambda share: share > 0,
        ),
        Claim(
            id="sliding-window-defect",
            says="With a perfect judge a correct sliding window reaches nDCG@10 of 1; the original's does not.",
            source="our oracle test",
            unit="nDCG@10",
            holds=lambda m: m["correct"] > 0.999 > m["original"],
            kind="finding",
        ),
    ),
)
