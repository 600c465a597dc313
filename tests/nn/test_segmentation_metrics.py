"""Segmentation metrics: the authors' numbers, scikit-learn's, counts by hand, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from fullrank.nn.segmentation_metrics import mae, pd_fa, pooled_iou_f1, roc_targets, s_measure
from fullrank.nn.segmentation_torchmetrics import MapError, PooledIoUF1, StructureMeasure, TargetDetection


@pytest.mark.golden("rpcanet")
def test_golden_metrics(case):
    if not case.spec["what"].startswith("Segmentation metrics"):
        assert "model" in case.spec
        return
    tensors = case.tensors
    given = tensors["prediction"], tensors["mask"]
    scores = pooled_iou_f1(*given, protocol="official")._asdict()
    scores |= pd_fa(*given, protocol="official")._asdict()
    scores |= {"s_measure": s_measure(*given), "mae": mae(*given)}
    tolerance = case.spec["tolerance"]
    assert set(scores) == set(tensors) - {"prediction", "mask"}
    for name, value in scores.items():
        assert value == pytest.approx(float(tensors[name]), rel=tolerance["rtol"], abs=tolerance["atol"]), name


def maps(seed, images=3, size=12):
    random = np.random.default_rng(seed)
    return random.random((images, size, size + 2)), (random.random((images, size, size + 2)) > 0.7).astype(float)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
def test_fixed_threshold_agrees_with_scikit_learn(seed, threshold):
    p, y = maps(seed)
    flat = y.ravel(), (p > threshold).ravel()
    expected = [score(*flat, zero_division=0) for score in (jaccard_score, precision_score, recall_score, f1_score)]
    assert pooled_iou_f1(p, y, threshold=threshold) == pytest.approx(expected)


def test_the_official_protocol_is_blind_to_confidence():
    p, y = maps(0)
    assert pooled_iou_f1(p / 4, y, protocol="official") == pooled_iou_f1(p, y, protocol="official")
    assert pooled_iou_f1(p / 4, y).recall == 0
    assert pooled_iou_f1(0 * p, y, protocol="official") == (0, 0, 0, 0)


def two_targets():
    """Two diagonal neighbours are one target of 8 neighbours; beside them a single pixel far away."""
    y = np.zeros((10, 10))
    y[2, 2] = y[3, 3] = y[8, 8] = 1
    p = np.zeros((10, 10))
    p[3, 3] = p[5, 0] = p[5, 1] = 0.9
    return p, y


def test_targets_by_hand():
    p, y = two_targets()
    assert pd_fa(p, y) == (1 / 2, 2 / 97)
    assert pd_fa(p, y, connectivity=4) == (1 / 3, 2 / 97)
    assert pd_fa(p, y, match="centroid3") == (1 / 2, 2 / 100)
    y[2, 2] = 0  # now a pixel two rows off
    p[3, 3], p[1, 3] = 0, 0.9
    assert pd_fa(p, y).pd == 0
    assert pd_fa(p, y, match="centroid3") == (1 / 2, 2 / 100)


def test_images_without_targets():
    p, y = two_targets()
    empty = np.zeros_like(y)
    assert pd_fa([p, p], [y, empty]) == pd_fa(p, y)
    assert pd_fa([p, p], [y, empty], match="centroid3").fa == (2 + 3) / 200
    assert all(math.isnan(rate) for rate in pd_fa(p, empty))
    assert s_measure(empty, empty) == 1
    assert s_measure(empty + 1, empty + 1) == 1
    with pytest.raises(ValueError, match="mask has no object in any image"):
        roc_targets(p, empty)


def test_roc_follows_the_rates():
    p, y = maps(3)
    roc = roc_targets(p, y, thresholds=21)
    for threshold, pd, fa in zip(roc.thresholds, roc.pd, roc.fa, strict=True):
        assert pd_fa(p, y, threshold=threshold) == pytest.approx((pd, fa))
    assert 0 <= roc.auc <= 1
    assert roc_targets(y * 0.9 + 0.05, y, [0.2, 0.5, 0.8]).auc == 1


def test_structure_measure():
    p, y = maps(5)
    assert s_measure(y, y) == pytest.approx(1)
    assert s_measure(y, y) > s_measure(0.5 * y + 0.5 * p, y) > s_measure(1 - y, y)
    corner = np.zeros((4, 4))
    corner[3, 3] = 1  # three quadrants are empty
    assert s_measure(corner, corner) == pytest.approx(1)
    strip = np.zeros((1, 4))
    strip[0, 2] = 1
    assert 0 <= s_measure(1 - strip, strip) <= 1


def test_shapes_and_labels():
    p, y = maps(7)
    expected = pooled_iou_f1(p, y)
    assert pooled_iou_f1(torch.from_numpy(p)[:, None], torch.from_numpy(y)[:, None]) == expected
    assert pooled_iou_f1(list(p), list(y)) == expected
    assert pooled_iou_f1(p, 3 * y, binarize=True) == expected
    assert mae([p[0], p[1, :5]], [y[0], y[1, :5]]) == pytest.approx(
        (abs(p[0] - y[0]).mean() + abs(p[1, :5] - y[1, :5]).mean()) / 2
    )


def test_torchmetrics_pool_over_batches():
    p, y = (torch.from_numpy(values)[:, None] for values in maps(9, images=5))
    metrics = {
        PooledIoUF1(): lambda p, y: pooled_iou_f1(p, y)._asdict(),
        PooledIoUF1("official"): lambda p, y: pooled_iou_f1(p, y, "official")._asdict(),
        TargetDetection(match="centroid3"): lambda p, y: pd_fa(p, y, match="centroid3")._asdict(),
        StructureMeasure(): s_measure,
        MapError(): mae,
    }
    for metric, function in metrics.items():
        for batch in (slice(0, 2), slice(2, 4)):
            metric.update(p[batch], y[batch])
        metric.update(p[4, 0], y[4, 0])  # a single map
        found, expected = metric.compute(), function(p, y)
        if isinstance(expected, dict):
            assert {name: float(value) for name, value in found.items()} == pytest.approx(expected)
        else:
            assert float(found) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, y: pooled_iou_f1(p * 3, y), r"prediction 0 has values from .* probabilities in \[0, 1\]"),
        (lambda p, y: pooled_iou_f1(p * np.nan, y), "prediction 0 has values from nan"),
        (lambda p, y: pooled_iou_f1(p, 255 * y), "mask has 255 among its values: .* pass binarize=True"),
        (lambda p, y: pooled_iou_f1(p[:2], y), "2 predictions and 3 masks"),
        (lambda p, y: pooled_iou_f1(p[:, :5], y), r"prediction 0 has shape \(5, 14\), its mask \(12, 14\)"),
        (lambda p, y: pooled_iou_f1([], []), "prediction holds no images"),
        (lambda p, y: pooled_iou_f1(p[0, 0], y[0, 0]), r"prediction has shape \(14,\): \(H, W\)"),
        (lambda p, y: pooled_iou_f1(p, y, protocol="best"), "protocol='best': use one of 'fixed', 'official'"),
        (lambda p, y: pd_fa(p, y, match="iou"), "match='iou': use one of 'overlap', 'centroid3'"),
        (lambda p, y: pd_fa(p, y, connectivity=6), "connectivity=6: use 4 or 8 neighbours"),
        (lambda p, y: s_measure(p, y, alpha=2), r"alpha=2: use a weight in \[0, 1\]"),
        (lambda p, y: roc_targets(p, y, [0.5]), r"thresholds=\[0.5\]: use at least 2"),
    ],
)
def test_bad_input(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call(*maps(1))
