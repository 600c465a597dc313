"""Towards Scalable Foundation Model for Multi-modal and Hyperspectral Geospatial Data (LESS ViT)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullrank.papers import Claim, Paper, Trial
from fullrank.papers._repeats import mean_and_spread

_GFM = "pre-training on hyperspectral archives and GFM-Bench"

PAPER = Paper(
    slug="less-vit",
    title="Towards Scalable Foundation Model for Multi-modal and Hyperspectral Geospatial Data",
    authors=6,
    published="2025-03-17",
    arxiv="2503.12843",
    position=27,
    repository="https://github.com/uiuctml/GeospatialFM",
    topics=(
        "remote sensing",
        "vision",
        "attention",
    ),
    summary=(
        "A foundation model for satellite data with many bands: attention over all space-channel patches is "
        "approximated by a Kronecker product of a spatial and a spectral attention, each small. Continuous "
        "embeddings carry wavelength and position, a local mask limits the spatial view, and pretraining masks "
        "both patches and channels. A benchmark, GFM-Bench, comes with it."
    ),
    methods=(
        "fullrank.nn.LESSAttention",
        "fullrank.nn.LESSBlock",
        "fullrank.nn.ContinuousPositionChannelEmbedding",
        "fullrank.nn.perception_field_mask",
        "fullrank.nn.LESSViTConfig",
        "fullrank.nn.LESSViTModel",
        "fullrank.nn.LESSViTForPreTraining",
        "fullrank.nn.HyperMAELoss",
        "fullrank.nn.LESSViTForImageClassification",
        "fullrank.nn.LESSViTForSemanticSegmentation",
        "fullrank.nn.LESSFeatureExtractor",
        "fullrank.nn.SensorSpec",
        "fullrank.nn.sensor",
        "fullrank.nn.less_vit_small",
        "fullrank.nn.less_vit_base",
        "fullrank.nn.train_less_vit",
        "fullrank.nn.evaluate_less_vit",
        "fullrank.nn.convert_less_vit_state",
    ),
    usage="""\
import torch
from fullrank.nn import LESSViTConfig, LESSViTForPreTraining, LESSViTTraining, sensor, train_less_vit

sentinel = sensor("sentinel-2")                    # wavelengths in nanometres, metres per pixel, statistics
images = sentinel.scale(torch.rand(8, 13, 16, 16) * 4000)
config = LESSViTConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=6, patch_size=4, attention_radius=None,
                       decoder_hidden_size=48, decoder_num_hidden_layers=1, decoder_num_attention_heads=6)
model = LESSViTForPreTraining(config)              # hides 3/4 of the patches and half of the channels
batch = {"pixel_values": images, "wavelengths": sentinel.wavelengths, "spatial_resolution": sentinel.resolution}
losses = train_less_vit(model, lambda step: batch, LESSViTTraining(steps=5, learning_rate=1e-3))
print(losses[0], losses[-1])

