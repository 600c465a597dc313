"""LESS ViT: one encoder for images of any number of channels, given their wavelengths (Si et al. 2025, 2503.12843).

A token stands for one patch of one channel. Every channel goes through the same patch embedding; where the patch lies
and which wavelength it was taken at are added as sines, so that channels may be left out, added and reordered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn

from fullrank._optional import require
from fullrank.nn.less_attention import LESSBlock, xavier_linear
from fullrank.nn.less_positions import (
    ContinuousPositionChannelEmbedding,
    Grid,
    Number,
    perception_field_mask,
    spatial_rotation,
    spectral_rotation,
)
from fullrank.nn.less_vit_configuration import LESSViTConfig, less_vit_base_config, less_vit_small_config
from fullrank.nn.less_vit_inputs import (
    WavelengthUnit,
    check_modality_sizes,
    check_resolution,
    check_wavelengths,
    finite_pixels,
    patchify,
    whole_patches,
)
from fullrank.nn.less_vit_masking import Masking

require("transformers", "adapt")

from transformers import AutoConfig, AutoModel, PreTrainedModel  # noqa: E402
from transformers.utils.generic import ModelOutput  # noqa: E402

Wavelengths = Tensor | NDArray[Any] | Sequence[Number] | None


@dataclass
class LESSViTModelOutput(ModelOutput):
    """What the encoder gives.

    Attributes:
        last_hidden_state: the whole grid after the last LayerNorm, (batch, C + 1, N + 1, D); with masks, of the visible
            channels and patches.
        pooler_output: the global CLS token, (batch, D).
        spatial_tokens: the CLS row, which sums up the channels at every patch, (batch, N, D).
        spectral_tokens: the CLS column, which sums up the patches of every channel, (batch, C, D).
        hidden_states: the grids before the first and after every block, if asked for.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    spatial_tokens: Tensor | None = None
    spectral_tokens: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class TiedPatchEmbedding(nn.Module):
    """The same two layers for the patches of every channel: p² pixels to 2 D, ReLU, and 2 D to D."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.expand = nn.Linear(patch_size**2, 2 * dim)
        self.project = nn.Linear(2 * dim, dim)

    def forward(self, patches: Float[Tensor, "*batch pixels"]) -> Float[Tensor, "*batch dim"]:
        """One token for every patch."""
        return self.project(self.expand(patches).relu())


class LESSViTEmbeddings(nn.Module):
    """The grid of tokens with its CLS row, CLS column and, in the corner, its global CLS; without positions."""

    def __init__(self, config: LESSViTConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.modalities = tuple(config.modalities)
        self.patch = nn.ModuleDict({name: TiedPatchEmbedding(config.patch_size, dim) for name in self.modalities})
        self.global_cls = nn.Parameter(torch.empty(dim))
        self.channel_cls = nn.Parameter(torch.empty(dim))
        self.spatial_cls = nn.Parameter(torch.empty(dim))

    def forward(
        self, patches: Float[Tensor, "batch channels patches pixels"], modality_sizes: Sequence[int]
    ) -> Float[Tensor, "batch channels+1 patches+1 dim"]:
        """Embed the patches of all channels; `modality_sizes` are their numbers by modality."""
        parts = patches.split(list(modality_sizes), dim=1)
        embedded = [self.patch[name](part) for name, part in zip(self.modalities, parts, strict=True) if part.shape[1]]
        tokens = torch.cat(embedded, dim=1)
        batch, channels, count, dim = tokens.shape
        cls_row = self.channel_cls.to(tokens.dtype).expand(batch, 1, count, dim)
        cls_column = torch.cat([self.global_cls[None], self.spatial_cls.expand(channels, dim)]).to(tokens.dtype)
        grid = torch.cat([cls_row, tokens], dim=1)
        return torch.cat([cls_column[None, :, None].expand(batch, -1, 1, -1), grid], dim=2)


@dataclass(frozen=True)
class Scene:
    """Where the tokens of a batch are: what every stack of blocks needs to know beside the tokens.

    Attributes:
        wavelengths: nanometres, (channels,) or (batch, channels).
        grid: rows and columns of patches.
        resolution: metres per pixel.
    """

    wavelengths: Tensor
    grid: Grid
    resolution: float


class LESSViTLayers(nn.Module):
    """A stack of LESS blocks that knows positions: added as sines before the first, or rotated within each.

    Args:
        config: of the model.
        dim, depth, num_heads, channel_head_dim: of this stack.
    """

    def __init__(self, config: LESSViTConfig, dim: int, depth: int, num_heads: int, channel_head_dim: int) -> None:
        super().__init__()
        self.patch_size, self.radius = config.patch_size, config.attention_radius
        self.position_embedding, self.wavelength_range = config.position_embedding, config.wavelength_range
        self.head_dims = (channel_head_dim, dim // (num_heads * channel_head_dim))
        self.positions = None
        if config.position_embedding == "sincos":
            self.positions = ContinuousPositionChannelEmbedding(dim, config.scale_by_patch)
        self.blocks = nn.ModuleList(
            LESSBlock(
                dim,
                num_heads,
                channel_head_dim,
                mlp_ratio=config.mlp_ratio,
                layer_scale=config.layer_scale,
                dropout=config.hidden_dropout_prob,
                drop_path=config.drop_path_rate * index / max(depth - 1, 1),
                norm_eps=config.layer_norm_eps,
                rank=config.rank,
                value_per_rank=config.value_per_rank,
                rank_reduce=config.rank_reduce,
                qk_norm=config.qk_norm,
                qkv_bias=config.qkv_bias,
                attention_dropout=config.attention_probs_dropout_prob,
            )
            for index in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Tensor] | None = None

    def forward(
        self,
        tokens: Float[Tensor, "batch channels patches dim"],
        scene: Scene,
        channel_masking: Masking | None = None,
        patch_masking: Masking | None = None,
    ) -> tuple[Float[Tensor, "batch channels patches dim"], tuple[Tensor, ...]]:
        """The normed grid, and the grids before the first and after every block.

        The maskings say which of the scene's channels and patches `tokens` holds.
        """
        if self.positions is not None:
            E = self.positions(scene.wavelengths, scene.grid, scene.resolution, self.patch_size, tokens.dtype)
            tokens = tokens + _visible(E, len(tokens), channel_masking, patch_masking)
        mask = self._spatial_mask(scene, patch_masking, tokens.device)
        rotations = self._rotations(scene, channel_masking, patch_masking, len(tokens))
        states = [tokens]
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                checkpoint = cast(Callable[..., Tensor], self._gradient_checkpointing_func)
                tokens = checkpoint(block.__call__, tokens, mask, *rotations)
            else:
                tokens = block(tokens, mask, *rotations)
            states.append(tokens)
        return self.norm(tokens), tuple(states)

    def _spatial_mask(self, scene: Scene, masking: Masking | None, device: torch.device) -> Tensor | None:
        if self.radius is None:
            return None
        allowed = perception_field_mask(scene.grid, self.patch_size, scene.resolution, self.radius, device=device)
        return allowed if masking is None else masking.keep_pairs(allowed)

    def _rotations(
        self, scene: Scene, channels: Masking | None, patches: Masking | None, batch: int
    ) -> tuple[Any, Any]:
        """Cosines and sines for the spectral and the spatial branch; none where positions are added as sines."""
        if self.position_embedding != "rotary":
            return None, None
        low, high = self.wavelength_range
        spectral = spectral_rotation(scene.wavelengths, self.head_dims[0], (low, high))
        spatial = spatial_rotation(scene.grid, self.head_dims[1], device=scene.wavelengths.device)
        return (
            tuple(_visible_rotation(table, channels, batch) for table in spectral),
            tuple(_visible_rotation(table, patches, batch) for table in spatial),
        )


def _visible(E: Tensor, batch: int, channels: Masking | None, patches: Masking | None) -> Tensor:
    if E.ndim == 3:
        E = E[None]
    if channels is not None:
        E = channels.keep_after_cls(E.expand(batch, -1, -1, -1), axis=1)
    if patches is not None:
        E = patches.keep_after_cls(E.expand(batch, -1, -1, -1), axis=2)
    return E


def _visible_rotation(table: Tensor, masking: Masking | None, batch: int) -> Tensor:
    """A table of (tokens, dim) or (batch, tokens, dim) for queries of (batch, rank, heads, tokens, dim)."""
    if masking is not None:
        table = masking.keep_after_cls(table.expand(batch, *table.shape[-2:]), axis=1)
    return table[:, None, None] if table.ndim == 3 else table


class LESSViTPreTrainedModel(PreTrainedModel):
    """Weights, their initialisation, saving and loading, for every LESS ViT."""

    config_class = LESSViTConfig
    base_model_prefix = "less_vit"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LESSBlock"]  # noqa: RUF012 - the name and type that transformers reads

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Xavier-uniform linear maps with zero biases, layer scales at their start, CLS and mask tokens N(0, 0.02)."""
        if isinstance(module, nn.Linear):
            xavier_linear(module)
        elif isinstance(module, LESSBlock):
            for scale in (module.scale1, module.scale2):
                if scale is not None:
                    nn.init.constant_(scale, self.config.layer_scale)
        elif tokens := [p for p in module.parameters(recurse=False) if p.ndim == 1 and not _is_norm(module)]:
            for token in tokens:
                nn.init.normal_(token, std=self.config.initializer_range)
        else:
            super()._init_weights(module)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm | nn.BatchNorm2d | nn.Conv2d)


