"""How a backbone is adapted to chirps, and what it predicts."""

from __future__ import annotations

from dataclasses import dataclass

from fullrank.fields.chirps.configuration import TARGETS, check_targets

_ADAPTATIONS = ("lora", "frozen", "full")
_LOSSES = ("mse", "huber", "gaussian")
_NORMALIZATIONS = ("backbone", "unit")
_POOLINGS = ("cls", "mean")


@dataclass(frozen=True)
class ChirpRegressorConfig:
    """How a backbone is adapted and what it predicts; the defaults are the paper's, except `normalize`.

    Args:
        backbone: kind of backbone; only "vit".
        lora_r: rank of LoRA. Default 8.
        lora_alpha: LoRA's numerator; the scale is alpha over rank. Default 16.
        lora_dropout: Default 0.1.
        lora_targets: names of the layers that LoRA changes; "auto" (default) finds query and value by structure.
        head_dims: widths of the head's hidden layers. Default (256, 128).
        targets: what is predicted, in this order: some of onset_time, onset_frequency, offset_frequency, duration.
        adaptation: "lora" (default); "frozen", only the head is trained; "full", everything is.
        normalize: "backbone" (default) shifts pictures in [0, 1] by the mean and deviation that ViT was trained with;
            "unit" leaves them in [0, 1], as the official script does.
        pooling: what the head reads: the "cls" token (default), or the "mean" of the patches.
        loss: "mse" (default), "huber", or "gaussian": the head predicts a variance for each number too.

    Raises:
        ValueError: a value that is not accepted.
    """

    backbone: str = "vit"
    lora_r: int = 8
    lora_alpha: int | float = 16
    lora_dropout: int | float = 0.1
    lora_targets: str | tuple[str, ...] = "auto"
    head_dims: tuple[int, ...] = (256, 128)
    targets: tuple[str, ...] = TARGETS
    adaptation: str = "lora"
    normalize: str = "backbone"
    pooling: str = "cls"
    loss: str = "mse"

    def __post_init__(self) -> None:
        for name in ("head_dims", "targets"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.lora_targets != "auto":
            if isinstance(self.lora_targets, str) or not self.lora_targets:
                raise ValueError(f"lora_targets={self.lora_targets!r}: use 'auto' or a tuple of layer names")
            object.__setattr__(self, "lora_targets", tuple(self.lora_targets))
        accepted = {"backbone": ("vit",), "adaptation": _ADAPTATIONS, "normalize": _NORMALIZATIONS}
        for name, values in (accepted | {"pooling": _POOLINGS, "loss": _LOSSES}).items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}={getattr(self, name)!r}: use one of {', '.join(map(repr, values))}")
        if self.lora_r < 1:
            raise ValueError(f"lora_r={self.lora_r}: a rank of at least 1 is needed; adaptation='frozen' does without")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout={self.lora_dropout}: use a probability in [0, 1)")
        if any(width < 1 for width in self.head_dims):
            raise ValueError(f"head_dims={self.head_dims}: widths of at least 1 are needed")
        check_targets(self.targets)
