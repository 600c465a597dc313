"""The picture of a window: its spectrogram with the sweeps drawn over it."""

from __future__ import annotations

from typing import Any

import numpy as np

from fullrank.fields.chirps.localizing import Chirp, WindowResult
from fullrank.fields.chirps.ridge import sweep_rows

_MARGIN = 0.025  # of the frequencies, left free between the lines and the ridge that they frame


def window_figure(Z: np.ndarray, window: WindowResult) -> Any:
    """Spectrogram in seconds and Hz; the network's sweep framed by solid lines, the ridge detector's by dashed ones.

    Args:
        Z: (n_freq, n_time) amplitude over the background.
        window: what was found in it.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots()
    extent = (window.start, window.start + window.length, 0.0, window.max_frequency)
    low, high = np.quantile(Z, (0.02, 0.999))
    image = axes.imshow(
        Z, aspect="auto", origin="lower", extent=extent, cmap="viridis", vmin=low, vmax=high, interpolation="bilinear"
    )
    for chirp, name, colour, style in (
        (window.network, "network", "white", "-"),
        (window.ridge, "ridge detector", "#ff9d5c", "--"),
    ):
        if chirp is not None:
            _frame(axes, chirp, name, colour, style, _MARGIN * window.max_frequency)
    axes.set(xlabel="time, s", ylabel="frequency, Hz", xlim=extent[:2], ylim=extent[2:])
    figure.colorbar(image, ax=axes, label="amplitude over background", pad=0.01)
    axes.legend(
        loc="upper right", fontsize=8, labelcolor="white", facecolor="#222222", framealpha=0.6, edgecolor="none"
    )
    return figure


def _frame(axes: Any, chirp: Chirp, name: str, colour: str, style: str, away: float) -> None:
    s = np.linspace(0, 1, 50)
    times = chirp.onset_time + s * chirp.duration
    middle = sweep_rows("linear", np.array([chirp.onset_frequency, chirp.offset_frequency]), s)
    for side in (-away, away):
        axes.plot(times, middle + side, style, color=colour, linewidth=1.1, label=name if side > 0 else None)
    axes.plot(times[0], chirp.onset_frequency, "|", color=colour, markersize=11)