class LESSViTModel(LESSViTPreTrainedModel):
    """The encoder.

    Example:
        >>> config = LESSViTConfig(hidden_size=96, num_hidden_layers=2, num_attention_heads=6, patch_size=8)
        >>> model = LESSViTModel(config)
        >>> model(torch.rand(1, 4, 16, 32), wavelengths=[490, 560, 665, 842]).spatial_tokens.shape
        torch.Size([1, 8, 96])
    """

    def __init__(self, config: LESSViTConfig) -> None:
        super().__init__(config)
        self.embeddings = LESSViTEmbeddings(config)
        self.encoder = LESSViTLayers(
            config, config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.channel_head_dim
        )
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "batch channels height width"],
        wavelengths: Wavelengths = None,
        spatial_resolution: Number = 10,
        modality_sizes: Sequence[int] | None = None,
        bool_masked_pos: Bool[Tensor, "batch patches"] | Masking | None = None,
        bool_masked_channels: Bool[Tensor, "batch channels"] | Masking | None = None,
        nodata_mask: Bool[Tensor, "batch _ height width"] | None = None,
        wavelength_unit: WavelengthUnit = "nm",
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> LESSViTModelOutput | tuple[Tensor, ...]:
        """Encode images.

        Args:
            pixel_values: scaled images; channels of a modality stand together, in the order of `config.modalities`.
            wavelengths: central wavelength of every channel, (channels,), or (batch, channels) where the images differ.
            spatial_resolution: ρ, metres per pixel. Default 10.
            modality_sizes: channels of every modality. Default: all belong to the first.
            bool_masked_pos: True at patches that the encoder shall not see; or a `Masking`, which says their order too.
            bool_masked_channels: likewise for channels.
            nodata_mask: True at pixels without data, which are then read as zero.
            wavelength_unit: "nm", or "um" for micrometres. Default "nm".
            output_hidden_states: also return the grids between the blocks.
            return_dict: False gives a tuple.

        Raises:
            ValueError: see `less_vit_inputs`: sizes that do not fit, wavelengths missing or in another unit, NaN.
        """
        λ = check_wavelengths(wavelengths, pixel_values, wavelength_unit)
        resolution = check_resolution(spatial_resolution)
        images = whole_patches(finite_pixels(pixel_values, nodata_mask), self.config.patch_size, self.config.pad)
        sizes = check_modality_sizes(modality_sizes, images.shape[1], self.config.modalities)
        patches = patchify(images.to(self.dtype), self.config.patch_size)
        scene = Scene(λ, self.grid_of(images), resolution)
        patch_masking = as_masking(bool_masked_pos, patches.shape[::2], "bool_masked_pos")
        channel_masking = as_masking(bool_masked_channels, patches.shape[:2], "bool_masked_channels")
        if patch_masking is not None:
            patches = patch_masking.keep(patches, axis=2)  # hidden patches need no embedding
        tokens = self.embeddings(patches, sizes)
        if channel_masking is not None:
            tokens = channel_masking.keep_after_cls(tokens, axis=1)
        tokens, states = self.encoder(tokens, scene, channel_masking, patch_masking)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        output = LESSViTModelOutput(
            last_hidden_state=tokens,
            pooler_output=tokens[:, 0, 0],
            spatial_tokens=tokens[:, 0, 1:],
            spectral_tokens=tokens[:, 1:, 0],
            hidden_states=states if output_hidden_states else None,
        )
        return output if return_dict is not False else output.to_tuple()

    def grid_of(self, images: Tensor) -> Grid:
        """Rows and columns of patches of images; a last patch that would be padded counts."""
        height, width = images.shape[-2:]
        return -(-height // self.config.patch_size), -(-width // self.config.patch_size)


def as_masking(mask: Tensor | Masking | None, shape: Sequence[int], name: str) -> Masking | None:
    """A mask as a `Masking` of that shape.

    Raises:
        ValueError: another shape or type; see also `Masking.from_mask`.
    """
    if mask is None:
        return None
    found = mask.ids_restore.shape if isinstance(mask, Masking) else mask.shape
    if tuple(found) != tuple(shape):
        raise ValueError(f"{name} of shape {tuple(found)}: use {tuple(shape)}, one entry for every image and item")
    return mask if isinstance(mask, Masking) else Masking.from_mask(mask.bool(), name)


def less_vit_small(**options: Any) -> LESSViTModel:
    """LESS ViT-S with random weights: width 384, 12 blocks, 6 heads; `options` are fields of `LESSViTConfig`."""
    return LESSViTModel(less_vit_small_config(**options))


def less_vit_base(**options: Any) -> LESSViTModel:
    """LESS ViT-B with random weights: width 768, 12 blocks, 12 heads; `options` are fields of `LESSViTConfig`."""
    return LESSViTModel(less_vit_base_config(**options))


AutoConfig.register(LESSViTConfig.model_type, LESSViTConfig, exist_ok=True)
AutoModel.register(LESSViTConfig, LESSViTModel, exist_ok=True)
