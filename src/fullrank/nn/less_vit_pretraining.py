"""Hyper-MAE: pre-training by hiding patches and channels of the cube independently (Si et al. 2025, 2503.12843)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad

from fullrank._optional import require
from fullrank.nn.less_positions import Number
from fullrank.nn.less_vit import (
    LESSViTLayers,
    LESSViTModel,
    LESSViTPreTrainedModel,
    Scene,
    Wavelengths,
    as_masking,
)
from fullrank.nn.less_vit_configuration import LESSViTConfig
from fullrank.nn.less_vit_inputs import (
    WavelengthUnit,
    check_modality_sizes,
    check_resolution,
    check_wavelengths,
    finite_pixels,
    patchify,
    whole_patches,
)
from fullrank.nn.less_vit_loss import HyperMAELoss
from fullrank.nn.less_vit_masking import Masking

require("transformers", "adapt")

from transformers.utils.generic import ModelOutput  # noqa: E402

#: Channels that a mask leaves visible at least.
LEAST_CHANNELS = 2


@dataclass
class LESSViTForPreTrainingOutput(ModelOutput):
    """What a step of Hyper-MAE gives.

    Attributes:
        loss: of `HyperMAELoss`.
        reconstruction: predicted pixels, (batch, channels, patches, p²).
        target: what they are compared with.
        latent: the encoder's grid of visible channels and patches, with CLS.
        patch_mask, channel_mask: True where hidden.
        patch_ids_restore, channel_ids_restore: the inverse permutations.
    """

    loss: Tensor | None = None
    reconstruction: Tensor | None = None
    target: Tensor | None = None
    latent: Tensor | None = None
    patch_mask: Tensor | None = None
    channel_mask: Tensor | None = None
    patch_ids_restore: Tensor | None = None
    channel_ids_restore: Tensor | None = None


class HyperMAEDecoder(nn.Module):
    """Put mask tokens where something was hidden, and predict the pixels of every patch of every channel."""

    def __init__(self, config: LESSViTConfig) -> None:
        super().__init__()
        dim, pixels = config.decoder_hidden_size, config.patch_size**2
        self.modalities = tuple(config.modalities)
        self.embed = nn.Linear(config.hidden_size, dim)
        self.mask_token = nn.Parameter(torch.empty(dim))
        self.channel_mask_token = nn.Parameter(torch.empty(dim))
        self.spatial_mask_token = nn.Parameter(torch.empty(dim))
        self.layers = LESSViTLayers(
            config,
            dim,
            config.decoder_num_hidden_layers,
            config.decoder_num_attention_heads,
            config.decoder_channel_head_dim,
        )
        self.predict = nn.ModuleDict({name: nn.Linear(dim, pixels) for name in self.modalities})

    def forward(
        self,
        latent: Float[Tensor, "batch kept_channels kept_patches dim"],
        scene: Scene,
        channel_masking: Masking,
        patch_masking: Masking,
        modality_sizes: Sequence[int],
    ) -> Float[Tensor, "batch channels patches pixels"]:
        """The pixels of all channels and patches of the scene."""
        grid = self.embed(latent)
        batch, rows, _, dim = grid.shape
        hidden = patch_masking.ids_restore.shape[1] - patch_masking.visible
        fill = torch.stack([self.channel_mask_token, *[self.mask_token] * (rows - 1)]).to(grid.dtype)
        grid = patch_masking.restore_after_cls(grid, fill[None, :, None].expand(batch, rows, hidden, dim), axis=2)
        columns = grid.shape[2]
        hidden = channel_masking.ids_restore.shape[1] - channel_masking.visible
        fill = torch.stack([self.spatial_mask_token, *[self.mask_token] * (columns - 1)]).to(grid.dtype)
        grid = channel_masking.restore_after_cls(grid, fill.expand(batch, hidden, columns, dim), axis=1)
        grid, _ = self.layers(grid, scene)
        parts = grid[:, 1:, 1:].split(list(modality_sizes), dim=1)
        predicted = [
            self.predict[name](part) for name, part in zip(self.modalities, parts, strict=True) if part.shape[1]
        ]
        return torch.cat(predicted, dim=1)


class LESSViTForPreTraining(LESSViTPreTrainedModel):
    """Hyper-MAE: the encoder sees some patches of some channels, a decoder predicts all of them."""

    def __init__(self, config: LESSViTConfig) -> None:
        super().__init__(config)
        self.less_vit = LESSViTModel(config)
        self.decoder = HyperMAEDecoder(config)
        self.loss = HyperMAELoss(config.norm_pix_loss)
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
        generator: torch.Generator | None = None,
        return_dict: bool | None = None,
    ) -> LESSViTForPreTrainingOutput | tuple[Tensor, ...]:
        """One step; the arguments beyond these are those of `LESSViTModel`.

        Args:
            pixel_values: images of all modalities, those that are not encoded included.
            bool_masked_pos: True at the patches to hide. Default: drawn, `config.mask_ratio` of them.
            bool_masked_channels: True at the channels to hide. Default: drawn, `config.channel_mask_ratio` of those of
                the encoded modalities, and all others.
            nodata_mask: True at pixels without data, which count for nothing in the loss.
            generator: for the masks and the modality of "random", on the images' device.
        """
        config = self.config
        sizes = check_modality_sizes(modality_sizes, pixel_values.shape[1], config.modalities)
        λ = check_wavelengths(wavelengths, pixel_values, wavelength_unit)
        scene = Scene(λ, self.less_vit.grid_of(pixel_values), check_resolution(spatial_resolution))
        shown = whole_patches(finite_pixels(pixel_values, nodata_mask), config.patch_size, config.pad)
        patches = patchify(shown, config.patch_size)
        valid = self._valid(pixel_values, nodata_mask)
        patch_masking = as_masking(bool_masked_pos, patches.shape[::2], "bool_masked_pos")
        given = as_masking(bool_masked_channels, patches.shape[:2], "bool_masked_channels")
        modes = [] if given else self._modes(sizes, generator)
        passes = [given] if given else [self._channel_masking(mode, patches, sizes, generator) for mode in modes]
        outputs = [
            self._predict(
                shown, scene, sizes, channels, patch_masking or self._patch_masking(patches, generator), patches, valid
            )
            for channels in passes
        ]
        output = outputs[-1]
        output.loss = torch.stack([cast(Tensor, each.loss) for each in outputs]).sum()
        return output if return_dict is not False else output.to_tuple()

    def _predict(
        self,
        images: Tensor,
        scene: Scene,
        sizes: Sequence[int],
        channels: Masking,
        positions: Masking,
        patches: Tensor,
        valid: Tensor | None,
    ) -> LESSViTForPreTrainingOutput:
        """One pass: encode what is visible, predict everything."""
        encoded: Any = self.less_vit(images, scene.wavelengths, scene.resolution, sizes, positions, channels)
        latent, target = encoded.last_hidden_state, self.loss.target(patches)
        reconstruction = self.decoder(latent, scene, channels, positions, sizes)
        return LESSViTForPreTrainingOutput(
            loss=self.loss(reconstruction, target, positions.mask, channels.mask, sizes, valid),
            reconstruction=reconstruction,
            target=target,
            latent=latent,
            patch_mask=positions.mask,
            channel_mask=channels.mask,
            patch_ids_restore=positions.ids_restore,
            channel_ids_restore=channels.ids_restore,
        )

    def _valid(self, pixel_values: Tensor, nodata_mask: Tensor | None) -> Tensor | None:
        """Which pixels of the patches hold data; None: all."""
        p, (height, width) = self.config.patch_size, pixel_values.shape[-2:]
        if nodata_mask is None and height % p == width % p == 0:
            return None
        valid = torch.ones_like(pixel_values, dtype=torch.bool)
        if nodata_mask is not None:
            valid &= ~nodata_mask
        return patchify(pad(valid, (0, -width % p, 0, -height % p)), p)

    def _modes(self, sizes: Sequence[int], generator: torch.Generator | None = None) -> list[str]:
        """The modalities to encode, one entry for every pass."""
        present = [name for name, size in zip(self.config.modalities, sizes, strict=True) if size]
        modes = [*present, "multi"] if len(present) > 1 else ["multi"]
        mode = self.config.modal_mode
        if mode == "each":
            return modes
        if mode == "random":
            device = None if generator is None else generator.device
            return [modes[int(torch.randint(len(modes), (), generator=generator, device=device))]]
        if mode != "multi" and mode not in present:
            raise ValueError(f"modal_mode={mode!r}, but the images have channels of {', '.join(present)} only")
        return [mode]

    def _channel_masking(
        self, mode: str, patches: Tensor, sizes: Sequence[int], generator: torch.Generator | None
    ) -> Masking:
        batch, channels = patches.shape[:2]
        encoded = [mode in ("multi", name) for name in self.config.modalities]
        eligible = torch.tensor(encoded, device=patches.device).repeat_interleave(
            torch.tensor(sizes, device=patches.device)
        )
        count = sum(size for size, chosen in zip(sizes, encoded, strict=True) if chosen)
        visible = int(count * (1 - self.config.channel_mask_ratio))
        if count <= LEAST_CHANNELS:
            visible = count
        elif visible < LEAST_CHANNELS:
            visible = LEAST_CHANNELS
            warnings.warn(
                f"channel_mask_ratio={self.config.channel_mask_ratio} would leave fewer than {LEAST_CHANNELS} of "
                f"{count} channels visible: {visible} are kept",
                stacklevel=3,
            )
        noise = torch.rand(batch, channels, device=patches.device, generator=generator)
        return Masking.random(noise, visible, eligible)

    def _patch_masking(self, patches: Tensor, generator: torch.Generator | None) -> Masking:
        batch, count = patches.shape[0], patches.shape[2]
        shared = self.config.attention_radius is not None and self.config.shared_patch_mask
        noise = torch.rand(1 if shared else batch, count, device=patches.device, generator=generator)
        visible = max(int(count * (1 - self.config.mask_ratio)), 1)
        return Masking.random(noise.expand(batch, count), visible)
