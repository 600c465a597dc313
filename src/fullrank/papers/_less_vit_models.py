"""Networks that the study of LESS ViT compares: masked autoencoders of one Sentinel-2 scene, and their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullrank.papers._trial import Trial

HEADS, PATCH = 6, 4
#: Ten bands to train the probes with: those of 10 and 20 metres.
TEN_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


@dataclass(frozen=True)
class Size:
    """How large the networks are and how long they train."""

    steps: int
    batch: int
    dim: int
    depth: int
    decoder_dim: int
    decoder_depth: int
    side: int
    landsat: int
    rate: float

    @property
    def key(self) -> str:
        """Names what a pre-trained network depends on."""
        return f"{self.dim}x{self.depth}, {self.steps} steps of {self.batch} at {self.rate}, {self.side} px"


def masked_autoencoder(size: Size, seed: int) -> Any:
    """With the random weights of a seed."""
    import torch

    from fullrank.nn import LESSViTConfig, LESSViTForPreTraining

    torch.manual_seed(seed)
    return LESSViTForPreTraining(
        LESSViTConfig(
            hidden_size=size.dim,
            num_hidden_layers=size.depth,
            num_attention_heads=HEADS,
            patch_size=PATCH,
            attention_radius=None,  # a crop is smaller than the paper's field of 640 m
            decoder_hidden_size=size.decoder_dim,
            decoder_num_hidden_layers=size.decoder_depth,
            decoder_num_attention_heads=HEADS,
            modalities=["optical"],
        )
    )


def _train(trial: Trial, model: Any, size: Size, seed: int, about: str, rate: float, **inputs: Any) -> dict[str, Any]:
    """Train a masked autoencoder on random crops of the western part; its state."""
    import torch

    from fullrank.nn import LESSViTTraining, train_less_vit
    from fullrank.papers._sentinel_scene import sentinel_scene

    train, _ = sentinel_scene()
    generator = np.random.default_rng(seed)
    bands = inputs.pop("bands", slice(None))

    def batch(_: int) -> dict[str, Any]:
        crops = train.random_crops(size.batch, size.side, generator)
        return {"pixel_values": torch.from_numpy(crops[:, bands]), **inputs}

    def report(step: int, loss: float) -> None:
        trial.progress(step, size.steps, f"{about}, seed {seed}: loss {loss:.3f}")

    train_less_vit(model.to(trial.device), batch, LESSViTTraining(size.steps, rate), report)
    return model.state_dict()


def pretrained(trial: Trial, size: Size) -> dict[int, Any]:
    """The whole masked autoencoder after pre-training, by seed."""
    λ = list(sentinel().wavelengths)
    models = {seed: masked_autoencoder(size, seed) for seed in trial.seeds}
    plan = {
        f"Hyper-MAE {size.key} seed={seed}": partial(
            _train, trial, model, size, seed, "Hyper-MAE", size.rate, wavelengths=λ
        )
        for seed, model in models.items()
    }
    states = trial.all_tensors(plan, "pre-training Hyper-MAE")
    for model, state in zip(models.values(), states, strict=True):
        model.load_state_dict(state)
        model.to(trial.device).eval()
    return models


def sentinel() -> Any:
    from fullrank.nn import sensor

    return sensor("sentinel-2")


def all_bands() -> tuple[str, ...]:
    return sentinel().bands


def less_features(model: Any, images: NDArray[np.float32], bands: Sequence[str]) -> NDArray[np.float32]:
    """The CLS row: one row of features for every patch."""
    from fullrank.nn import LESSFeatureExtractor

    index, chosen = [all_bands().index(band) for band in bands], sentinel().select(bands)
    device = str(model.device)
    extractor = LESSFeatureExtractor(model.less_vit, chosen.wavelengths, pooling="patches", device=device)
    return extractor.fit_transform(images[:, index])


def stacked_vit(trial: Trial, size: Size, seed: int) -> Any:
    """A ViT of the same width and depth whose patch embedding stacks the ten bands, as a masked autoencoder."""
    import torch
    from torch import nn
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    torch.manual_seed(seed)
    model = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=size.side,
            patch_size=PATCH,
            num_channels=len(TEN_BANDS),
            hidden_size=size.dim,
            num_hidden_layers=size.depth,
            num_attention_heads=HEADS,
            intermediate_size=4 * size.dim,
            decoder_hidden_size=size.decoder_dim,
            decoder_num_hidden_layers=size.decoder_depth,
            decoder_num_attention_heads=HEADS,
            decoder_intermediate_size=4 * size.decoder_dim,
        )
    )
    bands = [all_bands().index(band) for band in TEN_BANDS]
    state = trial.tensors(
        f"stacked ViT {size.key} seed={seed}",
        lambda: _train(trial, model, size, seed, "stacked ViT", min(size.rate, 1e-3), bands=bands),
    )
    model.load_state_dict(state)
    return nn.Module.to(model, trial.device).eval()


def stacked_features(model: Any, fill: float, images: NDArray[np.float32], bands: Sequence[str]) -> NDArray[np.float32]:
    """Tokens of the patches, all of them visible and in order, `fill` standing for the bands that are missing."""
    import torch

    stacked = np.full((len(images), len(TEN_BANDS), *images.shape[2:]), fill, np.float32)
    for place, band in enumerate(TEN_BANDS):
        if band in bands:
            stacked[:, place] = images[:, all_bands().index(band)]
    patches = (images.shape[-1] // PATCH) * (images.shape[-2] // PATCH)
    noise = torch.arange(patches, device=model.device).expand(len(images), -1).float()
    model.config.mask_ratio = 0.0
    with torch.inference_mode():
        tokens = model.vit(torch.from_numpy(stacked).to(model.device), noise=noise).last_hidden_state
    return tokens[:, 1:].flatten(0, 1).float().cpu().numpy()
