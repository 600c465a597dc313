"""A Song of (Dis)agreement: Evaluating the Evaluation of Explainable Artificial Intelligence in Natural Language
Processing (disagreement of explanations).
"""

from fullrank.papers import Claim, Paper

_FULL = "the fine-tuned models and all five data sets of the paper"

PAPER = Paper(
    slug="disagreement",
    title=(
        "A Song of (Dis)agreement: Evaluating the Evaluation of Explainable Artificial Intelligence in Natural "
        "Language Processing"
    ),
    authors=4,
    published="2022-05-09",
    arxiv="2205.04559",
    position=31,
    repository="https://github.com/sfschouten/court-of-xai",
    venue="HHAI 2022",
    topics=(
        "explanation",
        "language",
    ),
    summary=(
        "Attention weights are often judged as explanations by how well they rank-correlate with attribution "
        "methods. Over five attribution methods, two attention scores, LSTM and transformer models and five "
        "data sets, almost nothing agrees with anything. The authors advise to stop using rank correlation for "
        "this purpose."
    ),
    notes=(
        "Rank agreement depends on whether scores are signed, whether special tokens count and how many tokens "
        "are compared; all are options, the paper's are the defaults. With one baseline DeepLIFT and Deep SHAP "
        "are the same thing."
    ),
    claims=(
        Claim(
            id="distilbert-imdb",
            says=(
                "DistilBERT on IMDb: Kendall's tau of attention rollout with every attribution is at most "
                "0.252; IG and GradSHAP agree most (0.550) beside DeepLIFT and Deep SHAP (0.483)."
            ),
            source="Table 1",
            paper_value={
                "LIME": 0.126,
                "IG": 0.182,
                "DeepLIFT": 0.252,
                "GradSHAP": 0.143,
                "DeepSHAP": 0.23,
                "IG-GradSHAP": 0.55,
                "DeepLIFT-DeepSHAP": 0.483,
                "GradSHAP-DeepSHAP": 0.109,
                "LIME-IG": 0.105,
            },
            unit="tau",
            needs=_FULL,
        ),
        Claim(
            id="distilbert-sst2",
            says=(
                "DistilBERT on SST-2: Kendall's tau of attention rollout with every attribution is at most "
                "0.136; IG and GradSHAP agree most (0.499) beside DeepLIFT and Deep SHAP (0.451)."
            ),
            source="Table 1",
            paper_value={
                "LIME": 0.136,
                "IG": 0.051,
                "DeepLIFT": 0.133,
                "GradSHAP": 0.074,
                "DeepSHAP": 0.129,
                "IG-GradSHAP": 0.499,
                "DeepLIFT-DeepSHAP": 0.451,
                "GradSHAP-DeepSHAP": 0.042,
                "LIME-IG": 0.286,
            },
            unit="tau",
            needs=_FULL,
        ),
        Claim(
            id="distilbert-mnli",
            says=(
                "DistilBERT on MNLI: Kendall's tau of attention rollout with every attribution is at most "
                "0.268; IG and GradSHAP agree most (0.478) beside DeepLIFT and Deep SHAP (0.499)."
            ),
            source="Table 1",
            paper_value={
                "LIME": 0.268,
                "IG": 0.189,
                "DeepLIFT": 0.243,
                "GradSHAP": 0.191,
                "DeepSHAP": 0.207,
                "IG-GradSHAP": 0.478,
                "DeepLIFT-DeepSHAP": 0.499,
                "GradSHAP-DeepSHAP": 0.175,
                "LIME-IG": 0.179,
            },
            unit="tau",
            needs=_FULL,
        ),
        Claim(
            id="distilbert-quora",
            says=(
                "DistilBERT on Quora: Kendall's tau of attention rollout with every attribution is at most "
                "0.227; IG and GradSHAP agree most (0.467) beside DeepLIFT and Deep SHAP (0.595)."
            ),
            source="Table 1",
            paper_value={
                "LIME": 0.162,
                "IG": 0.057,
                "DeepLIFT": 0.227,
                "GradSHAP": 0.052,
                "DeepSHAP": 0.226,
                "IG-GradSHAP": 0.467,
                "DeepLIFT-DeepSHAP": 0.595,
                "GradSHAP-DeepSHAP": 0.054,
                "LIME-IG": 0.141,
            },
            unit="tau",
            needs=_FULL,
        ),
        Claim(
            id="distilbert-snli",
            says=(
                "DistilBERT on SNLI: Kendall's tau of attention rollout with every attribution is at most "
                "0.221; IG and GradSHAP agree most (0.393) beside DeepLIFT and Deep SHAP (0.555)."
            ),
            source="Table 1",
            paper_value={
                "LIME": 0.143,
                "IG": 0.165,
                "DeepLIFT": 0.221,
                "GradSHAP": 0.16,
                "DeepSHAP": 0.18,
                "IG-GradSHAP": 0.393,
                "DeepLIFT-DeepSHAP": 0.555,
                "GradSHAP-DeepSHAP": 0.085,
                "LIME-IG": 0.153,
            },
            unit="tau",
            needs=_FULL,
        ),
        Claim(
            id="bilstm-imdb",
            says=(
                "BiLSTM on IMDb: tau of attention with every attribution is at most 0.249; IG and GradSHAP "
                "agree with 0.941."
            ),
            source="Table 2",
            paper_value={
                "LIME": 0.201,
                "IG": 0.219,
                "DeepLIFT": 0.249,
                "GradSHAP": 0.221,
                "DeepSHAP": 0.231,
                "IG-GradSHAP": 0.941,
                "DeepLIFT-DeepSHAP": 0.859,
                "GradSHAP-DeepSHAP": 0.702,
                "LIME-IG": 0.654,
            },
            unit="tau",
            needs=_FULL,
        ),
        Claim(
            id="bilstm-sst2",
            says=(
                "BiLSTM on SST-2: tau of attention with every attribution is at most 0.140; IG and GradSHAP "
                "agree with 0.971."
            ),
            source="Table 2",
            paper_value={
                "LIME": 0.133,
                "IG": 0.109,
                "DeepLIFT": 0.137,
                "GradSHAP": 0.11,
                "DeepSHAP": 0.14,
                "IG-GradSHAP": 0.971,
                "DeepLIFT-DeepSHAP": 0.873,
                "GradSHAP-DeepSHAP": 0.806,
                "LIME-IG": 0.497,
            },
            unit="tau",
            needs=_FULL,
        ),
        Claim(
            id="bilstm-mnli",
            says=(
                "BiLSTM on MNLI: tau of attention with every attribution is at most 0.255; IG and GradSHAP "
                "agree with 0.814."
            ),
            source="Table 2",
            paper_value={
                "LIME": 0.196,
                "IG": 0.252,
                "DeepLIFT": 0.255,
                "GradSHAP": 0.247,
                "DeepSHAP": 0.237,
                "IG-GradSHAP": 0.814,
                "DeepLIFT-DeepSHAP": 0.621,
                "GradSHAP-DeepSHAP": 0.402,
                "LIME-IG": 0.328,
            },
            unit="tau",
            needs=_FULL,
        ),
        Claim(
            id="bilstm-quora",
            says=(
                "BiLSTM on Quora: tau of attention with every attribution is at most 0.102; IG and GradSHAP "
                "agree with 0.742."
            ),
            source="Table 2",
            paper_value={
                "LIME": 0.036,
                "IG": 0.014,
                "DeepLIFT": 0.089,
                "GradSHAP": 0.018,
                "DeepSHAP": 0.102,
                "IG-GradSHAP": 0.742,
                "DeepLIFT-DeepSHAP": 0.618,
                "GradSHAP-DeepSHAP": 0.243,
                "LIME-IG": 0.21,
            },
            unit="tau",
            needs=_FULL,
        ),
        Claim(
            id="bilstm-snli",
            says=(
                "BiLSTM on SNLI: tau of attention with every attribution is at most 0.316; IG and GradSHAP "
                "agree with 0.654."
            ),
            source="Table 2",
            paper_value={
                "LIME": 0.22,
                "IG": 0.257,
                "DeepLIFT": 0.316,
                "GradSHAP": 0.252,
                "DeepSHAP": 0.294,
                "IG-GradSHAP": 0.654,
                "DeepLIFT-DeepSHAP": 0.579,
                "GradSHAP-DeepSHAP": 0.222,
                "LIME-IG": 0.267,
            },
            unit="tau",
            needs=_FULL,
        ),
        Claim(
            id="attention-flow",
            says="Attention flow on SST-2 agrees no better: 0.069 to 0.180.",
            source="appendix B",
            paper_value={"LIME": 0.18, "IG": 0.069, "DeepLIFT": 0.129, "GradSHAP": 0.081, "DeepSHAP": 0.12},
            unit="tau",
            needs=_FULL,
        ),
        Claim(
            id="accuracy-attention",
            says=(
                "Accuracy with uniform and softmax attention: BiLSTM within 0.3 points, DistilBERT gains up to "
                "18 (MNLI)."
            ),
            source="appendix A",
            paper_value={
                "BiLSTM SST-2 uniform": 0.823,
                "BiLSTM SST-2 softmax": 0.826,
                "BiLSTM IMDb uniform": 0.874,
                "BiLSTM IMDb softmax": 0.872,
                "BiLSTM SNLI uniform": 0.804,
                "BiLSTM SNLI softmax": 0.807,
                "DistilBERT SST-2 uniform": 0.823,
                "DistilBERT SST-2 softmax": 0.842,
                "DistilBERT IMDb uniform": 0.879,
                "DistilBERT IMDb softmax": 0.89,
                "DistilBERT MNLI uniform": 0.599,
                "DistilBERT MNLI softmax": 0.779,
            },
            unit="accuracy",
            needs=_FULL,
        ),
        Claim(
            id="attention-correlates-with-nothing",
            says="Attention does not correlate strongly with any attribution, on either model.",
            source="abstract",
            unit="tau",
            holds=lambda largest: largest < 0.3,
        ),
        Claim(
            id="only-relatives-agree",
            says="The only pairs that agree are relatives: IG with GradSHAP and DeepLIFT with Deep SHAP.",
            source="abstract",
            unit="tau",
            holds=lambda m: min(m["IG-GradSHAP"], m["DeepLIFT-DeepSHAP"]) > m["highest other pair"],
        ),
        Claim(
            id="transformer-agrees-less",
            says="Other attribution pairs agree less on the transformer than on the BiLSTM.",
            source="Tables 1 and 2",
            unit="tau",
            holds=lambda m: m["transformer"] < m["BiLSTM"],
        ),
        Claim(
            id="not-an-evaluation",
            says="Agreement should not be used to evaluate explanations.",
            source="abstract",
            needs="an argument, not a measurement",
        ),
        Claim(
            id="one-baseline",
            says="With one baseline DeepLIFT equals Deep SHAP exactly.",
            source="algebra, checked numerically",
            unit="largest difference",
            holds=lambda difference: difference < 1e-6,
            kind="finding",
        ),
    ),
)
