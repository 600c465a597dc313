"""Drawing spectrograms with chirps against the official route, and looking at them.

The official generator draws one spectrogram after the other, bin by bin, computes a 5 kHz waveform that it throws away,
renders a matplotlib figure and saves a PNG, which training decodes and resizes again. The peer here does those steps in
that order. Targets, on one core: at least 2,000 spectrograms of 128 x 128 a second; at least 100 times the official
route from nothing to what a network is given. Beside it: what the short-time Fourier mode and the ridge detector take.

    python benchmarks/chirps.py
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.signal import chirp

from _timing import alternate, seconds, show, timed
from fullrank.fields.chirps import ChirpSpectrogramConfig, generate_chirps, render_figure, ridge_baseline

OFFICIAL = ChirpSpectrogramConfig()
PEER, OURS = 8, 512  # spectrograms a run


def draw(rng: np.random.Generator) -> np.ndarray:
    """One spectrogram as the official code computes it: loops over bins and rows, and an unused waveform."""
    t0, d, f0 = rng.uniform(0, 45), rng.uniform(1, 15), rng.uniform(0, 100)
    f1 = np.clip(f0 + rng.uniform(-30, 30), 0, 100)
    chirp(np.arange(int(d * 5000)) / 5000, f0, d, f1)
    Z = np.zeros((128, 128))
    b0, length = int(t0 * 128 / 60), int(d * 128 / 60)
    k0, k1 = int(f0 * 1.28), int(f1 * 1.28)
    for b in range(b0, b0 + length):
        r = min(max(k0 + (k1 - k0) * (b - b0) / length, 0), 127)
        for f in range(int(r) - 2, int(r) + 3):
            if 0 <= f < 128:
                Z[f, b] += np.exp(-0.5 * (f - r) ** 2 / 0.5)
    return gaussian_filter(Z + rng.uniform(0.09, 0.3) * rng.standard_normal(Z.shape), 1)


def official_route(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Draw, render, save, read, resize."""
    found = []
    for _ in range(count):
        file = io.BytesIO()
        Image.fromarray(render_figure(draw(rng))).save(file, "png")
        with Image.open(file) as image:
            found.append(np.asarray(image.convert("RGB").resize((224, 224)), dtype=np.float32) / 255)
    return found


def per_second(count: int, time: float) -> str:
    return f"{count / time:,.0f}"


def generator() -> list[list[str]]:
    rng = np.random.default_rng(0)
    rows = []
    for name, peer in (("drawing alone", lambda: [draw(rng) for _ in range(PEER)]), ("whole route", None)):
        peer = peer or (lambda: official_route(rng, PEER))
        pairs = alternate(lambda: generate_chirps(OURS, OFFICIAL, 0), peer)
        ours, theirs = (np.array(times) for times in (pairs.ours, pairs.peer))
        ratios = (theirs / PEER) / (ours / OURS)
        rows.append(
            [
                name,
                per_second(OURS, float(np.median(ours))),
                per_second(PEER, float(np.median(theirs))),
                f"{np.median(ratios):.0f}x",
                f"{ratios.min():.0f}-{ratios.max():.0f}",
            ]
        )
    return rows


def detectors() -> list[list[str]]:
    rows = []
    for grid in (64, 128):
        plane, stft = (ChirpSpectrogramConfig(n_time=grid, n_freq=grid, domain=domain) for domain in ("plane", "stft"))
        Z, _ = generate_chirps(20, plane)
        generate_chirps(2, stft)
        ridge_baseline(Z[:1], plane)
        rows.append(
            [
                f"{grid} x {grid}",
                seconds(timed(lambda stft=stft: generate_chirps(20, stft)) / 20),
                seconds(timed(lambda Z=Z, plane=plane: ridge_baseline(Z, plane)) / 20),
            ]
        )
    return rows


def main() -> None:
    torch.set_num_threads(1)
    columns = ["128 x 128, one core", "ours a second", "official a second", "faster", "min-max"]
    show("spectrograms (targets 2,000 a second, 100x)", columns, generator())
    show("one spectrogram", ["grid", "waveform and transform", "ridge detector"], detectors())


if __name__ == "__main__":
    main()
