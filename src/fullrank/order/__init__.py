"""Learn to order: ranking measures, rank correlation, click models, unbiased learning to rank."""

from fullrank.order.evaluation import Evaluation, evaluate
from fullrank.order.measures import Measure, parse_measure
from fullrank.order.trec_order import trec_order

__all__ = [
    "Evaluation",
    "Measure",
    "evaluate",
    "parse_measure",
    "trec_order",
]