encoder = model.less_vit.eval()                    # the same weights read another sensor, and any number of bands
four = encoder(torch.rand(1, 4, 12, 20), sensor("landsat-mss").wavelengths, spatial_resolution=80)
print(four.pooler_output.shape, four.spatial_tokens.shape, four.spectral_tokens.shape)
""",
    extra="adapt",
    notes=(
        "The code of the paper is one commit of a repository that went on to a reworked network, which is "
        "offered as the 2026 variant of the block. Rank 1 attention is the Kronecker product of a spatial and a"
        " spectral map."
    ),
    claims=(
        Claim(
            id="eurosat",
            says=(
                "EuroSAT, fine-tuned and linear probe: 98.06 and 95.12 (SatMAE 98.78 and 96.04, CROMA 98.83 and"
                " 95.87, SpectralGPT 97.94 and 90.57)."
            ),
            source="project page",
            paper_value={
                "SatMAE FT": 98.78,
                "SatMAE LP": 96.04,
                "CROMA FT": 98.83,
                "CROMA LP": 95.87,
                "SpectralGPT FT": 97.94,
                "SpectralGPT LP": 90.57,
                "LESS FT": 98.06,
                "LESS LP": 95.12,
            },
            unit="%",
            needs=_GFM,
        ),
        Claim(
            id="bigearthnet",
            says=(
                "BigEarthNet 10 %: mAP 86.08 and 82.94 (SatMAE 85.84 and 78.69, CROMA 87.57 and 84.90, "
                "SpectralGPT 83.78 and 73.29)."
            ),
            source="project page",
            paper_value={
                "SatMAE FT": 85.84,
                "SatMAE LP": 78.69,
                "CROMA FT": 87.57,
                "CROMA LP": 84.9,
                "SpectralGPT FT": 83.78,
                "SpectralGPT LP": 73.29,
                "LESS FT": 86.08,
                "LESS LP": 82.94,
            },
            unit="mAP",
            needs=_GFM,
        ),
        Claim(
            id="so2sat",
            says=(
                "So2Sat 10 %: 63.25 and 64.66 (SatMAE 64.97 and 64.65, CROMA 66.53 and 65.04, SpectralGPT 61.63"
                " and 57.49)."
            ),
            source="project page",
            paper_value={
                "SatMAE FT": 64.97,
                "SatMAE LP": 64.65,
                "CROMA FT": 66.53,
                "CROMA LP": 65.04,
                "SpectralGPT FT": 61.63,
                "SpectralGPT LP": 57.49,
                "LESS FT": 63.25,
                "LESS LP": 64.66,
            },
            unit="%",
            needs=_GFM,
        ),
        Claim(
            id="segmentation",
            says="Segmentation mIoU on SegMunich, DFC2020 and MARIDA: 42.29, 45.60, 55.64.",
            source="project page",
            paper_value={
                "SatMAE SegMunich": 44.87,
                "SatMAE DFC2020": 52.84,
                "SatMAE MARIDA": 54.33,
                "CROMA SegMunich": 39.61,
                "CROMA DFC2020": 49.48,
                "CROMA MARIDA": 43.04,
                "SpectralGPT SegMunich": 44.73,
                "SpectralGPT DFC2020": 48.23,
                "SpectralGPT MARIDA": 44.72,
                "LESS SegMunich": 42.29,
                "LESS DFC2020": 45.6,
                "LESS MARIDA": 55.64,
            },
            unit="mIoU",
            needs=_GFM,
        ),
        Claim(
            id="average",
            says="The average of the nine: 70.40 (SatMAE 71.22, CROMA 70.10, SpectralGPT 66.93).",
            source="project page",
            paper_value={"SatMAE": 71.22, "CROMA": 70.1, "SpectralGPT": 66.93, "LESS": 70.4},
            unit="%",
            needs=_GFM,
        ),
        Claim(
            id="cross-satellite",
            says=(
                "On another satellite (Landsat, 20 channels) mIoU is 24.31 against 18.05 (SatMAE) and 10.35 "
                "(Channel-ViT)."
            ),
            source="project page",
            paper_value={"SatMAE": 18.05, "Channel-ViT": 10.35, "LESS": 24.31},
            unit="mIoU",
            needs=_GFM,
        ),
        Claim(
            id="cost-landsat",
            says=(
                "There SatMAE costs 0.3, 0.6 and 0.3 times as much (fine-tuning, FLOPs, inference), Channel-ViT"
                " 2.6, 3.1 and 3.6 times."
            ),
            source="project page",
            paper_value={
                "SatMAE time": 0.3,
                "SatMAE FLOPs": 0.6,
                "SatMAE inference": 0.3,
                "Channel-ViT time": 2.6,
                "Channel-ViT FLOPs": 3.1,
                "Channel-ViT inference": 3.6,
            },
            unit="x",
            needs=_GFM,
        ),
        Claim(
            id="cost-bigearthnet",
            says="On BigEarthNet SatMAE costs 0.2, 0.6 and 0.1 times as much, Channel-ViT 3.3, 2.4 and 2.0 times.",
            source="project page",
            paper_value={
                "SatMAE time": 0.2,
                "SatMAE FLOPs": 0.6,
                "SatMAE inference": 0.1,
                "Channel-ViT time": 3.3,
                "Channel-ViT FLOPs": 2.4,
                "Channel-ViT inference": 2.0,
            },
            unit="x",
            needs=_GFM,
        ),
        Claim(
            id="latency-in-channels",
            says=(
                "Per token the latency at 200 channels is that at 10; Channel-ViT's is 12.5 times at 180 and "
                "out of memory at 200."
            ),
            source="repository of the later paper",
            paper_value={"LESS": 1.0, "ChannelViT at 180": 12.5},
            unit="x",
            holds=lambda m: m["LESS exponent"] < m["joint attention exponent"],
        ),
        Claim(
            id="cheaper-and-competitive",
            says="Overall competitive, better across satellites, cheaper.",
            source="abstract",
            unit="relative drop",
            holds=lambda m: m["LESS"] < m["stacked ViT"],
        ),
        Claim(
            id="masked-autoencoder-learns",
            says=(
                "The hyperspectral masked autoencoder predicts hidden patches and hidden channels better than "
                "the mean of the visible ones."
            ),
            source="method, at small scale",
            unit="error ratio",
            holds=lambda m: m["patches"] < 1 and m["channels"] < 1,
        ),
        Claim(
            id="pretraining-helps",
            says="A linear probe tells land uses apart better on the pre-trained encoder than on a random one.",
            source="linear probes on one Sentinel-2 scene",
            unit="% balanced accuracy",
            holds=lambda m: m["pre-trained"] > m["random"],
            kind="finding",
        ),
        Claim(
            id="reads-landsat",
            says=(
                "The encoder that was pre-trained on Sentinel-2 reads four bands of Landsat without a change, and "
                "serves a linear probe there at least as well as a random one."
            ),
            source="linear probes on Statlog Landsat",
            unit="% balanced accuracy",
            holds=lambda m: m["pre-trained"] >= m["random"],
            kind="finding",
        ),
    ),
)


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

    @property
    def key(self) -> str:
        """Names what a pre-trained network depends on."""
        return f"{self.dim}x{self.depth}, {self.steps} steps of {self.batch}, {self.side} px"


_HEADS, _PATCH = 6, 4
#: Ten bands to train the probes with: those of 10 and 20 metres.
_TEN = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
_FEWER = {
    8: ("B02", "B03", "B04", "B05", "B07", "B08", "B11", "B12"),
    6: ("B02", "B03", "B04", "B08", "B11", "B12"),
    4: ("B02", "B03", "B04", "B08"),
}


@PAPER.study
def study(trial: Trial) -> None:
    """Pre-train on one Sentinel-2 scene; probe land use with all, fewer and more bands, and on Landsat; time blocks."""
    size = trial.pick(
        smoke=Size(2, 4, 24, 2, 24, 1, 16, 60),
        quick=Size(300, 32, 96, 4, 48, 2, 16, 1500),
        full=Size(3000, 64, 384, 6, 192, 2, 32, 4435),
    )
    _cost(trial, size.dim)
    encoders = {seed: _pretrained(trial, size, seed) for seed in trial.seeds}
    _reconstruction(trial, size, encoders)
    _probes(trial, size, encoders)
    _landsat(trial, size, encoders)


# --- step 1: the masked autoencoder -----------------------------------------------------------------------------------


def _masked_autoencoder(size: Size, seed: int) -> Any:
    """With the random weights of a seed."""
    import torch

    from fullrank.nn import LESSViTConfig, LESSViTForPreTraining

    torch.manual_seed(seed)
    return LESSViTForPreTraining(
        LESSViTConfig(
            hidden_size=size.dim,
            num_hidden_layers=size.depth,
            num_attention_heads=_HEADS,
            patch_size=_PATCH,
            attention_radius=None,  # a crop is smaller than the paper's field of 640 m
            decoder_hidden_size=size.decoder_dim,
            decoder_num_hidden_layers=size.decoder_depth,
            decoder_num_attention_heads=_HEADS,
            modalities=["optical"],
        )
    )


def _train(trial: Trial, model: Any, size: Size, seed: int, about: str, **inputs: Any) -> dict[str, Any]:
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

    train_less_vit(model.to(trial.device), batch, LESSViTTraining(size.steps, 1e-3), report)
    return model.state_dict()


def _pretrained(trial: Trial, size: Size, seed: int) -> Any:
    """The whole masked autoencoder after pre-training."""
    model = _masked_autoencoder(size, seed)
    λ = list(_sentinel().wavelengths)
    state = trial.tensors(
        f"Hyper-MAE {size.key} seed={seed}", lambda: _train(trial, model, size, seed, "Hyper-MAE", wavelengths=λ)
    )
    model.load_state_dict(state)
    return model.to(trial.device).eval()


def _sentinel() -> Any:
    from fullrank.nn import sensor

    return sensor("sentinel-2")


def _reconstruction(trial: Trial, size: Size, encoders: dict[int, Any]) -> None:
    """Errors on the eastern part at hidden patches and in hidden channels, against means and a regression."""
    errors = [_errors(model, size, seed, trial.device) for seed, model in encoders.items()]
    mean = {name: float(np.mean([error[name] for error in errors])) for name in errors[0]}
    ratios = {
        "patches": [error["patches"] / error["patches: mean of the visible"] for error in errors],
        "channels": [error["channels"] / error["channels: mean of the visible"] for error in errors],
    }
    trial.measure("masked-autoencoder-learns", *mean_and_spread(ratios))
    trial.table("reconstruction", [{"squared error": name, "mean over seeds": value} for name, value in mean.items()])
    trial.note(
        "Mean squared errors of reflectance scaled to [0, 1], eastern strip. Hidden patches: in visible channels, "
        "against the mean of the visible patches of the same band. Hidden channels: at visible patches, against the "
        "mean of the visible channels at the same pixel; also against the band's mean over the training strip, and "
        "against a linear regression on the visible channels, fitted to the training pixels, which reaches "
        f"{mean['channels: linear regression']:.4f} where the autoencoder reaches {mean['channels']:.4f}."
    )


def _errors(model: Any, size: Size, seed: int, device: str) -> dict[str, float]:
    import torch

    from fullrank.nn.less_vit_inputs import patchify
    from fullrank.papers._sentinel_scene import sentinel_scene

    train, test = sentinel_scene()
    images = torch.from_numpy(test.tiles(size.side, _PATCH)[0]).to(device)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.inference_mode():
        output = model(images, _sentinel().wavelengths, generator=generator)
    pixels = patchify(images, _PATCH)
    squares = (output.reconstruction - pixels).square().mean(-1)
    patch_mask, channel_mask = output.patch_mask, output.channel_mask
    at_patches = ~channel_mask[:, :, None] & patch_mask[:, None]
    in_channels = channel_mask[:, :, None] & ~patch_mask[:, None]
    seen_patches = _mean(pixels, ~patch_mask[:, None, :, None], (2, 3))
    seen_channels = _mean(pixels, ~channel_mask[:, :, None, None], (1,))
    of_band = torch.from_numpy(train.images.mean((0, 2, 3))).to(device).view(1, -1, 1, 1)
    regressed = _regressed(train.images, pixels, channel_mask)

    def error(predicted: Any, where: Any) -> float:
        return float((predicted - pixels).square().mean(-1)[where].mean())

    return {
        "patches": float(squares[at_patches].mean()),
        "patches: mean of the visible": error(seen_patches, at_patches),
        "channels": float(squares[in_channels].mean()),
        "channels: mean of the visible": error(seen_channels, in_channels),
        "channels: mean of the band in training": error(of_band, in_channels),
        "channels: linear regression": error(regressed, in_channels),
        "both hidden": float(squares[channel_mask[:, :, None] & patch_mask[:, None]].mean()),
    }


def _mean(pixels: Any, visible: Any, axes: tuple[int, ...]) -> Any:
    """The mean of what is visible."""
    return (pixels * visible).sum(axes, keepdim=True) / visible.expand_as(pixels).sum(axes, keepdim=True)


def _regressed(images: NDArray[np.float32], pixels: Any, channel_mask: Any) -> Any:
    """Hidden channels of every image from its visible ones, by least squares on the training pixels."""
    import torch

    known = torch.from_numpy(images).movedim(1, 0).flatten(1).to(pixels.device)  # (13, pixels)
    predicted = torch.zeros_like(pixels)
    for image, mask in enumerate(channel_mask):
        ones = torch.ones_like(known[:1])
        seen = torch.cat([known[~mask], ones])
        weights = torch.linalg.lstsq(seen.mT, known[mask].mT).solution
        here = torch.cat([pixels[image][~mask], torch.ones_like(pixels[image][:1])])
        predicted[image, mask] = torch.einsum("vh,vnp->hnp", weights, here)
    return predicted


# --- steps 2 and 3: land use from all, fewer and more bands -----------------------------------------------------------


def _probes(trial: Trial, size: Size, encoders: dict[int, Any]) -> None:
    runs = [
        trial.step(f"probes {size.key} seed={seed}", partial(_probe_seed, trial, size, seed, model))
        for seed, model in encoders.items()
    ]
    names = list(runs[0]["accuracy"])
    accuracy, spread = mean_and_spread({name: [run["accuracy"][name] for run in runs] for name in names})
    trial.measure(
        "pretraining-helps",
        {"pre-trained": accuracy["LESS, 13 bands"], "random": accuracy["LESS random, 13 bands"]},
        {"pre-trained": spread["LESS, 13 bands"], "random": spread["LESS random, 13 bands"]},
    )
    drops = {name: [run["drop"][name] for run in runs] for name in runs[0]["drop"]}
    trial.measure("cheaper-and-competitive", *mean_and_spread({name: drops[name] for name in ("LESS", "stacked ViT")}))
    trial.table(
        "land-use",
        [{"probe": name, "balanced accuracy %": accuracy[name], "spread": spread[name]} for name in names],
    )
    mean, _ = mean_and_spread(drops)
    trial.note(
        "Land use of 4 x 4 pixel patches from linear probes on the frozen encoders: trained on the western strip with "
        "ten bands, tested on the eastern one with 8, 6 and 4 of them; the relative drop of the balanced accuracy is "
        f"averaged over these. LESS loses {mean['LESS']:.3f}, a ViT with stacked channels, pre-trained as a masked "
        f"autoencoder on the same crops for as many steps, {mean['stacked ViT']:.3f} where zeros stand for the missing "
        "bands, and "
        f"{mean['stacked ViT, mean-filled']:.3f} where their means do. With the three bands added that the probe never "
        f"saw, LESS has {accuracy['LESS, 10 + 3 bands']:.1f} % against {accuracy['LESS, 10 bands']:.1f} %. The eastern "
        "strip has no patch of one class and 8 of another, the same two at four dates: differences of a few points "
        "mean little."
    )
    _land_use_figure(trial, accuracy, spread)


def _probe_seed(trial: Trial, size: Size, seed: int, model: Any) -> dict[str, Any]:
    """Balanced accuracies of all probes of a seed, and relative drops with fewer bands."""
    random = _masked_autoencoder(size, seed).to(trial.device).eval()
    accuracy = {
        f"{name}, 13 bands": _probe(partial(_less_features, encoder), _all_bands(), (), size.side)[_all_bands()]
        for name, encoder in (("LESS", model), ("LESS random", random))
    }
    variants = (*_FEWER.values(), _all_bands())
    less = _probe(partial(_less_features, model), _TEN, variants, size.side)
    stacked = _stacked_vit(trial, size, seed)
    zero, mean = (
        _probe(partial(_stacked_features, stacked, fill), _TEN, variants[:-1], size.side) for fill in (0.0, 0.5)
    )
    drop = {}
    for name, found in (("LESS", less), ("stacked ViT", zero), ("stacked ViT, mean-filled", mean)):
        accuracy |= {f"{name}, {len(bands)} bands": found[bands] for bands in (_TEN, *_FEWER.values())}
        drop[name] = float(np.mean([1 - found[bands] / found[_TEN] for bands in _FEWER.values()]))
    accuracy["LESS, 10 + 3 bands"] = less[_all_bands()]
    return {"accuracy": accuracy, "drop": drop}


def _all_bands() -> tuple[str, ...]:
    return _sentinel().bands


Features = Callable[[NDArray[np.float32], Sequence[str]], NDArray[np.float32]]


def _probe(
    features: Features, bands: tuple[str, ...], variants: Sequence[tuple[str, ...]], side: int
) -> dict[tuple[str, ...], float]:
    """Balanced accuracy on the eastern strip with the bands that the probe was trained with and with others."""
    from fullrank.nn import LinearProbe, class_metrics
    from fullrank.papers._sentinel_scene import LAND_USES, sentinel_scene

    train, test = (part.tiles(side, _PATCH) for part in sentinel_scene())
    known, held = (np.isin(labels, LAND_USES).ravel() for _, labels in (train, test))
    probe = LinearProbe(C=0.1).fit(features(train[0], bands)[known], train[1].ravel()[known])
    truth = test[1].ravel()[held]
    return {
        chosen: class_metrics(probe.predict(features(test[0], chosen)[held]), truth)["balanced accuracy"]
        for chosen in (bands, *variants)
    }


def _less_features(model: Any, images: NDArray[np.float32], bands: Sequence[str]) -> NDArray[np.float32]:
    """The CLS row: one row of features for every patch."""
    from fullrank.nn import LESSFeatureExtractor

    index, chosen = [_all_bands().index(band) for band in bands], _sentinel().select(bands)
    device = str(model.device)
    extractor = LESSFeatureExtractor(model.less_vit, chosen.wavelengths, pooling="patches", device=device)
    return extractor.fit_transform(images[:, index])


def _stacked_vit(trial: Trial, size: Size, seed: int) -> Any:
    """A ViT of the same width and depth whose patch embedding stacks the ten bands, as a masked autoencoder."""
    import torch
    from torch import nn
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    torch.manual_seed(seed)
    model = ViTMAEForPreTraining(
        ViTMAEConfig(
            image_size=size.side,
            patch_size=_PATCH,
            num_channels=len(_TEN),
            hidden_size=size.dim,
            num_hidden_layers=size.depth,
            num_attention_heads=_HEADS,
            intermediate_size=4 * size.dim,
            decoder_hidden_size=size.decoder_dim,
            decoder_num_hidden_layers=size.decoder_depth,
            decoder_num_attention_heads=_HEADS,
            decoder_intermediate_size=4 * size.decoder_dim,
        )
    )
    bands = [_all_bands().index(band) for band in _TEN]
    state = trial.tensors(
        f"stacked ViT {size.key} seed={seed}", lambda: _train(trial, model, size, seed, "stacked ViT", bands=bands)
    )
    model.load_state_dict(state)
    return nn.Module.to(model, trial.device).eval()


def _stacked_features(
    model: Any, fill: float, images: NDArray[np.float32], bands: Sequence[str]
) -> NDArray[np.float32]:
    """Tokens of the patches, all of them visible and in order, `fill` standing for the bands that are missing."""
    import torch

    stacked = np.full((len(images), len(_TEN), *images.shape[2:]), fill, np.float32)
    for place, band in enumerate(_TEN):
        if band in bands:
            stacked[:, place] = images[:, _all_bands().index(band)]
    patches = (images.shape[-1] // _PATCH) * (images.shape[-2] // _PATCH)
    noise = torch.arange(patches, device=model.device).expand(len(images), -1).float()
    model.config.mask_ratio = 0.0
    with torch.inference_mode():
        tokens = model.vit(torch.from_numpy(stacked).to(model.device), noise=noise).last_hidden_state
    return tokens[:, 1:].flatten(0, 1).float().cpu().numpy()


# --- step 4: another sensor -------------------------------------------------------------------------------------------


def _landsat(trial: Trial, size: Size, encoders: dict[int, Any]) -> None:
    """Kinds of land in Landsat's four bands, 3 x 3 pixels of 80 m drawn as 12 x 12; the middle patch is probed."""
    runs = [
        trial.step(f"Landsat {size.key} {size.landsat} seed={seed}", partial(_landsat_seed, size, seed, model))
        for seed, model in encoders.items()
    ]
    scores = {name: [run[name] for run in runs] for name in runs[0]}
    trial.measure("reads-landsat", *mean_and_spread(scores))
    mean, _ = mean_and_spread(scores)
    trial.note(
        f"Statlog Landsat, {size.landsat} neighbourhoods, two thirds of them to train the probe: balanced accuracy "
        f"{mean['pre-trained']:.1f} % on the encoder pre-trained on Sentinel-2, {mean['random']:.1f} % on a random "
        "one. The four bands are wide ones of an old scanner, the pixels eight times as large as in pre-training."
    )


