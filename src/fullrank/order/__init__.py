"""Learn to order: ranking measures, rank correlation, click models, unbiased learning to rank."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fullrank.order.evaluation import Evaluation, evaluate
from fullrank.order.measures import Measure, parse_measure
from fullrank.order.trec_order import trec_order

if TYPE_CHECKING:
    from fullrank.order.click_model import ClickModel, Perplexity
    from fullrank.order.click_models_by_place import PBM, UBM, ClickThroughRate
    from fullrank.order.click_models_top_down import DBN, DCM, Cascade
    from fullrank.order.click_sessions import ClickSessions, read_click_sessions
    from fullrank.order.click_simulation import ClickSimulator, SimulatedClicks, simulate_clicks
    from fullrank.order.list_measures import benchmark_table, dcg, err, ndcg, pnr
    from fullrank.order.propensity_estimation import estimate_propensities
    from fullrank.order.rank_correlation import ap_correlation, kendall_tau, rank_biased_overlap, weighted_tau
    from fullrank.order.significance import Difference, compare, holm, paired_test
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

__all__ = [
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
    "Measure",
    "Naive",
    "Objective",
    "PBM",
    "PairDebias",
    "Perplexity",
    "PositionBasedModel",
    "RegressionEM",
    "SimulatedClicks",
    "UBM",
    "ap_correlation",
    "benchmark_table",
    "compare",
    "dcg",
    "err",
    "estimate_propensities",
    "evaluate",
    "holm",
    "ips_pointwise",
    "kendall_tau",
    "make_objective",
    "ndcg",
    "paired_test",
    "pairwise_softplus",
    "parse_measure",
    "pnr",
    "rank_biased_overlap",
    "read_click_sessions",
    "sigmoid_loss",
    "simulate_clicks",
    "softmax_loss",
    "trec_order",
    "weighted_tau",
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
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"fullrank.order.{_LATER[name]}"), name)
