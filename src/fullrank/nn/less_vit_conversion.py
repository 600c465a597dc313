"""Weights of the authors' code, renamed to ours: a block, an encoder, or encoder and decoder of Hyper-MAE."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

#: Patterns in the authors' names -> ours, applied in this order.
_NAMES = (
    (r"^encoder\.", "less_vit."),
    (r"\bdecoder_blocks\.", "layers.blocks."),
    (r"^(less_vit\.)?(blocks|norm)\.", r"\1encoder.\2."),
    (r"^(less_vit\.)?(optical|radar)_patch_embed\.proj\.0\.", r"\1embeddings.patch.\2.expand."),
    (r"^(less_vit\.)?(optical|radar)_patch_embed\.proj\.2\.", r"\1embeddings.patch.\2.project."),
    (r"^(less_vit\.)?cls_token$", r"\1embeddings.global_cls"),
    (r"^(less_vit\.)?(channel|spatial)_cls_token$", r"\1embeddings.\2_cls"),
    (r"^decoder\.decoder_embed\.", "decoder.embed."),
    (r"^decoder\.decoder_norm\.", "decoder.layers.norm."),
    (r"^decoder\.decoder_(optical|radar)_pred\.", r"decoder.predict.\1."),
    (r"\battn\.attn\.", "attn."),  # the later release keeps the pooling within the attention
    (r"\b(attn\.)?low_dim_pool\.", "attention.pooling."),
    (r"(?<!pooling\.)\b(attn\.)?(channel|spatial)_norm\.", r"attention.\2_branch.norm."),
    (r"\battn\.(channel|spatial)_branch\.", r"attention.\1_branch."),
    (r"\battn\.proj\.", "attention.output."),
    (r"_pool\.q\.", "_pool.query."),
    (r"_pool\.kv\.", "_pool.key_value."),
    (r"_pool\.proj\.", "_pool.output."),
    (r"_branch\.qk\.", "_branch.query_key."),
    (r"_branch\.v\.", "_branch.value."),
    (r"_branch\.q_norm\.", "_branch.query_norm."),
    (r"_branch\.k_norm\.", "_branch.key_norm."),
    (r"\bls([12])\.gamma$", r"scale\1"),
    (r"\bmlp\.fc1\.", "up."),
    (r"\bmlp\.fc2\.", "down."),
)


def less_vit_name(official: str) -> str:
    """Our name of a parameter of the authors' code; the two projections before the pooling share one name."""
    name = official
    for pattern, ours in _NAMES:
        name = re.sub(pattern, ours, name)
    return re.sub(r"(channel|spatial)_linear\.", "project.", name)


def convert_less_vit_state(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dictionary of the authors' code as `LESSBlock`, `LESSViTModel` or `LESSViTForPreTraining` loads it.

    The two projections before the pooling become one, kernels of the patch embedding become matrices, tokens vectors.

    Args:
        official: state dictionary of a LESS block of either release, or of the encoder or the whole Hyper-MAE of
            repository uiuctml/GeospatialFM.
    """
    state: dict[str, Tensor] = {}
    for name in sorted(official):  # channel_linear comes before spatial_linear
        ours, tensor = less_vit_name(name), official[name]
        if "_token" in name:
            tensor = tensor.flatten()
        elif "_patch_embed." in name and tensor.ndim > 1:
            tensor = tensor.flatten(1)
        state[ours] = torch.cat([state[ours], tensor]) if ours in state else tensor
    return state
