"""Generator, ridge detector, label scale and metrics: what the drawing promises, and what bad input meets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch.utils.data import DataLoader

from fullrank.fields.chirps import (
    LABELS,
    UNITS,
    ChirpDataset,
    ChirpSpectrogramConfig,
    LabelScaler,
    add_noise,
    describe,
    draw_ridges,
    export_png,
    find_ridge,
    generate_chirps,
    localization_report,
    pearson_per_target,
    read_png,
    render_figure,
    ridge_baseline,
    target_matrix,
    trivial_bounds,
)

SMALL = ChirpSpectrogramConfig(n_time=64, n_freq=64)
ALL = tuple(UNITS)


def one(onset=10.0, f0=20.0, f1=45.0, duration=9.3, kind="linear", noise=0.1):
    labels = np.zeros(1, LABELS)
    for name, value in zip(LABELS.names, (onset, f0, f1, duration, kind, noise), strict=True):
        labels[name] = value
    return labels


# --- the generator ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["plane", "stft"])
def test_the_same_seed_gives_the_same_arrays_however_many_at_once(domain):
    config = ChirpSpectrogramConfig(n_time=64, n_freq=32, domain=domain)
    Z, labels = generate_chirps(7, config, 3)
    again, _ = generate_chirps(7, config, np.random.default_rng(3))
    fewer, fewer_labels = generate_chirps(4, config, 3)
    np.testing.assert_array_equal(Z, again)
    np.testing.assert_allclose(Z[:4], fewer, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(labels[:4], fewer_labels)
    rng = np.random.default_rng(3)
    parts = [generate_chirps(count, config, rng)[0] for count in (3, 4)]
    np.testing.assert_allclose(np.concatenate(parts), Z, rtol=1e-6, atol=1e-6)
    assert Z.dtype == np.float32
    assert Z.shape == (7, 32, 64)


def test_an_example_does_not_depend_on_its_neighbours_or_on_workers():
    data = ChirpDataset(6, seed=5, config=SMALL, targets=("onset_time", "duration"))
    alone = [data[i] for i in range(6)]
    together, labels = data.batch(range(6))
    torch.testing.assert_close(torch.stack([Z for Z, _ in alone]), torch.from_numpy(together), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(labels, data.labels())
    y = torch.stack([y for _, y in alone]).numpy()
    np.testing.assert_array_equal(y, target_matrix(labels, ("onset_time", "duration")))
    # Python 3.12 warns of a fork beside threads, which PyTorch has.
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="spawn")
    loaded = torch.cat([Z for Z, _ in loader])
    torch.testing.assert_close(loaded, torch.from_numpy(together), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(data[-1][0], data[5][0])
    with pytest.raises(IndexError, match="index 6 of a data set of 6"):
        data[6]


def test_smoothing_is_that_of_scipy():
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.standard_normal((2, 20, 33)))
    for sigma in (0.7, 1.0, 2.5):
        found = add_noise(torch.zeros_like(noise), noise, torch.tensor([1.0, 0.5], dtype=torch.float64), sigma)
        for Z, field, level in zip(found, noise, (1, 0.5), strict=True):
            np.testing.assert_allclose(Z, gaussian_filter(level * field.numpy(), sigma), rtol=1e-10, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    onset=st.floats(0, 40), f0=st.floats(2, 98), f1=st.floats(2, 98), duration=st.floats(1, 15),
    kind=st.sampled_from(["linear", "exponential"]),
)  # fmt: skip
def test_ridges_follow_the_curve(onset, f0, f1, duration, kind):
    """Without noise and smoothing at most five rows of a column are not zero, within a bin of the analytic curve."""
    config = ChirpSpectrogramConfig()
    R = draw_ridges(one(onset, f0, f1, duration, kind), config, dtype=torch.float64)[0].numpy()
    columns = np.flatnonzero(R.any(axis=0))
    assert ((R > 0).sum(axis=0) <= 5).all()
    assert len(columns) == int(duration * 128 / 60)
    s = (columns - columns[0]) / len(columns)
    k0, k1 = int(f0 * 1.28), int(f1 * 1.28)
    curve = k0 + (k1 - k0) * s if kind == "linear" else k0 * (k1 / k0) ** s
    rows = (R[:, columns] * np.arange(128)[:, None]).sum(axis=0) / R[:, columns].sum(axis=0)
    assert np.abs(rows - curve).max() <= 1
    assert abs(rows[0] - f0 * 1.28) <= 1.1


def test_kinds_agree_at_the_onset_and_mirror():
    linear, exponential = (draw_ridges(one(kind=kind))[0] for kind in ("linear", "exponential"))
    first = int(10 * 128 / 60)
    torch.testing.assert_close(linear[:, first], exponential[:, first])
    rows = exponential.argmax(dim=0)[first : first + 19]
    assert (rows.diff() >= 0).all()
    # A falling sweep is the rising one upside down: k0 -> 127 - k0.
    rising = draw_ridges(one(f0=20.0, f1=45.0))[0]
    falling = draw_ridges(one(f0=(127 - 25 + 0.5) / 1.28, f1=(127 - 57 + 0.5) / 1.28))[0]
    torch.testing.assert_close(rising.flip(0), falling, rtol=0, atol=0.02)  # the five rows are not symmetric


def test_an_exponential_sweep_to_zero_drops_at_once():
    rows = draw_ridges(one(f0=30.0, f1=0.0, kind="exponential"))[0].argmax(dim=0)[21:40]
    assert rows[0] == 38
    assert (rows[1:] == 0).all()


def test_distribution_of_labels():
    labels = ChirpDataset(20_000, seed=1).labels()
    y = target_matrix(labels, ALL)
    np.testing.assert_allclose(y.mean(axis=0), [22.5, 50, 50, 8], rtol=0.03)
    np.testing.assert_allclose(y.std(axis=0), [12.99, 28.87, 31.0, 4.04], rtol=0.03)
    assert y[:, 0].min() >= 0
    assert y[:, 0].max() <= 45
    assert np.abs(y[:, 2] - y[:, 1]).max() <= 30
    assert (labels["kind"] == "linear").mean() == pytest.approx(0.5, abs=0.02)
    assert (y[:, 2] == 0).mean() == pytest.approx(0.075, abs=0.01)
    assert trivial_bounds(y, ALL)["offset from onset r"] == pytest.approx(0.86, abs=0.01)


def test_torch_and_no_spectrograms():
    Z, labels = generate_chirps(2, SMALL, 0, out="torch")
    assert isinstance(Z, torch.Tensor)
    np.testing.assert_array_equal(Z, generate_chirps(2, SMALL, 0)[0])
    Z, labels = generate_chirps(0, SMALL)
    assert Z.shape == (0, 64, 64)
    assert len(labels) == 0
    assert ChirpDataset(0, config=SMALL).batch([])[0].shape == (0, 64, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_time": 32}, "n_time=32 over duration=60.0 gives the shortest chirp of 1.0 s 0.53 time bins"),
        ({"duration": 0}, "duration=0: a positive number"),
        ({"duration": float("nan")}, "duration=nan: a positive number"),
        ({"max_band": -1}, "max_band=-1: a frequency in Hz of at least 0"),
        ({"max_chirp_duration": 61}, "max_chirp_duration=61: chirps last from min_chirp_duration=1.0 to duration=60.0"),
        ({"noise": (0.3, 0.1)}, r"noise=\(0.3, 0.1\): a lowest and a highest level"),
        ({"smooth_sigma": -1}, "smooth_sigma=-1: a number of bins"),
        ({"kinds": ("cubic",)}, r"kinds=\('cubic',\): some of linear, exponential are accepted"),
        ({"kinds": ()}, r"kinds=\(\): some of"),
        ({"domain": "wavelet"}, "domain='wavelet': use one of 'plane', 'stft'"),
    ],
)
def test_bad_configurations(unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        ChirpSpectrogramConfig(**options)


@pytest.mark.parametrize(
    ("chirp", "message"),
    [
        ({"onset": 55}, "onset_time=55 and duration=9.3 of chirp 0 reach from 55 to 64.3 s: .* from 0 to 60 s"),
        ({"onset": -1}, "onset_time=-1 and"),
        ({"f0": 101}, "onset_frequency=101 of chirp 0: 0 to max_frequency=100 Hz"),
        ({"f1": -2}, "offset_frequency=-2 of chirp 0"),
        ({"duration": 0}, "duration=0 of chirp 0: a positive number of seconds"),
        ({"duration": 0.3}, "duration=0.3 of chirp 0 is less than one time bin of 0.46875 s"),
        ({"kind": "cubic"}, "kind='cubic' of chirp 0: accepted are linear, exponential"),
        ({"f0": np.nan}, "onset_frequency=nan of chirp 0 is not finite"),
    ],
)
def test_chirps_that_cannot_be_drawn(chirp, message):
    with pytest.raises(ValueError, match=message):
        draw_ridges(one(**chirp))


def test_bad_requests(unchecked):
    with pytest.raises(ValueError, match="n=-1: a number of spectrograms"):
        generate_chirps(-1)
    with pytest.raises(ValueError, match="out='list': use 'array' or 'torch'"):
        generate_chirps(1, out="list")
    with pytest.raises(ValueError, match="device='meta': needs out='torch' and domain='plane'"):
        generate_chirps(1, device="meta")
    with pytest.raises(ValueError, match=r"targets=\('kind',\): some of onset_time"):
        ChirpDataset(3, targets=("kind",))
    with pytest.raises(ValueError, match="render='png': use 'array' or 'figure'"):
        ChirpDataset(3, render="png")


# --- pictures and tables in the official layout -----------------------------------------------------------------------


def test_pictures_go_out_and_come_in(tmp_path):
    data = ChirpDataset(2, seed=1, config=SMALL)
    assert data.export_png(tmp_path / "set") == tmp_path / "set"
    with pytest.raises(FileExistsError, match=r"has pictures or labels\.csv already"):
        export_png(data, tmp_path / "set")
    images, labels = read_png(tmp_path / "set", size=48)
    assert images.shape == (2, 3, 48, 48)
    np.testing.assert_allclose(target_matrix(labels, ALL), target_matrix(data.labels(), ALL))
    drawn, _ = ChirpDataset(2, seed=1, config=SMALL, render="figure")[0]
    assert drawn.shape == (3, 480, 640)
    assert abs(float(drawn.mean()) - float(images[0].mean())) < 0.01
    (tmp_path / "set" / "1.png").unlink()
    with pytest.raises(ValueError, match="2 labels and 1 pictures: number 1 has no picture"):
        read_png(tmp_path / "set")
    with pytest.raises(FileNotFoundError, match=r"0 \.csv files"):
        read_png(tmp_path)


def test_the_figure_has_axes_and_a_title():
    Z, _ = generate_chirps(1, SMALL)
    picture, without = render_figure(Z[0], SMALL, "linear", 7), render_figure(Z[0], SMALL)
    assert picture.shape == (480, 640, 3)
    assert (picture != without).any()


# --- the ridge detector -----------------------------------------------------------------------------------------------


def test_the_ridge_detector_finds_what_can_be_seen():
    Z, labels = generate_chirps(40, ChirpSpectrogramConfig(noise=(0.05, 0.1)), 2)
    y = target_matrix(labels, ALL)
    error = np.abs(ridge_baseline(Z, targets=ALL) - y)
    assert np.median(error[:, 0]) < 0.3
    assert np.median(error[:, 1]) < 0.6
    found = localization_report(ridge_baseline(Z), y[:, :3])
    assert found["onset_time"]["r"] > 0.99


@pytest.mark.parametrize("kind", ["linear", "exponential"])
def test_a_ridge_without_noise_is_found_exactly(kind):
    labels = one(f0=20.5, f1=45.5, kind=kind)
    ridge = find_ridge(draw_ridges(labels)[0].numpy(), ChirpSpectrogramConfig(smooth_sigma=0))
    assert (ridge.first, ridge.length) == (21, 19)
    assert ridge.onset_row == pytest.approx(26, abs=1)
    assert ridge.offset_row == pytest.approx(58, abs=1.5)
    assert ridge.kind == kind


@pytest.mark.parametrize(
    ("Z", "message"),
    [
        (np.zeros((1, 128, 128)), r"the spectrogram is constant \(0\)"),
        (np.full((1, 128, 128), np.nan), "NaN or infinite"),
        (np.zeros((1, 64, 128)), r"\(128, 128\) is needed"),
        (np.zeros((128, 128)), r"\(n, 128, 128\) is needed"),
    ],
)
def test_spectrograms_without_a_ridge(Z, message):
    with pytest.raises(ValueError, match=message):
        ridge_baseline(Z)


# --- label scale and metrics ------------------------------------------------------------------------------------------


def test_the_label_scale_round_trips_and_correlation_ignores_it():
    rng = np.random.default_rng(0)
    y = rng.uniform(0, 45, (50, 3)) * [1, 2, 3]
    scaler = LabelScaler(("a", "b", "c")).fit(y)
    z = scaler.transform(y)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(z.std(axis=0), 1)
    np.testing.assert_allclose(LabelScaler.from_dict(scaler.to_dict()).inverse_transform(z), y)
    predicted = y + rng.standard_normal(y.shape)
    np.testing.assert_allclose(pearson_per_target(predicted, y), pearson_per_target(scaler.transform(predicted), z))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([[1, 2], [2, 2]], "column 'f' of y is constant"),
        ([[1, 2], [np.nan, 3]], r"y\[1\] has nan in column 't'"),
        ([[1, 2, 3]], r"2 columns \(t, f\)"),
        ([], "are needed"),
    ],
)
def test_labels_that_cannot_be_scaled(y, message):
    with pytest.raises(ValueError, match=message):
        LabelScaler(("t", "f")).fit(np.array(y, dtype=float))


def test_a_scale_that_is_not_fitted():
    with pytest.raises(ValueError, match=r"no mean and standard deviation yet: call fit\(y\) first"):
        LabelScaler().inverse_transform(np.zeros((1, 3)))


def test_the_report():
    true = np.array([[1.0, 10, 20], [2, 30, 20], [3, 50, 60], [4, 20, 35]])
    predicted = true + np.array([0.5, 0, 0])
    report = localization_report(predicted, true)
    assert report["onset_time"] == pytest.approx(
        {"r": 1, "mae": 0.5, "bias": 0.5, "sd": 0, "q05": 0.5, "q25": 0.5, "q50": 0.5, "q75": 0.5, "q95": 0.5}
    )
    assert report["frequency_change"]["r"] == pytest.approx(1)
    assert set(trivial_bounds(true)) == {
        "onset_time mae", "onset_frequency mae", "offset_frequency mae", "offset from onset r"
    }  # fmt: skip
    assert trivial_bounds(true)["onset_time mae"] == 1
    assert describe(true[0]) == "Chirp with onset time 1.00 s, onset frequency 10.00 Hz, offset frequency 20.00 Hz."
    assert np.isnan(pearson_per_target(np.ones((3, 1)), true[:3, :1])).all()
    with pytest.raises(ValueError, match="the same"):
        pearson_per_target(true, true[:2])
    with pytest.raises(ValueError, match=r"predicted\[0\] is not finite"):
        pearson_per_target(true * np.nan, true)
    with pytest.raises(ValueError, match="at least two"):
        pearson_per_target(true[:1], true[:1])
