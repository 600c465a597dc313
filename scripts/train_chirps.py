"""Train the network that comes with `fullrank.fields.chirps` on generated spectrograms, and write its weights.

python scripts/train_chirps.py     a quarter of an hour on one core; writes src/fullrank/fields/chirps/weights

A small vision transformer (width 96, four layers) learns onset time, onset and offset frequency and duration from
spectrograms on a grid of 64 x 64: three quarters are drawn in the plane as in the paper, a quarter are transforms of
waveforms, since real signals come as those. Everything depends on the seed alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from fullrank._files import write_json
from fullrank.fields.chirps import (
    UNITS,
    ChirpRegressorConfig,
    ChirpSpectrogramConfig,
    ChirpTrainingSettings,
    StoredSpectrograms,
    ViTForChirpRegression,
    generate_chirps,
    localization_report,
    ridge_baseline,
    small_backbone,
    spectrogram_grid,
    target_matrix,
    train_regressor,
)
from fullrank.fields.chirps.localizing import score_of
from fullrank.fields.chirps.ridge import find_ridge

WEIGHTS = Path(__file__).parents[1] / "src" / "fullrank" / "fields" / "chirps" / "weights"
TARGETS = tuple(UNITS)
PLANE = ChirpSpectrogramConfig(n_time=64, n_freq=64)
STFT = ChirpSpectrogramConfig(n_time=64, n_freq=64, domain="stft")
TEST = 500  # of each domain
NOISE = 500  # windows without a chirp


def main() -> None:
    """Draw, train, report, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=48_000, help="spectrograms to train on")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    streams = np.random.default_rng(arguments.seed).spawn(4)
    torch.manual_seed(arguments.seed)
    model = train(arguments.count, arguments.epochs, arguments.seed, streams)
    for config, stream in zip((PLANE, STFT), streams[1:], strict=False):
        report(model, config, stream)
    scores = noise_scores(model, streams[3])
    print("score of white noise, 99 of 100 windows:", scores)
    model.save_pretrained(arguments.output, torch.float16)
    write_json(arguments.output / "noise_scores.json", scores)


def train(count: int, epochs: int, seed: int, streams: list[np.random.Generator]) -> ViTForChirpRegression:
    """The network, trained on a mixture of both domains."""
    parts = [generate_chirps(3 * count // 4, PLANE, streams[0]), generate_chirps(count // 4, STFT, streams[0])]
    Z = np.concatenate([spectrograms.astype(np.float16) for spectrograms, _ in parts])
    y = np.concatenate([target_matrix(labels, TARGETS) for _, labels in parts])
    config = ChirpRegressorConfig(adaptation="full", head_dims=(64, 32), targets=TARGETS)
    model = ViTForChirpRegression.from_backbone(small_backbone((PLANE.n_freq, PLANE.n_time)), config)
    model.spectrogram = PLANE
    settings = ChirpTrainingSettings(epochs=epochs, batch_size=64, learning_rate=1e-3, schedule="cosine", seed=seed)
    order = np.random.default_rng(seed).permutation(len(Z))
    held = order[: len(Z) // 50]
    say = lambda done, total, text: print(text, flush=True)  # noqa: E731
    train_regressor(model, StoredSpectrograms(Z, y), settings, (order[len(held) :], held, held), say)
    return model


def report(model: ViTForChirpRegression, config: ChirpSpectrogramConfig, stream: np.random.Generator) -> None:
    """Print how well new spectrograms are localised, the ridge detector beside."""
    Z, labels = generate_chirps(TEST, config, stream)
    y = target_matrix(labels, TARGETS)
    for name, predicted in (("network", model.predict(Z)), ("ridge", ridge_baseline(Z, config, TARGETS))):
        found = localization_report(predicted, y, TARGETS)
        numbers = ", ".join(f"{target} r {row['r']:.4f} mae {row['mae']:.2f}" for target, row in found.items())
        print(f"{config.domain}, {name}: {numbers}", flush=True)


def noise_scores(model: ViTForChirpRegression, stream: np.random.Generator) -> dict[str, float]:
    """What white noise without a chirp stays below in 99 of 100 windows."""
    fs = 2.56 * STFT.max_frequency
    noise = stream.standard_normal((NOISE, round(STFT.duration * fs)))
    Z = np.stack([spectrogram_grid(signal, fs, STFT) for signal in noise])
    network = [score_of(picture, STFT, *prediction) for picture, prediction in zip(Z, model.predict(Z), strict=True)]
    ridge = [find_ridge(picture, STFT).contrast for picture in Z]
    return {name: float(np.quantile(scores, 0.99)) for name, scores in (("network", network), ("ridge", ridge))}


if __name__ == "__main__":
    main()