def _landsat_seed(size: Size, seed: int, model: Any) -> dict[str, float]:
    from fullrank.nn import LESSFeatureExtractor, LinearProbe, class_metrics, sensor

    images, labels = _neighbourhoods(size.landsat, seed)
    cut = len(labels) * 2 // 3
    landsat, scores = sensor("landsat-mss"), {}
    random = _masked_autoencoder(size, seed).to(model.device).eval()
    for name, encoder in (("pre-trained", model), ("random", random)):
        extractor = LESSFeatureExtractor(
            encoder.less_vit,
            landsat.wavelengths,
            landsat.resolution / _PATCH,
            pooling="patches",
            device=str(model.device),
        )
        middle = extractor.fit_transform(images).reshape(len(images), 9, -1)[:, 4]
        probe = LinearProbe(C=0.1).fit(middle[:cut], labels[:cut])
        scores[name] = class_metrics(probe.predict(middle[cut:]), labels[cut:])["balanced accuracy"]
    return scores


def _neighbourhoods(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.integer]]:
    """Images of (4, 12, 12), each pixel drawn as 4 x 4, scaled to [0, 1] by two deviations, in random order."""
    import torch

    from fullrank.data import load
    from fullrank.nn import scale_by_deviation

    records = list(load("statlog-landsat", "train"))
    order = np.random.default_rng(seed).permutation(len(records))[:count]
    pixels = np.stack([records[i]["pixels"] for i in order]).reshape(-1, 3, 3, 4).transpose(0, 3, 1, 2)
    drawn = pixels.repeat(_PATCH, axis=2).repeat(_PATCH, axis=3).astype(np.float32)
    return scale_by_deviation(torch.from_numpy(drawn)).numpy(), np.array([records[i]["class"] for i in order])


