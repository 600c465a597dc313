"""Configuration of LESS ViT, and the two sizes of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fullrank._optional import require
from fullrank.nn.less_attention import RankReduce, check_head_split
from fullrank.nn.less_positions import Number

require("transformers", "adapt")

from transformers import PretrainedConfig  # noqa: E402

PositionEmbedding = Literal["sincos", "rotary"]


class LESSViTConfig(PretrainedConfig):
    """Configuration of `LESSViTModel` and of the models with heads; the defaults are LESS ViT-B.

    Args:
        hidden_size: D, width of the tokens. Default 768.
        num_hidden_layers: LESS blocks of the encoder. Default 12.
        num_attention_heads: h. Default 12.
        channel_head_dim: d_c, how much of a head's width belongs to the spectral branch. Default 2.
        rank: r, Kronecker products in every attention. Default 1.
        value_per_rank, rank_reduce, qk_norm, qkv_bias: options of `LESSAttention`.
        patch_size: p, pixels along a side of a patch. Default 16.
        mlp_ratio: hidden width of the MLPs over the width of the tokens. Default 4.
        layer_scale: where the layer scales start; None: none. Default 1.
        hidden_dropout_prob, attention_probs_dropout_prob: dropout. Default 0; the paper pre-trains with 0.1.
        drop_path_rate: stochastic depth of the last block; it grows linearly from zero. Default 0.
        layer_norm_eps: of every LayerNorm. Default 1e-6.
        initializer_range: standard deviation of the CLS and mask tokens at the start. Default 0.02.
        position_embedding: "sincos" adds wavelengths and metres to the tokens (the paper); "rotary" rotates queries
            and keys of both branches instead, as the later release does. Default "sincos".
        wavelength_range: with "rotary", the nanometres that are scaled to -1 and 1. Default 400 to 2500.
        scale_by_patch: with "sincos", count metres between patches, not pixels. Default False, as the authors' code.
        attention_radius: perception field in metres; None: every patch attends to every other. Default 640.
        pad: fill images up to whole patches with zeros instead of refusing them. Default False.
        modalities: kinds of sensors, each with a patch embedding of its own. Default optical and radar.
        decoder_hidden_size, decoder_num_hidden_layers, decoder_num_attention_heads, decoder_channel_head_dim: the
            decoder of Hyper-MAE. Default 512, 4 (as launched by the authors; their configuration says 8), 16 and 2.
        mask_ratio: share of hidden patches. Default 0.75.
        channel_mask_ratio: share of hidden channels. Default 0.5.
        norm_pix_loss: standardise every patch of the target. Default False, as the authors' runs.
        shared_patch_mask: with a perception field, hide the same patches in all images of a batch. Default True, as
            the authors; False costs one mask an image and varies more.
        modal_mode: which modalities are encoded: "multi" (all together), the name of one, "random" (one of these at
            every step), or "each" (the sum of the losses of all of these). What is not encoded is predicted all the
            same. Default "multi".

    Raises:
        ValueError: a size that does not divide, or an unknown choice.
    """

    model_type = "less_vit"

    def __init__(
        self,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        channel_head_dim: int = 2,
        rank: int = 1,
        value_per_rank: bool = False,
        rank_reduce: RankReduce = "sum",
        qk_norm: bool = False,
        qkv_bias: bool = True,
        patch_size: int = 16,
        mlp_ratio: Number = 4,
        layer_scale: Number | None = 1.0,
        hidden_dropout_prob: Number = 0.0,
        attention_probs_dropout_prob: Number = 0.0,
        drop_path_rate: Number = 0.0,
        layer_norm_eps: float = 1e-6,
        initializer_range: float = 0.02,
        position_embedding: PositionEmbedding = "sincos",
        wavelength_range: Sequence[Number] = (400, 2500),
        scale_by_patch: bool = False,
        attention_radius: Number | None = 640,
        pad: bool = False,
        modalities: Sequence[str] = ("optical", "radar"),
        decoder_hidden_size: int = 512,
        decoder_num_hidden_layers: int = 4,
        decoder_num_attention_heads: int = 16,
        decoder_channel_head_dim: int = 2,
        mask_ratio: Number = 0.75,
        channel_mask_ratio: Number = 0.5,
        norm_pix_loss: bool = False,
        shared_patch_mask: bool = True,
        modal_mode: str = "multi",
        **options: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.channel_head_dim = channel_head_dim
        self.rank = rank
        self.value_per_rank = value_per_rank
        self.rank_reduce = rank_reduce
        self.qk_norm = qk_norm
        self.qkv_bias = qkv_bias
        self.patch_size = patch_size
        self.mlp_ratio = mlp_ratio
        self.layer_scale = layer_scale
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.drop_path_rate = drop_path_rate
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        self.position_embedding = position_embedding
        self.wavelength_range = list(wavelength_range)
        self.scale_by_patch = scale_by_patch
        self.attention_radius = attention_radius
        self.pad = pad
        self.modalities = list(modalities)
        self.decoder_hidden_size = decoder_hidden_size
        self.decoder_num_hidden_layers = decoder_num_hidden_layers
        self.decoder_num_attention_heads = decoder_num_attention_heads
        self.decoder_channel_head_dim = decoder_channel_head_dim
        self.mask_ratio = mask_ratio
        self.channel_mask_ratio = channel_mask_ratio
        self.norm_pix_loss = norm_pix_loss
        self.shared_patch_mask = shared_patch_mask
        self.modal_mode = modal_mode
        self._check()
        super().__init__(**options)

    def _check(self) -> None:
        check_head_split(self.hidden_size, self.num_attention_heads, self.channel_head_dim)
        check_head_split(self.decoder_hidden_size, self.decoder_num_attention_heads, self.decoder_channel_head_dim)
        if self.patch_size < 1:
            raise ValueError(f"patch_size={self.patch_size}: a patch has at least one pixel")
        if self.position_embedding not in ("sincos", "rotary"):
            raise ValueError(f"position_embedding={self.position_embedding!r}: use 'sincos' or 'rotary'")
        if self.position_embedding == "rotary":
            check_rotation(self.hidden_size, self.num_attention_heads, self.channel_head_dim)
            check_rotation(self.decoder_hidden_size, self.decoder_num_attention_heads, self.decoder_channel_head_dim)
        for name in ("mask_ratio", "channel_mask_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: use a share in [0, 1)")
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise ValueError(f"modalities={self.modalities}: name every kind of sensor once")
        modes = ["multi", "random", "each", *self.modalities]
        if self.modal_mode not in modes:
            raise ValueError(f"modal_mode={self.modal_mode!r}: use one of {', '.join(modes)}")


def check_rotation(dim: int, num_heads: int, channel_head_dim: int) -> None:
    """Refuse widths of a head that cannot be rotated.

    Raises:
        ValueError: an odd spectral width, or a spatial one that is no multiple of four.
    """
    spatial = dim // (num_heads * channel_head_dim)
    if channel_head_dim % 2 or spatial % 4:
        raise ValueError(
            f"a head of {channel_head_dim} spectral and {spatial} spatial dimensions cannot be rotated: "
            "position_embedding='rotary' needs an even number and a multiple of 4"
        )


def less_vit_small_config(**options: Any) -> LESSViTConfig:
    """LESS ViT-S: width 384, 12 blocks, 6 heads; `options` are further fields of `LESSViTConfig`."""
    return LESSViTConfig(**{"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, **options})


def less_vit_base_config(**options: Any) -> LESSViTConfig:
    """LESS ViT-B: width 768, 12 blocks, 12 heads; `options` are further fields of `LESSViTConfig`."""
    return LESSViTConfig(**options)
