"""Towards Scalable Foundation Model for Multi-modal and Hyperspectral Geospatial Data (LESS ViT)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fullrank.papers import Claim, Paper, Trial
from fullrank.papers._less_vit_cost import block_cost, exponent
from fullrank.papers._less_vit_errors import reconstruction_errors
from fullrank.papers._less_vit_models import (
    PATCH,
    TEN_BANDS,
    Size,
    all_bands,
    less_features,
    masked_autoencoder,
    pretrained,
    stacked_features,
    stacked_vit,
)
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
            holds=lambda m: m["LESS exponent"] <= 1.15 and m["LESS exponent"] < m["joint attention exponent"],
        ),
        Claim(
            id="cheaper-and-competitive",
            says="Overall competitive, better across satellites, cheaper.",
            source="abstract",
            needs=_GFM,
        ),
        Claim(
            id="missing-bands-cost-less",
            says=(
                "With 8, 6 and 4 of the ten bands that a linear probe was trained with, LESS loses a smaller share of "
                "its accuracy than a vision transformer (ViT) with stacked channels and zeros for the missing ones."
            ),
            source="abstract (better across satellites), at small scale",
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


_FEWER = {
    8: ("B02", "B03", "B04", "B05", "B07", "B08", "B11", "B12"),
    6: ("B02", "B03", "B04", "B08", "B11", "B12"),
    4: ("B02", "B03", "B04", "B08"),
}


@PAPER.study
def study(trial: Trial) -> None:
    """Pre-train on one Sentinel-2 scene; probe land use with all, fewer and more bands, and on Landsat; time blocks."""
    size = trial.pick(
        smoke=Size(2, 4, 24, 2, 24, 1, 16, 60, 1e-3),
        quick=Size(700, 16, 96, 4, 48, 1, 16, 1500, 4e-3),
        full=Size(5000, 64, 384, 6, 192, 2, 24, 4435, 5e-4),
    )
    with trial.one_thread():
        _cost(trial, size.dim)
        encoders = pretrained(trial, size)
        _reconstruction(trial, size, encoders)
        _probes(trial, size, encoders)
        _landsat(trial, size, encoders)


# --- step 1: the masked autoencoder -----------------------------------------------------------------------------------


def _reconstruction(trial: Trial, size: Size, encoders: dict[int, Any]) -> None:
    """Errors on the eastern part at hidden patches and in hidden channels, against means and a regression."""
    errors = [reconstruction_errors(model, size, seed, trial.device) for seed, model in encoders.items()]
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


# --- steps 2 and 3: land use from all, fewer and more bands -----------------------------------------------------------


def _probes(trial: Trial, size: Size, encoders: dict[int, Any]) -> None:
    plan = {
        f"probes {size.key} seed={seed}": partial(_probe_seed, trial, size, seed, model)
        for seed, model in encoders.items()
    }
    runs = trial.steps(plan, "probes of land use")
    names = list(runs[0]["accuracy"])
    accuracy, spread = mean_and_spread({name: [run["accuracy"][name] for run in runs] for name in names})
    trial.measure(
        "pretraining-helps",
        {"pre-trained": accuracy["LESS, 13 bands"], "random": accuracy["LESS random, 13 bands"]},
        {"pre-trained": spread["LESS, 13 bands"], "random": spread["LESS random, 13 bands"]},
    )
    drops = {name: [run["drop"][name] for run in runs] for name in runs[0]["drop"]}
    trial.measure("missing-bands-cost-less", *mean_and_spread({name: drops[name] for name in ("LESS", "stacked ViT")}))
    trial.table(
        "land-use",
        [{"probe": name, "balanced accuracy %": accuracy[name], "spread": spread[name]} for name in names],
    )
    mean, _ = mean_and_spread(drops)
    trial.note(
        "Land use of 4 x 4 pixel patches from linear probes on the frozen encoders: trained on the western strip with "
        "ten bands, tested on the eastern one with 8, 6 and 4 of them; the relative drop of the balanced accuracy is "
        f"averaged over these. LESS loses {mean['LESS']:.3f}, a ViT with stacked channels, pre-trained as a masked "
        "autoencoder on the same crops for as many steps at a rate of its own, "
        f"{mean['stacked ViT']:.3f} where zeros stand for the missing bands, and "
        f"{mean['stacked ViT, mean-filled']:.3f} where their means do. With the three bands added that the probe never "
        f"saw, LESS has {accuracy['LESS, 10 + 3 bands']:.1f} % against {accuracy['LESS, 10 bands']:.1f} %. The eastern "
        "strip has no patch of one class and 8 of another, the same two at four dates: differences of a few points "
        "mean little."
    )
    _land_use_figure(trial, accuracy, spread)


def _probe_seed(trial: Trial, size: Size, seed: int, model: Any) -> dict[str, Any]:
    """Balanced accuracies of all probes of a seed, and relative drops with fewer bands."""
    random = masked_autoencoder(size, seed).to(trial.device).eval()
    accuracy = {
        f"{name}, 13 bands": _probe(partial(less_features, encoder), all_bands(), (), size.side)[all_bands()]
        for name, encoder in (("LESS", model), ("LESS random", random))
    }
    variants = (*_FEWER.values(), all_bands())
    less = _probe(partial(less_features, model), TEN_BANDS, variants, size.side)
    stacked = stacked_vit(trial, size, seed)
    zero, mean = (
        _probe(partial(stacked_features, stacked, fill), TEN_BANDS, variants[:-1], size.side) for fill in (0.0, 0.5)
    )
    drop = {}
    for name, found in (("LESS", less), ("stacked ViT", zero), ("stacked ViT, mean-filled", mean)):
        accuracy |= {f"{name}, {len(bands)} bands": found[bands] for bands in (TEN_BANDS, *_FEWER.values())}
        drop[name] = float(np.mean([1 - found[bands] / found[TEN_BANDS] for bands in _FEWER.values()]))
    accuracy["LESS, 10 + 3 bands"] = less[all_bands()]
    return {"accuracy": accuracy, "drop": drop}


Features = Callable[[NDArray[np.float32], Sequence[str]], NDArray[np.float32]]


def _probe(
    features: Features, bands: tuple[str, ...], variants: Sequence[tuple[str, ...]], side: int
) -> dict[tuple[str, ...], float]:
    """Balanced accuracy on the eastern strip with the bands that the probe was trained with and with others."""
    from fullrank.nn import LinearProbe, class_metrics
    from fullrank.papers._sentinel_scene import LAND_USES, sentinel_scene

    train, test = (part.tiles(side, PATCH) for part in sentinel_scene())
    known, held = (np.isin(labels, LAND_USES).ravel() for _, labels in (train, test))
    probe = LinearProbe(C=0.1).fit(features(train[0], bands)[known], train[1].ravel()[known])
    truth = test[1].ravel()[held]
    return {
        chosen: class_metrics(probe.predict(features(test[0], chosen)[held]), truth)["balanced accuracy"]
        for chosen in (bands, *variants)
    }


# --- step 4: another sensor -------------------------------------------------------------------------------------------


def _landsat(trial: Trial, size: Size, encoders: dict[int, Any]) -> None:
    """Kinds of land in Landsat's four bands, 3 x 3 pixels of 80 m drawn as 12 x 12; the middle patch is probed."""
    plan = {
        f"Landsat {size.key} {size.landsat} seed={seed}": partial(_landsat_seed, size, seed, model)
        for seed, model in encoders.items()
    }
    runs = trial.steps(plan, "probes on Landsat")
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
    random = masked_autoencoder(size, seed).to(model.device).eval()
    for name, encoder in (("pre-trained", model), ("random", random)):
        extractor = LESSFeatureExtractor(
            encoder.less_vit,
            landsat.wavelengths,
            landsat.resolution / PATCH,
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
    drawn = pixels.repeat(PATCH, axis=2).repeat(PATCH, axis=3).astype(np.float32)
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
            rows.append(trial.step(key, partial(block_cost, dim, patches, channels, trial.device)))
    trial.table("cost-of-a-block", rows)
    smallest = min(plans)
    fewest = [row for row in rows if row["patches"] == smallest]
    ours, joint = (exponent(fewest, name) for name in ("LESS", "joint attention"))
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
