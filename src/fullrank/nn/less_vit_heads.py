"""LESS ViT with a head: classes of whole images from the global CLS token, classes of pixels from the CLS row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, interpolate

from fullrank._optional import require
from fullrank.nn.less_positions import Number
from fullrank.nn.less_vit import LESSViTModel, LESSViTPreTrainedModel, Wavelengths
from fullrank.nn.less_vit_configuration import LESSViTConfig
from fullrank.nn.less_vit_evaluation import IGNORED
from fullrank.nn.less_vit_inputs import WavelengthUnit

require("transformers", "adapt")

from transformers import AutoModelForImageClassification, AutoModelForSemanticSegmentation  # noqa: E402
from transformers.models.upernet.modeling_upernet import UperNetHead  # noqa: E402
from transformers.utils.generic import ModelOutput  # noqa: E402


@dataclass
class LESSViTHeadOutput(ModelOutput):
    """What a model with a head gives.

    Attributes:
        loss: where labels were given.
        logits: (batch, classes), or (batch, classes, height, width) at the images' own resolution.
        hidden_states: the grids between the blocks, if asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class LESSViTForImageClassification(LESSViTPreTrainedModel):
    """A linear layer on the global CLS token.

    With `config.problem_type` "multi_label_classification" the labels are 0 or 1 for every class and the loss is binary
    cross-entropy; otherwise they are class numbers and the loss is cross-entropy.
    """

    def __init__(self, config: LESSViTConfig) -> None:
        super().__init__(config)
        self.less_vit = LESSViTModel(config)
        self.classifier = nn.Linear(config.hidden_size, cast(int, config.num_labels))
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "batch channels height width"],
        wavelengths: Wavelengths = None,
        spatial_resolution: Number = 10,
        modality_sizes: Sequence[int] | None = None,
        nodata_mask: Bool[Tensor, "batch _ height width"] | None = None,
        wavelength_unit: WavelengthUnit = "nm",
        labels: Int[Tensor, "batch"] | Float[Tensor, "batch classes"] | Int[Tensor, "batch classes"] | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> LESSViTHeadOutput | tuple[Tensor, ...]:
        """Logits, and the loss where `labels` are given; the other arguments are those of `LESSViTModel`."""
        encoded: Any = self.less_vit(
            pixel_values,
            wavelengths,
            spatial_resolution,
            modality_sizes,
            nodata_mask=nodata_mask,
            wavelength_unit=wavelength_unit,
            output_hidden_states=output_hidden_states,
        )
        logits = self.classifier(encoded.pooler_output)
        loss = None if labels is None else self._loss(logits, labels)
        output = LESSViTHeadOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)
        return output if return_dict is not False else output.to_tuple()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.problem_type != "multi_label_classification":
            return cross_entropy(logits.float(), labels)
        return binary_cross_entropy_with_logits(logits.float(), labels.float())


class LESSViTForSemanticSegmentation(LESSViTPreTrainedModel):
    """UPerNet on the CLS row at four depths of the encoder, as feature maps of 4, 2, 1 and 1/2 times its resolution.

    The labels are class numbers, (batch, height, width); -100 counts for nothing. UPerNet's batch normalisation needs
    batches of two images or more in training.

    Args:
        config: `config.upernet_hidden_size` (default 256) is the width of the head, `config.upernet_pool_scales`
            (default 1, 2, 3, 6) the grids of its pyramid.
    """

    def __init__(self, config: LESSViTConfig) -> None:
        super().__init__(config)
        self.less_vit = LESSViTModel(config)
        head = SimpleNamespace(
            hidden_size=getattr(config, "upernet_hidden_size", 256),
            pool_scales=tuple(getattr(config, "upernet_pool_scales", (1, 2, 3, 6))),
            num_labels=cast(int, config.num_labels),
        )
        self.decode_head = UperNetHead(head, in_channels=[config.hidden_size] * 4)
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "batch channels height width"],
        wavelengths: Wavelengths = None,
        spatial_resolution: Number = 10,
        modality_sizes: Sequence[int] | None = None,
        nodata_mask: Bool[Tensor, "batch _ height width"] | None = None,
        wavelength_unit: WavelengthUnit = "nm",
        labels: Int[Tensor, "batch height width"] | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> LESSViTHeadOutput | tuple[Tensor, ...]:
        """Logits of every pixel, and the loss where `labels` are given; the other arguments as in `LESSViTModel`."""
        encoded: Any = self.less_vit(
            pixel_values,
            wavelengths,
            spatial_resolution,
            modality_sizes,
            nodata_mask=nodata_mask,
            wavelength_unit=wavelength_unit,
            output_hidden_states=True,
        )
        p, sides = self.config.patch_size, pixel_values.shape[-2:]
        rows, columns = self.less_vit.grid_of(pixel_values)
        coarse = self.decode_head(self._feature_maps(encoded, rows, columns))
        logits = interpolate(coarse, size=(rows * p, columns * p), mode="bilinear", align_corners=False)
        logits = logits[..., : sides[0], : sides[1]]
        loss = None if labels is None else cross_entropy(logits.float(), labels, ignore_index=IGNORED)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = LESSViTHeadOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states if wanted else None)
        return output if return_dict is not False else output.to_tuple()

    def _feature_maps(self, encoded: Any, rows: int, columns: int) -> list[Tensor]:
        """The CLS row at a quarter, a half, three quarters and the whole of the depth, finest first."""
        states, depth = encoded.hidden_states, self.config.num_hidden_layers
        tokens = [states[max(depth * part // 4, 1)][:, 0, 1:] for part in (1, 2, 3)]
        maps = []
        for row, scale in zip([*tokens, encoded.spatial_tokens], (4, 2, 1, 0.5), strict=True):
            image = row.transpose(1, 2).unflatten(-1, (rows, columns))
            size = (max(round(rows * scale), 1), max(round(columns * scale), 1))
            maps.append(image if scale == 1 else interpolate(image, size=size, mode="bilinear", align_corners=False))
        return maps


AutoModelForImageClassification.register(LESSViTConfig, LESSViTForImageClassification, exist_ok=True)
AutoModelForSemanticSegmentation.register(LESSViTConfig, LESSViTForSemanticSegmentation, exist_ok=True)
