"""A vision transformer that reads a chirp's onset and frequencies off a spectrogram (Bahador and Lankarany 2025).

LoRA changes the query and value projections of every layer, and three linear layers on the final CLS token give the
standardised numbers. The backbone stays as it was.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Shaped
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel
from transformers.utils.generic import ModelOutput

from fullrank._files import write_bytes, write_json
from fullrank.fields.chirps.attention import masked_heads, query_value_targets
from fullrank.fields.chirps.configuration import ChirpSpectrogramConfig
from fullrank.fields.chirps.regressor_config import ChirpRegressorConfig
from fullrank.fields.chirps.scaling import LabelScaler

_BACKBONE_MEAN = _BACKBONE_STD = 0.5  # of ViT's image processor, every channel
_SETTINGS, _WEIGHTS, _ADAPTER = "chirp_regressor.json", "model.safetensors", "adapter_config.json"

_log = logging.getLogger(__name__)


@dataclass
class ChirpRegressionOutput(ModelOutput):
    """What a forward pass gives.

    Attributes:
        loss: where labels were given.
        logits: (batch, targets) standardised predictions.
        log_variance: (batch, targets) with the "gaussian" loss.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    log_variance: Tensor | None = None


class ViTForChirpRegression(nn.Module):
    """A vision transformer with an adapter and a regression head; make it with `from_backbone`.

    `vit` is an ordinary `PeftModel` where there is an adapter, so that `model.vit.save_pretrained`,
    `model.vit.print_trainable_parameters` and everything else that PEFT does work.

    Attributes:
        vit: the backbone, with its adapter.
        regression_head: linear layers with ReLU between them.
        config: what it was made with.
        scaler: of the labels; predictions in seconds and Hz need it.
        spectrogram: extents and grid of what it was trained on, or None.
    """

    def __init__(self, vit: nn.Module, config: ChirpRegressorConfig) -> None:
        super().__init__()
        self.vit, self.config = vit, config
        self.backbone_config: ViTConfig = cast(Any, vit).config
        outputs = len(config.targets) * (2 if config.loss == "gaussian" else 1)
        widths = [self.backbone_config.hidden_size, *config.head_dims, outputs]
        layers: list[nn.Module] = []
        for inside, out in pairwise(widths):
            layers += [nn.Linear(inside, out), nn.ReLU()]
        self.regression_head = nn.Sequential(*layers[:-1])
        self.scaler = LabelScaler(config.targets)
        self.spectrogram: ChirpSpectrogramConfig | None = None
        self._resized: set[tuple[int, int]] = set()

    @classmethod
    def from_backbone(
        cls,
        backbone: nn.Module | ViTConfig | str | Path,
        config: ChirpRegressorConfig | None = None,
        adapter: PeftConfig | None = None,
    ) -> ViTForChirpRegression:
        """Freeze a backbone, add an adapter, and put a new head on it.

        Args:
            backbone: a `ViTModel`, its configuration (random weights, without the pooler), or a Hugging Face folder.
            config: default the paper's.
            adapter: another adapter than LoRA, such as `fullrank.adapt.HydraConfig(target_modules=[...])`; without
                target_modules it takes `config.lora_targets`.

        Raises:
            ValueError: the layers to adapt are not there; the message lists those that are. Or an adapter beside an
                `adaptation` other than "lora".
        """
        config = config or ChirpRegressorConfig()
        if adapter is not None and config.adaptation != "lora":
            raise ValueError(
                f"adapter={type(adapter).__name__} beside adaptation={config.adaptation!r}: give one of them"
            )
        vit = _backbone(backbone)
        if config.adaptation == "lora":
            vit = _adapted(vit, config, adapter)
        else:
            vit.requires_grad_(config.adaptation == "full")
        if (pooler := getattr(vit, "pooler", None)) is not None and config.adaptation == "full":
            pooler.requires_grad_(False)  # nothing reads it
        return cls(vit, config)

    def forward(
        self, pixel_values: Float[Tensor, "batch *image"], labels: Float[Tensor, "batch targets"] | None = None
    ) -> ChirpRegressionOutput:
        """Predict, and with labels also the loss.

        Args:
            pixel_values: (batch, 3, height, width) normalised pictures, see `prepare`; one channel, or none, is
                repeated. Another size than the backbone's is resized, which is logged once.
            labels: standardised, in the order of `config.targets`.

        Raises:
            ValueError: another shape.
        """
        images = self._fit(pixel_values)
        hidden = self.vit(pixel_values=images).last_hidden_state
        features = hidden[:, 0] if self.config.pooling == "cls" else hidden[:, 1:].mean(1)
        found = self.regression_head(features)
        if self.config.loss != "gaussian":
            return ChirpRegressionOutput(loss=self._loss(found, labels), logits=found)
        logits, log_variance = found.chunk(2, dim=-1)
        return ChirpRegressionOutput(self._loss(logits, labels, log_variance), logits, log_variance)

    def prepare(self, Z: Shaped[np.ndarray | Tensor, "n *picture"]) -> Float[Tensor, "n 3 height width"]:
        """Spectrograms -> `pixel_values`: scaled to [0, 1], repeated, resized, normalised.

        Args:
            Z: (n, n_freq, n_time) spectrograms, each of which is scaled by its own range; or (n, 3, height, width)
                pictures, floating point in [0, 1] or bytes, such as those of `ChirpDataset(n, render="figure")`.

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        Z = torch.as_tensor(Z)
        if Z.ndim not in (3, 4):
            raise ValueError(f"Z has the shape {tuple(Z.shape)}: (n, n_freq, n_time) spectrograms are needed")
        if not torch.isfinite(Z).all():
            raise ValueError("Z has values that are NaN or infinite: finite spectrograms are needed")
        weight = next(self.regression_head.parameters())
        scale = 255 if Z.ndim == 4 and Z.dtype == torch.uint8 else 1
        Z = Z.to(weight.device, torch.float32) / scale
        if Z.ndim == 3:
            low, high = Z.amin((1, 2), keepdim=True), Z.amax((1, 2), keepdim=True)
            Z = (Z - low) / (high - low).clamp(min=torch.finfo(Z.dtype).tiny)
        images = self._fit(Z)
        if self.config.normalize == "backbone":
            images = (images - _BACKBONE_MEAN) / _BACKBONE_STD
        return images.to(weight.dtype)

    @torch.no_grad()
    def predict(
        self, Z: Shaped[np.ndarray | Tensor, "n *picture"], batch_size: int = 256
    ) -> Float[np.ndarray, "n targets"]:
        """Targets in seconds and Hz, in the order of `config.targets`.

        Args:
            Z: spectrograms, of the extents that the model was trained on.
            batch_size: spectrograms at once.

        Raises:
            ValueError: the model has no label scaler (it was not trained), or the spectrograms do not fit.
        """
        return self.scaler.inverse_transform(self.predict_standardised(Z, batch_size))

    @torch.no_grad()
    def predict_standardised(
        self, Z: Shaped[np.ndarray | Tensor, "n *picture"], batch_size: int = 256
    ) -> Float[np.ndarray, "n targets"]:
        """The same before the scale of the labels is put back."""
        training = self.training
        self.eval()
        try:
            parts = [self(self.prepare(Z[at : at + batch_size])).logits for at in range(0, len(Z), batch_size)]
        finally:
            self.train(training)
        if not parts:
            return np.empty((0, len(self.config.targets)))
        return torch.cat(parts).double().cpu().numpy()

    @torch.no_grad()
    def head_ablation(
        self, pixel_values: Float[Tensor, "batch *image"], labels: Float[Tensor, "batch targets"]
    ) -> Float[Tensor, "layers heads"]:
        """How much the loss rises when one attention head is removed; the model is as before afterwards.

        Args:
            pixel_values: see `forward`.
            labels: standardised.
        """
        layers, heads = self.backbone_config.num_hidden_layers, self.backbone_config.num_attention_heads
        training = self.training
        self.eval()
        rise = torch.zeros(layers, heads)
        try:
            whole = self(pixel_values, labels).loss
            for layer in range(layers):
                for head in range(heads):
                    with masked_heads(self.vit, [(layer, head)], heads):
                        rise[layer, head] = self(pixel_values, labels).loss - whole
        finally:
            self.train(training)
        return rise

    def merge(self) -> ViTForChirpRegression:
        """Merge the adapter into the backbone's weights, in place: inference costs what the plain ViT costs."""
        if isinstance(self.vit, PeftModel):
            self.vit = cast(nn.Module, self.vit.merge_and_unload())
            self.config = replace(self.config, adaptation="frozen")
        return self

    def trainable_parameters(self) -> dict[str, int]:
        """Numbers of trained parameters: of the adapter (or the whole backbone) and of the head."""
        counts = {"adapter": self.vit, "head": self.regression_head}
        return {name: sum(p.numel() for p in part.parameters() if p.requires_grad) for name, part in counts.items()}

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """Write a folder: all weights as safetensors, configurations and label scaler as JSON.

        Args:
            folder: made where it is missing.
            dtype: of the weights in the file; default as they are.

        Raises:
            OSError: the folder cannot be written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.detach().to("cpu", dtype).contiguous() for name, t in self.state_dict().items()}
        settings = {
            "config": asdict(self.config),
            "backbone": _plain_backbone_config(self.backbone_config),
            "pooler": any(name.startswith("pooler.") for name in _names_within(self.vit)),
            "scaler": None if self.scaler.mean is None else self.scaler.to_dict(),
            "spectrogram": None if self.spectrogram is None else self.spectrogram.to_dict(),
            "first_row": "0 Hz",
        }
        if isinstance(self.vit, PeftModel):
            self.vit.active_peft_config.save_pretrained(str(folder))
        else:
            (folder / _ADAPTER).unlink(missing_ok=True)
        write_bytes(folder / _WEIGHTS, save(tensors))
        write_json(folder / _SETTINGS, settings)
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ViTForChirpRegression:
        """Read what `save_pretrained` wrote; weights come as float32.

        Raises:
            FileNotFoundError: the folder or one of its files is missing.
            ValueError: a file is damaged or does not fit the others.
        """
        folder = Path(folder)
        for name in (_SETTINGS, _WEIGHTS):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} is no saved chirp regressor: {name} is missing")
        try:
            settings = json.loads((folder / _SETTINGS).read_text())
            config = ChirpRegressorConfig(**_with_tuples(settings["config"]))
            backbone = ViTConfig(**settings["backbone"])
            tensors = {name: tensor.float() for name, tensor in load((folder / _WEIGHTS).read_bytes()).items()}
        except (json.JSONDecodeError, KeyError, TypeError, SafetensorError) as error:
            raise ValueError(f"{folder} is no chirp regressor that can be read: {error}") from error
        adapter = None
        if (folder / _ADAPTER).is_file():
            adapter = PeftConfig.from_pretrained(str(folder))
            adapter.inference_mode = False
        vit = ViTModel(backbone, add_pooling_layer=bool(settings.get("pooler")))
        model = cls.from_backbone(vit, config, adapter)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"the weights in {folder / _WEIGHTS} do not fit its configuration: {error}") from error
        if settings.get("scaler"):
            model.scaler = LabelScaler.from_dict(settings["scaler"])
        if settings.get("spectrogram"):
            model.spectrogram = ChirpSpectrogramConfig.from_dict(settings["spectrogram"])
        return model.eval()

    def _fit(self, images: Tensor) -> Tensor:
        """(batch, channels of the backbone, its size, its size)."""
        if images.ndim == 3:
            images = images[:, None]
        channels, size = self.backbone_config.num_channels, _size(self.backbone_config)
        if images.ndim != 4 or images.shape[1] not in (1, channels):
            raise ValueError(
                f"pixel_values has the shape {tuple(images.shape)}: (batch, {channels}, height, width), one channel, "
                "or none is accepted"
            )
        given = (images.shape[2], images.shape[3])
        if given != size:
            if given not in self._resized:
                self._resized.add(given)
                _log.info("pictures of %s are resized to the %s of the backbone", given, size)
            images = nn.functional.interpolate(images, size, mode="bicubic", antialias=True)
        return images.expand(-1, channels, -1, -1)

    def _loss(self, logits: Tensor, labels: Tensor | None, log_variance: Tensor | None = None) -> Tensor | None:
        if labels is None:
            return None
        if labels.shape != logits.shape:
            raise ValueError(
                f"labels has the shape {tuple(labels.shape)}: {tuple(logits.shape)} is needed, a column for each of "
                f"{', '.join(self.config.targets)}"
            )
        labels = labels.to(logits.dtype)
        if log_variance is not None:
            return nn.functional.gaussian_nll_loss(logits, labels, log_variance.exp())
        return {"mse": nn.functional.mse_loss, "huber": nn.functional.huber_loss}[self.config.loss](logits, labels)


def _backbone(given: nn.Module | ViTConfig | str | Path) -> nn.Module:
    if isinstance(given, ViTConfig):
        return ViTModel(given, add_pooling_layer=False)
    if isinstance(given, str | Path):
        if not Path(given).is_dir():
            raise FileNotFoundError(f"{given} is no folder: a Hugging Face folder of a ViT is needed")
        return cast(nn.Module, ViTModel.from_pretrained(str(given), add_pooling_layer=False))
    return given


def _adapted(vit: nn.Module, config: ChirpRegressorConfig, adapter: PeftConfig | None) -> nn.Module:
    """The backbone as a PeftModel; everything but the adapter is frozen."""
    chosen: Any = adapter or LoraConfig(
        r=config.lora_r, lora_alpha=cast(int, config.lora_alpha), lora_dropout=config.lora_dropout, bias="none"
    )
    if chosen.target_modules is None:
        auto = config.lora_targets == "auto"
        chosen.target_modules = set(query_value_targets(vit) if auto else config.lora_targets)
    try:
        return get_peft_model(cast(Any, vit), chosen)
    except ValueError as error:
        if "arget modules" not in str(error) and "targeted" not in str(error):
            raise
        linear = sorted(name for name, module in vit.named_modules() if isinstance(module, nn.Linear))
        raise ValueError(
            f"lora_targets={sorted(chosen.target_modules)}: the backbone has no such layers; its linear layers are "
            f"{', '.join(linear)}"
        ) from error


def _with_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _names_within(vit: nn.Module) -> list[str]:
    base = vit.get_base_model() if isinstance(vit, PeftModel) else vit
    return [name for name, _ in base.named_parameters()]


def _plain_backbone_config(config: ViTConfig) -> Mapping[str, Any]:
    return {
        name: value for name, value in config.to_diff_dict().items() if name not in ("transformers_version", "dtype")
    }


def _size(config: ViTConfig) -> tuple[int, int]:
    size = config.image_size
    return (size, size) if isinstance(size, int) else (size[0], size[1])
