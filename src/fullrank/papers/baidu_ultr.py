"""A Large Scale Search Dataset for Unbiased Learning to Rank (Baidu-ULTR, unbiased learning to rank)."""

from fullrank.papers import Claim, Paper

_DATA = "the Baidu-ULTR sessions, which are not downloadable at present"

PAPER = Paper(
    slug="baidu-ultr",
    title="A Large Scale Search Dataset for Unbiased Learning to Rank",
    authors=7,
    published="2022-07-06",
    arxiv="2207.03051",
    position=18,
    repository="https://github.com/ChuXiaokai/baidu_ultr_dataset",
    venue="NeurIPS 2022, Datasets and Benchmarks",
    topics=(
        "learning to rank",
        "retrieval",
    ),
    summary=(
        "A very large click log for unbiased learning to rank: 1.2 billion search sessions with text, "
        "positions, display features and user actions, plus 7,008 queries judged by experts. A pretrained "
        "language model is supplied as baseline. Debiasing methods that shine on synthetic clicks gain little "
        "here."
    ),
    notes=(
        "The official code shuffles documents across queries in its listwise losses, which explains its near-"
        "equal numbers; the switch reproduces it. The independent reproduction finds that unbiased methods "
        "predict clicks better but do not rank consistently better, and that the choice of loss matters more."
    ),
    claims=(
        Claim(
            id="size",
            says="1.2 billion sessions, 7,008 annotated queries, 397,572 judged pairs.",
            source="abstract of version 3",
            paper_value={"sessions": 1200000000.0, "queries": 7008, "pairs": 397572},
            needs=_DATA,
        ),
        Claim(
            id="expert-dcg",
            says="On expert labels DLA is best by a little: DCG@10 6.236 against naive 6.170, IPW 6.194, REM 6.177.",
            source="recalled",
            paper_value={"naive": 6.17, "IPW": 6.194, "REM": 6.177, "DLA": 6.236},
            unit="DCG@10",
            needs=_DATA,
            confirmed=False,
        ),
        Claim(
            id="reproduction-pointwise-dcg",
            says="Reproduction with BERT, pointwise, DCG@10: naive 7.251, two towers 7.456, IPS 6.296.",
            source="README of the independent reproduction",
            paper_value={"naive": 7.251, "two towers": 7.456, "IPS": 6.296},
            unit="DCG@10",
            needs=_DATA,
        ),
        Claim(
            id="reproduction-pointwise-ndcg",
            says="The same in nDCG@10: naive 0.357, two towers 0.367, IPS 0.307.",
            source="README of the independent reproduction",
            paper_value={"naive": 0.357, "two towers": 0.367, "IPS": 0.307},
            unit="nDCG@10",
            needs=_DATA,
        ),
        Claim(
            id="reproduction-clicks",
            says="The same in click log-likelihood: naive 0.227, two towers 0.218, IPS 0.222.",
            source="README of the independent reproduction",
            paper_value={"naive": 0.227, "two towers": 0.218, "IPS": 0.222},
            unit="nats",
            needs=_DATA,
        ),
        Claim(
            id="reproduction-listwise",
            says=(
                "Reproduction, listwise, DCG@10 (nDCG@10): naive 8.478 (0.405), IPS 7.450 (0.361), DLA 7.802 (0.377)."
            ),
            source="README of the independent reproduction",
            paper_value={
                "naive": 8.478,
                "IPS": 7.45,
                "DLA": 7.802,
                "naive nDCG": 0.405,
                "IPS nDCG": 0.361,
                "DLA nDCG": 0.377,
            },
            unit="DCG@10",
            needs=_DATA,
        ),
        Claim(
            id="reproduction-top-1",
            says="DCG@1, listwise: naive 1.947, DLA 1.796, IPS 1.671.",
            source="README of the independent reproduction",
            paper_value={"naive": 1.947, "DLA": 1.796, "IPS": 1.671},
            unit="DCG@1",
            needs=_DATA,
        ),
        Claim(
            id="reproduction-conclusion",
            says=(
                "Unbiased methods improve click prediction robustly and ranking not consistently; listwise "
                "against pointwise loss matters more."
            ),
            source="abstract of arXiv 2404.02543",
            needs=_DATA,
        ),
        Claim(
            id="simulated-yahoo",
            says="On simulated clicks over Yahoo data DLA reaches nDCG@10 of about 0.756.",
            source="issue 11 of ULTRA_pytorch",
            paper_value=0.756,
            unit="nDCG@10",
            needs="the Yahoo learning-to-rank set, which is not free",
        ),
        Claim(
            id="correction-helps",
            says=(
                "On simulated position-biased clicks unbiased learning ranks better than naive learning, and "
                "both better than the production ranker."
            ),
            source="premise of the field",
            unit="nDCG@10",
            holds=lambda m: m["production"] < m["naive"] < m["DLA"] and m["DLA"] - m["naive"] > 0.015,
        ),
        Claim(
            id="propensities-recovered",
            says="DLA recovers the order of the true examination propensities.",
            source="premise of DLA",
            unit="Spearman rho",
            holds=lambda rho: rho > 0.9,
        ),
        Claim(
            id="ips-is-unbiased",
            says=(
                "In expectation over clicks the inverse-propensity loss equals the loss on full information; "
                "the naive loss does not."
            ),
            source="theorem",
            unit="largest difference",
            holds=lambda m: m["IPS"] < 1e-10 < m["naive"],
        ),
        Claim(
            id="shuffled-documents",
            says=(
                "With documents shuffled across queries, as in the official code, every method falls to the "
                "naive level or below."
            ),
            source="our simulation",
            unit="nDCG@10",
            holds=lambda m: m["best shuffled"] <= m["naive"] + 0.01,
            kind="finding",
        ),
        Claim(
            id="no-bias-no-gain",
            says="Without position bias naive learning is best or equal.",
            source="our simulation",
            unit="nDCG@10",
            holds=lambda m: m["naive"] >= m["best corrected"] - 0.01,
            kind="finding",
        ),
    ),
)