# --- step 5: what a block costs ---------------------------------------------------------------------------------------


def _cost(trial: Trial, dim: int) -> None:
    """Seconds of a block over the number of channels, and memory kept for its gradient, against joint attention."""
    plans = trial.pick(
        smoke={4: (2, 4, 8)},
        quick={16: (8, 16, 32, 64, 128, 256), 64: (8, 16, 32, 64)},
        full={16: (10, 20, 50, 100, 200), 64: (10, 20, 50, 100, 200)},
    )
    rows = []
    for patches, counts in plans.items():
        for channels in trial.track(counts, f"time of a block at {patches} patches"):
            key = f"cost dim={dim} patches={patches} channels={channels} {trial.device}"
            rows.append(trial.step(key, partial(_block_cost, dim, patches, channels, trial.device)))
    trial.table("cost-of-a-block", rows)
    smallest = min(plans)
    fewest = [row for row in rows if row["patches"] == smallest]
    ours, joint = (_exponent(fewest, name) for name in ("LESS", "joint attention"))
    trial.measure("latency-in-channels", {"LESS exponent": ours, "joint attention exponent": joint})
    widest = fewest[-1]
    trial.note(
        f"One block of width {dim}, forward, batch 1. At {smallest} patches its time grows as the power {ours:.2f} of "
        f"the number of channels, that of a block with joint attention over all tokens as {joint:.2f}. At "
        f"{widest['channels']} channels the latter takes {widest['joint attention ms'] / widest['LESS ms']:.1f} times "
        "as long. Latency of the whole image is not flat in the channels, for the tokens grow with them; the time per "
        "token is."
    )
    _cost_figure(trial, fewest)


