"""Make a trained model smaller: factorise, quantise and compensate, prune, vector-quantise, train with a rank.

Importing this room lets transformers load compressed models: `AutoModel.from_pretrained` of a folder that `save` wrote.
"""

from fullrank._optional import require

require("transformers", "adapt")

from fullrank.compress.compressing import Compressed, compress  # noqa: E402
from fullrank.compress.folder import load, save  # noqa: E402
from fullrank.compress.fwsvd import FWSVDMethod, fisher_scale  # noqa: E402
from fullrank.compress.kinds import LayerKind, describe_layers, register_kind  # noqa: E402
from fullrank.compress.layers import Layer, Selection, select_layers  # noqa: E402
from fullrank.compress.low_rank import ASVDMethod, LowRankMethod, SVDMethod, Weighting, WhiteningMethod  # noqa: E402
from fullrank.compress.method import Job, Method, Replaced  # noqa: E402
from fullrank.compress.methods import METHODS  # noqa: E402
from fullrank.compress.rank_rules import (  # noqa: E402
    BudgetRank,
    EffectiveRank,
    EnergyRank,
    FixedRank,
    LayerSpectrum,
    RankRule,
    RatioRank,
)
from fullrank.compress.report import CompressionReport, LayerReport  # noqa: E402
from fullrank.compress.statistics import LayerStatistics, collect_statistics, fisher_sums  # noqa: E402
from fullrank.tasks.losses import labelled_losses  # noqa: E402

__all__ = [
    "ASVDMethod",
    "BudgetRank",
    "Compressed",
    "CompressionReport",
    "EffectiveRank",
    "EnergyRank",
    "FWSVDMethod",
    "FixedRank",
    "Job",
    "Layer",
    "LayerKind",
    "LayerReport",
    "LayerSpectrum",
    "LayerStatistics",
    "LowRankMethod",
    "METHODS",
    "Method",
    "RankRule",
    "RatioRank",
    "Replaced",
    "SVDMethod",
    "Selection",
    "Weighting",
    "WhiteningMethod",
    "collect_statistics",
    "compress",
    "describe_layers",
    "fisher_scale",
    "fisher_sums",
    "labelled_losses",
    "load",
    "register_kind",
    "save",
    "select_layers",
]
