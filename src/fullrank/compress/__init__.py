"""Make a trained model smaller: factorise, quantise and compensate, prune, vector-quantise, train with a rank.

Importing this room lets transformers load compressed models: `AutoModel.from_pretrained` of a folder that `save` wrote.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fullrank._optional import require

require("transformers", "compress")

from fullrank.compress.batch_norms import recalibrate_norms  # noqa: E402
from fullrank.compress.beta_rank import (  # noqa: E402
    Deviations,
    beta_rank,
    collect_deviations,
    stability_fraction,
)
from fullrank.compress.cifar_networks import CifarResNet, CifarVGG, resnet_ratios  # noqa: E402
from fullrank.compress.compressing import Compressed, compress, gather_statistics  # noqa: E402
from fullrank.compress.compressor_comparison import CompressorComparison, compare_compressors  # noqa: E402
from fullrank.compress.filter_pruner import FilterPruner  # noqa: E402
from fullrank.compress.filter_scores import filter_l1, hrank, map_ranks, random_scores  # noqa: E402
from fullrank.compress.folder import load, save  # noqa: E402
from fullrank.compress.fwsvd import FWSVDMethod, fisher_scale  # noqa: E402
from fullrank.compress.fwsvd_model import FWSVDConfig, compress_low_rank, estimate_fisher  # noqa: E402
from fullrank.compress.fwsvd_trainer import FisherAccumulator, FisherCallback  # noqa: E402
from fullrank.compress.gptq import gptq_quantize  # noqa: E402
from fullrank.compress.greenformers import (  # noqa: E402
    CED,
    LED,
    GreenformersMethod,
    LayerFactors,
    auto_fact,
    fact_report,
    factor_rank,
)
from fullrank.compress.imbalance import ImbalancedReport, imbalanced_report, make_imbalanced  # noqa: E402
from fullrank.compress.kept_channels import KeptChannels, kept_channels  # noqa: E402
from fullrank.compress.kinds import LayerKind, describe_layers, register_kind  # noqa: E402
from fullrank.compress.layers import Layer, Selection, select_layers  # noqa: E402
from fullrank.compress.lorc import LoRCConfig, lorc_factors  # noqa: E402
from fullrank.compress.lorc_method import LoRCMethod  # noqa: E402
from fullrank.compress.lorc_model import dequantize_model, export_adapter, quantize_lorc  # noqa: E402
from fullrank.compress.lorc_sensitivity import (  # noqa: E402
    LayerSensitivity,
    SensitivityReport,
    quantization_sensitivity,
    sensitivity_class,
)
from fullrank.compress.low_rank import ASVDMethod, LowRankMethod, SVDMethod, Weighting, WhiteningMethod  # noqa: E402
from fullrank.compress.lr2vq import LR2VQConfig, ModelSize, VQConv2d, VQLinear, choose_dim, estimate_dim, model_size  # noqa: E402
from fullrank.compress.lr2vq_method import LR2VQMethod  # noqa: E402
from fullrank.compress.maestro import (  # noqa: E402
    LoD,
    allocate_budget,
    decompose,
    export,
    recompose,
    sweep,
    truncate,
)
from fullrank.compress.maestro_layers import MaestroConv2d, MaestroLayer, MaestroLinear  # noqa: E402
from fullrank.compress.maestro_trainer import MaestroCallback, MaestroMixin  # noqa: E402
from fullrank.compress.method import Job, Method, Replaced  # noqa: E402
from fullrank.compress.methods import METHODS  # noqa: E402
from fullrank.compress.onnx_export import export_onnx  # noqa: E402
from fullrank.compress.proving import (  # noqa: E402
    Latency,
    ProofReport,
    Proven,
    check_compression,
    compress_pretrained,
    latency,
    recover_quality,
)
from fullrank.compress.pruning_report import PrunedLayer, PruningReport, count_macs  # noqa: E402
from fullrank.compress.quantization import Grid, QuantizedWeight, pack, unpack  # noqa: E402
from fullrank.compress.quantized_linear import Factors, QuantizedLinear  # noqa: E402
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
from fullrank.compress.zeroquant_local import zeroquant_local_quantize  # noqa: E402
from fullrank.tasks.losses import labelled_losses  # noqa: E402

if TYPE_CHECKING:
    from fullrank.compress.importances import BetaRankImportance, HRankImportance, LayerScoreImportance
    from fullrank.compress.lora_residual import LowRankLora, init_lora_from_residual, load_lora

__all__ = [
    "FWSVDConfig",
    "FisherAccumulator",
    "FisherCallback",
    "compress_low_rank",
    "LowRankLora",
    "init_lora_from_residual",
    "load_lora",
    "estimate_fisher",
    "export_onnx",
    "MaestroCallback",
    "MaestroMixin",
    "MaestroLinear",
    "MaestroLayer",
    "MaestroConv2d",
    "truncate",
    "sweep",
    "recompose",
    "recalibrate_norms",
    "export",
    "decompose",
    "allocate_budget",
    "LoD",
    "LR2VQConfig",
    "LR2VQMethod",
    "ModelSize",
    "VQConv2d",
    "VQLinear",
    "choose_dim",
    "estimate_dim",
    "model_size",
    "Factors",
    "Grid",
    "LayerSensitivity",
    "LoRCConfig",
    "LoRCMethod",
    "QuantizedLinear",
    "QuantizedWeight",
    "SensitivityReport",
    "dequantize_model",
    "export_adapter",
    "factor_rank",
    "fact_report",
    "auto_fact",
    "LayerFactors",
    "GreenformersMethod",
    "LED",
    "CED",
    "BetaRankImportance",
    "CifarResNet",
    "CifarVGG",
    "Deviations",
    "FilterPruner",
    "HRankImportance",
    "ImbalancedReport",
    "KeptChannels",
    "LayerScoreImportance",
    "PrunedLayer",
    "PruningReport",
    "beta_rank",
    "collect_deviations",
    "count_macs",
    "filter_l1",
    "gptq_quantize",
    "hrank",
    "imbalanced_report",
    "kept_channels",
    "lorc_factors",
    "make_imbalanced",
    "map_ranks",
    "pack",
    "quantization_sensitivity",
    "quantize_lorc",
    "random_scores",
    "resnet_ratios",
    "sensitivity_class",
    "stability_fraction",
    "recover_quality",
    "latency",
    "check_compression",
    "compress_pretrained",
    "Proven",
    "ProofReport",
    "Latency",
    "compare_compressors",
    "CompressorComparison",
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
    "gather_statistics",
    "labelled_losses",
    "load",
    "register_kind",
    "save",
    "select_layers",
    "unpack",
    "zeroquant_local_quantize",
]

#: Names that load with their first use: they need torch-pruning, or PEFT.
_LATER = {
    "BetaRankImportance": "importances",
    "HRankImportance": "importances",
    "LayerScoreImportance": "importances",
    "LowRankLora": "lora_residual",
    "init_lora_from_residual": "lora_residual",
    "load_lora": "lora_residual",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"fullrank.compress.{_LATER[name]}"), name)
