"""Layers and models with low rank built in: attention, factorised maps, unfolded decompositions.

What needs torch alone is here at once; a model that needs transformers loads with its first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fullrank.nn.axial_rotation import axial_frequencies, axial_rotation, rotate
from fullrank.nn.gated_attention import GatedAttention, GatedSoftmaxAttention
from fullrank.nn.lama import LAMA, LowRankMultiHeadAttentionPooling, head_redundancy, orthogonality_penalty
from fullrank.nn.rala import RankAugmentedLinearAttention, kv_buffer, positive_features, rala_attention, token_weights
from fullrank.nn.ravlt import RAVLT, RAVLTFeatures
from fullrank.nn.ravlt_checkpoint import load_official_state_dict
from fullrank.nn.ravlt_cost import MultiplyAdds, multiply_adds
from fullrank.nn.ravlt_sizes import ravlt_base, ravlt_large, ravlt_small, ravlt_tiny, register_with_timm

if TYPE_CHECKING:
    from fullrank.nn.rala_ranks import HeadRanks, feature_rank, kv_buffer_rank

__all__ = [
    "GatedAttention",
    "GatedSoftmaxAttention",
    "HeadRanks",
    "LAMA",
    "LowRankMultiHeadAttentionPooling",
    "MultiplyAdds",
    "RAVLT",
    "RAVLTFeatures",
    "RankAugmentedLinearAttention",
    "axial_frequencies",
    "axial_rotation",
    "feature_rank",
    "head_redundancy",
    "kv_buffer",
    "kv_buffer_rank",
    "load_official_state_dict",
    "multiply_adds",
    "orthogonality_penalty",
    "positive_features",
    "rala_attention",
    "ravlt_base",
    "ravlt_large",
    "ravlt_small",
    "ravlt_tiny",
    "register_with_timm",
    "rotate",
    "token_weights",
]

#: Names that load with their first use, by module.
_LATER: dict[str, str] = {
    "HeadRanks": "rala_ranks",
    "feature_rank": "rala_ranks",
    "kv_buffer_rank": "rala_ranks",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"fullrank.nn.{_LATER[name]}"), name)
