"""Learn to order: ranking measures, rank correlation, click models, unbiased learning to rank."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fullrank.order.evaluation import Evaluation, evaluate
from fullrank.order.measures import Measure, parse_measure
from fullrank.order.trec_order import trec_order

if TYPE_CHECKING:
    from fullrank.order.baidu_features import annotation_features, click_sessions_of, match_features, session_features
    from fullrank.order.baidu_format import (
        Annotation,
        MalformedLines,
        Session,
        ShownDocument,
        TokenText,
        read_baidu_annotations,
        read_baidu_sessions,
        write_baidu_annotations,
        write_baidu_sessions,
    )
    from fullrank.order.click_model import ClickModel, Perplexity
    from fullrank.order.click_models_by_place import PBM, UBM, ClickThroughRate
    from fullrank.order.click_models_top_down import DBN, DCM, Cascade
    from fullrank.order.click_sessions import ClickSessions, read_click_sessions
    from fullrank.order.click_simulation import ClickSimulator, SimulatedClicks, simulate_clicks
    from fullrank.order.lightgbm_ranker import LightGBMRanker
    from fullrank.order.list_measures import benchmark_table, dcg, err, ndcg, pnr
    from fullrank.order.pdgd import PDGD, plackett_luce
    from fullrank.order.propensity_estimation import estimate_propensities
    from fullrank.order.rank_correlation import ap_correlation, kendall_tau, rank_biased_overlap, weighted_tau
    from fullrank.order.significance import Difference, compare, holm, paired_test
    from fullrank.order.svmlight import JudgedDocument, JudgedSet, load_svmlight, read_svmlight
    from fullrank.order.text_ranker import TextRanker, TextScorer
    from fullrank.order.ultr_losses import ips_pointwise, pairwise_softplus, sigmoid_loss, softmax_loss
    from fullrank.order.ultr_objectives import (
        DLA,
        IPS,
        Naive,
        Objective,
        PairDebias,
        PositionBasedModel,
        RegressionEM,
        make_objective,
    )
    from fullrank.order.ultr_ranker import ULTRRanker

__all__ = [
    "Annotation",
    "Cascade",
    "ClickModel",
    "ClickSessions",
    "ClickSimulator",
    "ClickThroughRate",
    "DBN",
    "DCM",
    "DLA",
    "Difference",
    "Evaluation",
    "IPS",
    "JudgedDocument",
    "JudgedSet",
    "LightGBMRanker",
    "MalformedLines",
    "Measure",
    "Naive",
    "Objective",
    "PBM",
    "PDGD",
    "PairDebias",
    "Perplexity",
    "PositionBasedModel",
    "RegressionEM",
    "Session",
    "ShownDocument",
    "SimulatedClicks",
    "TextRanker",
    "TextScorer",
    "TokenText",
    "UBM",
    "ULTRRanker",
    "annotation_features",
    "ap_correlation",
    "benchmark_table",
    "click_sessions_of",
    "compare",
    "dcg",
    "err",
    "estimate_propensities",
    "evaluate",
    "holm",
    "ips_pointwise",
    "kendall_tau",
    "load_svmlight",
    "make_objective",
    "match_features",
    "ndcg",
    "paired_test",
    "pairwise_softplus",
    "parse_measure",
    "plackett_luce",
    "pnr",
    "rank_biased_overlap",
    "read_baidu_annotations",
    "read_baidu_sessions",
    "read_click_sessions",
    "read_svmlight",
    "session_features",
    "sigmoid_loss",
    "simulate_clicks",
    "softmax_loss",
    "trec_order",
    "weighted_tau",
    "write_baidu_annotations",
    "write_baidu_sessions",
]

#: Name -> the module that loads with its first use: measuring a run needs neither torch nor SciPy.
_LATER = {
    **dict.fromkeys(("ClickModel", "Perplexity"), "click_model"),
    **dict.fromkeys(("ClickThroughRate", "PBM", "UBM"), "click_models_by_place"),
    **dict.fromkeys(("Cascade", "DBN", "DCM"), "click_models_top_down"),
    **dict.fromkeys(("ClickSessions", "read_click_sessions"), "click_sessions"),
    **dict.fromkeys(("ClickSimulator", "SimulatedClicks", "simulate_clicks"), "click_simulation"),
    **dict.fromkeys(("benchmark_table", "dcg", "err", "ndcg", "pnr"), "list_measures"),
    "estimate_propensities": "propensity_estimation",
    **dict.fromkeys(("ap_correlation", "kendall_tau", "rank_biased_overlap", "weighted_tau"), "rank_correlation"),
    **dict.fromkeys(("Difference", "compare", "holm", "paired_test"), "significance"),
    **dict.fromkeys(("ips_pointwise", "pairwise_softplus", "sigmoid_loss", "softmax_loss"), "ultr_losses"),
    **dict.fromkeys(
        (
            "DLA", "IPS", "Naive", "Objective", "PairDebias", "PositionBasedModel", "RegressionEM", "make_objective",
        ),
        "ultr_objectives",
    ),
    **dict.fromkeys(
        ("annotation_features", "click_sessions_of", "match_features", "session_features"), "baidu_features",
    ),
    **dict.fromkeys(
        (
            "Annotation", "MalformedLines", "Session", "ShownDocument", "TokenText", "read_baidu_annotations",
            "read_baidu_sessions", "write_baidu_annotations", "write_baidu_sessions",
        ),
        "baidu_format",
    ),
    "LightGBMRanker": "lightgbm_ranker",
    **dict.fromkeys(("PDGD", "plackett_luce"), "pdgd"),
    **dict.fromkeys(("JudgedDocument", "JudgedSet", "load_svmlight", "read_svmlight"), "svmlight"),
    **dict.fromkeys(("TextRanker", "TextScorer"), "text_ranker"),
    "ULTRRanker": "ultr_ranker",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"fullrank.order.{_LATER[name]}"), name)