def _exponent(rows: Sequence[dict[str, Any]], name: str) -> float:
    """Slope of log time over log channels, over the larger half of the channels."""
    times = [(row["channels"], row[f"{name} ms"]) for row in rows if row[f"{name} ms"] is not None]
    channels, milliseconds = np.log(np.array(times[len(times) // 2 - 1 :])).T
    return float(np.polyfit(channels, milliseconds, 1)[0])


def _block_cost(dim: int, patches: int, channels: int, device: str) -> dict[str, Any]:
    import torch
    from torch import nn

    from fullrank.nn import LESSBlock

    torch.manual_seed(0)
    less = LESSBlock(dim, _HEADS).to(device).eval()
    joint = nn.TransformerEncoderLayer(dim, _HEADS, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True).to(device)
    grid = torch.randn(1, channels + 1, patches + 1, dim, device=device)
    row: dict[str, Any] = {"patches": patches, "channels": channels}
    for name, block, inputs in (("LESS", less, grid), ("joint attention", joint, grid.flatten(1, 2))):
        try:
            row[f"{name} ms"] = _milliseconds(block, inputs)
            row[f"{name} MiB for the gradient"] = _kept(block, inputs) / 2**20
        except torch.OutOfMemoryError:
            row[f"{name} ms"] = row[f"{name} MiB for the gradient"] = None
    row["LESS us per token"] = 1000 * row["LESS ms"] / grid[..., 0].numel()
    return row


def _milliseconds(block: Any, inputs: Any) -> float:
    """The fastest of several runs without gradient: whatever else the machine does only slows one down."""
    import torch

    def once() -> float:
        began = time.perf_counter()
        block(inputs)
        if inputs.is_cuda:
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - began)

    with torch.inference_mode():
        first = once()
        return min(once() for _ in range(max(3, min(30, int(600 / max(first, 1))))))


def _kept(block: Any, inputs: Any) -> int:
    """Bytes that a forward pass keeps for the backward pass, the weights left out."""
    import torch

    weights = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = block(inputs.requires_grad_())
    del output
    inputs.requires_grad_(False)
    return sum(storages.values())


# --- figures ----------------------------------------------------------------------------------------------------------


def _land_use_figure(trial: Trial, accuracy: dict[str, float], spread: dict[str, float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    counts = [4, 6, 8, 10]
    for name, colour in (("LESS", "#0f766e"), ("stacked ViT", "#b45309"), ("stacked ViT, mean-filled", "#78716c")):
        keys = [f"{name}, {count} bands" for count in counts]
        axes.errorbar(
            counts,
            [accuracy[k] for k in keys],
            [spread[k] for k in keys],
            color=colour,
            marker="o",
            label=name,
            capsize=3,
        )
    axes.set(xlabel="bands at test time; the probes were trained with 10", ylabel="balanced accuracy, %", xticks=counts)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    trial.figure("land-use-by-bands", figure)


def _cost_figure(trial: Trial, rows: Sequence[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, colour in (("LESS", "#0f766e"), ("joint attention", "#b45309")):
        known = [row for row in rows if row[f"{name} ms"] is not None]
        axes.loglog([r["channels"] for r in known], [r[f"{name} ms"] for r in known], "o-", color=colour, label=name)
    axes.set(xlabel=f"channels, at {rows[0]['patches']} patches", ylabel="ms for one block")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    trial.figure("cost-by-channels", figure)
