"""The loss that RPCANet and RPCANet++ are trained with."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fullrank.nn.masks import binary_mask
from fullrank.nn.rpcanet import RPCANetOutput


def soft_iou_loss(
    probability: Float[Tensor, "batch *image"], mask: Float[Tensor, "batch *image"], smooth: float = 1.0
) -> Float[Tensor, ""]:
    """1 - (sum p y + smooth) / (sum p + sum y - sum p y + smooth) of every image, their mean.

    Args:
        probability: of the object, in [0, 1].
        mask: 0 and 1; an image without object is allowed, and costs nothing where the probability is 0 too.
        smooth: added above and below.
    """
    p, y = probability.flatten(1), mask.flatten(1)
    intersection = (p * y).sum(1)
    union = p.sum(1) + y.sum(1) - intersection
    return (1 - (intersection + smooth) / (union + smooth)).mean()


class RPCALoss(nn.Module):
    """SoftIoU(sigma(T), mask) + fidelity_weight MSE(D, image): what the object is, and that the image is kept.

    Args:
        fidelity_weight: of the restored image. Default 0.01.
        smooth: of the soft IoU. Default 1.
        binarize: count every value of a mask above 0 as object. Default False.
    """

    def __init__(self, fidelity_weight: float = 0.01, smooth: float = 1.0, binarize: bool = False) -> None:
        super().__init__()
        self.fidelity_weight = fidelity_weight
        self.smooth = smooth
        self.binarize = binarize

    def forward(
        self,
        output: RPCANetOutput,
        image: Shaped[Tensor, "batch channels height width"],
        mask: Shaped[Tensor, "batch 1 height width"],
    ) -> Float[Tensor, ""]:
        """The loss.

        Args:
            output: of the model.
            image: what the model was given; integers are divided by 255, as a model with `normalize=True` does.
            mask: any dtype.

        Raises:
            ValueError: a mask of another shape, or with other values than 0 and 1 while `binarize` is False.
        """
        if mask.shape != output.object_logits.shape:
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}: {tuple(output.object_logits.shape)}, the object's, is accepted"
            )
        probability = torch.sigmoid(output.object_logits)
        y = binary_mask(mask, self.binarize).to(probability.dtype)
        image = image if image.is_floating_point() else image.to(output.restored.dtype) / 255
        fidelity = nn.functional.mse_loss(output.restored, image)
        return soft_iou_loss(probability, y, self.smooth) + self.fidelity_weight * fidelity
