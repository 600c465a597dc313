"""Layers and models with low rank built in: attention, factorised maps, unfolded decompositions.

What needs torch alone is here at once; a model that needs transformers loads with its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fullrank.nn.axial_rotation import axial_frequencies, axial_rotation, rotate
from fullrank.nn.contrast import ContrastLayer, ContrastPrior
from fullrank.nn.convolutional_lstm import ConvolutionalLSTM, Memory
from fullrank.nn.gated_attention import GatedAttention, GatedSoftmaxAttention
from fullrank.nn.lama import LAMA, LAMAPooling, LowRankMultiHeadAttentionPooling, head_redundancy, orthogonality_penalty
from fullrank.nn.lama_classifier import LAMAClassifier, PoolingClassifier
from fullrank.nn.lama_poolings import pooling_layer
from fullrank.nn.large_kernel import LargeKernelConv2d
from fullrank.nn.less_attention import LESSAttention, LESSBlock
from fullrank.nn.less_positions import ContinuousPositionChannelEmbedding, perception_field_mask
from fullrank.nn.less_vit_loss import HyperMAELoss
from fullrank.nn.linformer import (
    LinformerEncoder,
    LinformerEncoderLayer,
    LinformerSelfAttention,
    SequenceProjection,
    crossover_length,
)
from fullrank.nn.low_rank import LowRankConv1d, LowRankConv2d, LowRankConv3d, LowRankLinear, split_factors
from fullrank.nn.low_rank_embedding import LowRankEmbedding
from fullrank.nn.low_rank_transformer import LowRankMultiheadAttention, LowRankTransformerEncoderLayer
from fullrank.nn.rala import RankAugmentedLinearAttention, kv_buffer, positive_features, rala_attention, token_weights
from fullrank.nn.ravlt import RAVLT, RAVLTFeatures
from fullrank.nn.ravlt_checkpoint import load_official_state_dict
from fullrank.nn.ravlt_cost import MultiplyAdds, multiply_adds
from fullrank.nn.ravlt_sizes import ravlt_base, ravlt_large, ravlt_small, ravlt_tiny, register_with_timm
from fullrank.nn.rpca_loss import RPCALoss, soft_iou_loss
from fullrank.nn.rpcanet import RPCANet, RPCANetOutput, RPCANetPP, UnfoldedRPCA
from fullrank.nn.rpcanet_checkpoint import load_official_rpcanet, rpcanet_from_official
from fullrank.nn.rpcanet_stages import StageOutput
from fullrank.nn.rpcanet_training import SegmentationTraining, train_segmentation
from fullrank.nn.sensors import SENSORS, SensorSpec, scale_by_deviation, sensor

if TYPE_CHECKING:
    from fullrank.nn.lama_text import Explanation, LAMATextClassifier
    from fullrank.nn.lama_transformers import LAMAConfig, LAMAForSequenceClassification
    from fullrank.nn.less_vit import LESSViTModel, LESSViTModelOutput, less_vit_base, less_vit_small
    from fullrank.nn.less_vit_configuration import LESSViTConfig
    from fullrank.nn.less_vit_conversion import convert_less_vit_state
    from fullrank.nn.less_vit_evaluation import LinearProbe, class_metrics, evaluate_less_vit, prediction_metrics
    from fullrank.nn.less_vit_features import LESSFeatureExtractor
    from fullrank.nn.less_vit_heads import LESSViTForImageClassification, LESSViTForSemanticSegmentation
    from fullrank.nn.less_vit_masking import Masking
    from fullrank.nn.less_vit_pretraining import LESSViTForPreTraining
    from fullrank.nn.less_vit_training import LESSViTTraining, random_flips, train_less_vit
    from fullrank.nn.rala_ranks import HeadRanks, feature_rank, kv_buffer_rank
    from fullrank.nn.rpcanet_diagnosis import LowRankness, StageLowRankness, stage_low_rankness, stage_sparsity
    from fullrank.nn.segmentation_metrics import (
        PooledScores,
        TargetROC,
        TargetScores,
        mae,
        pd_fa,
        pooled_iou_f1,
        roc_targets,
        s_measure,
    )
    from fullrank.nn.segmentation_report import SegmentationReport, SegmentedImage, segment_images
    from fullrank.nn.segmentation_torchmetrics import MapError, PooledIoUF1, StructureMeasure, TargetDetection
    from fullrank.nn.segmenter import RobustPCASegmenter, SparseObjectSegmenter

__all__ = [
    "ContinuousPositionChannelEmbedding",
    "ContrastLayer",
    "ContrastPrior",
    "ConvolutionalLSTM",
    "Explanation",
    "GatedAttention",
    "GatedSoftmaxAttention",
    "HeadRanks",
    "HyperMAELoss",
    "LAMA",
    "LAMAClassifier",
    "LAMAConfig",
    "LAMAForSequenceClassification",
    "LAMAPooling",
    "LAMATextClassifier",
    "LESSAttention",
    "LESSBlock",
    "LESSFeatureExtractor",
    "LESSViTConfig",
    "LESSViTForImageClassification",
    "LESSViTForPreTraining",
    "LESSViTForSemanticSegmentation",
    "LESSViTModel",
    "LESSViTModelOutput",
    "LESSViTTraining",
    "LargeKernelConv2d",
    "LinearProbe",
    "LinformerEncoder",
    "LinformerEncoderLayer",
    "LinformerSelfAttention",
    "LowRankConv1d",
    "LowRankConv2d",
    "LowRankConv3d",
    "LowRankEmbedding",
    "LowRankLinear",
    "LowRankMultiHeadAttentionPooling",
    "LowRankMultiheadAttention",
    "LowRankTransformerEncoderLayer",
    "LowRankness",
    "MapError",
    "Masking",
    "Memory",
    "MultiplyAdds",
    "PooledIoUF1",
    "PooledScores",
    "PoolingClassifier",
    "RAVLT",
    "RAVLTFeatures",
    "RPCALoss",
    "RPCANet",
    "RPCANetOutput",
    "RPCANetPP",
    "RankAugmentedLinearAttention",
    "RobustPCASegmenter",
    "SENSORS",
    "SegmentationReport",
    "SegmentationTraining",
    "SegmentedImage",
    "SensorSpec",
    "SequenceProjection",
    "SparseObjectSegmenter",
    "StageLowRankness",
    "StageOutput",
    "StructureMeasure",
    "TargetDetection",
    "TargetROC",
    "TargetScores",
    "UnfoldedRPCA",
    "axial_frequencies",
    "axial_rotation",
    "class_metrics",
    "convert_less_vit_state",
    "crossover_length",
    "evaluate_less_vit",
    "feature_rank",
    "head_redundancy",
    "kv_buffer",
    "kv_buffer_rank",
    "less_vit_base",
    "less_vit_small",
    "load_official_rpcanet",
    "load_official_state_dict",
    "mae",
    "multiply_adds",
    "orthogonality_penalty",
    "pd_fa",
    "perception_field_mask",
    "pooled_iou_f1",
    "pooling_layer",
    "positive_features",
    "prediction_metrics",
    "rala_attention",
    "random_flips",
    "ravlt_base",
    "ravlt_large",
    "ravlt_small",
    "ravlt_tiny",
    "register_with_timm",
    "roc_targets",
    "rotate",
    "rpcanet_from_official",
    "s_measure",
    "scale_by_deviation",
    "segment_images",
    "sensor",
    "soft_iou_loss",
    "split_factors",
    "stage_low_rankness",
    "stage_sparsity",
    "token_weights",
    "train_less_vit",
    "train_segmentation",
]

#: Names that load with their first use, by module.
_LATER: dict[str, str] = {
    "Explanation": "lama_text",
    "LAMAConfig": "lama_transformers",
    "LAMAForSequenceClassification": "lama_transformers",
    "LAMATextClassifier": "lama_text",
    "LESSViTModel": "less_vit",
    "LESSViTModelOutput": "less_vit",
    "less_vit_base": "less_vit",
    "less_vit_small": "less_vit",
    "LESSViTConfig": "less_vit_configuration",
    "LESSViTForPreTraining": "less_vit_pretraining",
    "LESSViTForImageClassification": "less_vit_heads",
    "LESSViTForSemanticSegmentation": "less_vit_heads",
    "Masking": "less_vit_masking",
    "LESSFeatureExtractor": "less_vit_features",
    "convert_less_vit_state": "less_vit_conversion",
    "LESSViTTraining": "less_vit_training",
    "random_flips": "less_vit_training",
    "train_less_vit": "less_vit_training",
    "LinearProbe": "less_vit_evaluation",
    "class_metrics": "less_vit_evaluation",
    "evaluate_less_vit": "less_vit_evaluation",
    "prediction_metrics": "less_vit_evaluation",
    "HeadRanks": "rala_ranks",
    "feature_rank": "rala_ranks",
    "kv_buffer_rank": "rala_ranks",
    "LowRankness": "rpcanet_diagnosis",
    "StageLowRankness": "rpcanet_diagnosis",
    "stage_low_rankness": "rpcanet_diagnosis",
    "stage_sparsity": "rpcanet_diagnosis",
    "PooledScores": "segmentation_metrics",
    "TargetROC": "segmentation_metrics",
    "TargetScores": "segmentation_metrics",
    "mae": "segmentation_metrics",
    "pd_fa": "segmentation_metrics",
    "pooled_iou_f1": "segmentation_metrics",
    "roc_targets": "segmentation_metrics",
    "s_measure": "segmentation_metrics",
    "MapError": "segmentation_torchmetrics",
    "PooledIoUF1": "segmentation_torchmetrics",
    "StructureMeasure": "segmentation_torchmetrics",
    "TargetDetection": "segmentation_torchmetrics",
    "RobustPCASegmenter": "segmenter",
    "SparseObjectSegmenter": "segmenter",
    "SegmentationReport": "segmentation_report",
    "SegmentedImage": "segmentation_report",
    "segment_images": "segmentation_report",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"fullrank.nn.{_LATER[name]}"), name)
