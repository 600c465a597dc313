"""Segmenters in the manner of scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from fullrank import data
from fullrank.linalg import robust_pca
from fullrank.nn.rpcanet import RPCANet
from fullrank.nn.rpcanet_training import SegmentationTraining, crop_at, train_segmentation
from fullrank.nn.segmentation_report import read_grey
from fullrank.nn.segmenter import RobustPCASegmenter, SparseObjectSegmenter

SMALL = {"num_stages": 1, "channels": 4, "sparse_layers": 1, "merge_layers": 0, "contrast_kernel": 5, "batch_size": 4}


def bright_squares(count=8, size=24):
    random = np.random.default_rng(0)
    images = np.linspace(0, 0.5, size)[:, None] * np.linspace(0.5, 1, size) + np.zeros((count, 1, 1))
    masks = np.zeros((count, size, size))
    for mask in masks:
        row, column = random.integers(0, size - 5, 2)
        mask[row : row + 5, column : column + 5] = 1
    return (images + 0.45 * masks).astype(np.float32), masks


@pytest.fixture(scope="module")
def trained():
    return SparseObjectSegmenter(**SMALL, epochs=40, lr=2e-2).fit(*bright_squares())


def test_it_learns(trained):
    images, masks = bright_squares()
    assert trained.score(images, masks) > 0.9
    assert len(trained.loss_curve_) == 40
    assert trained.loss_curve_[-1] < trained.loss_curve_[0] / 3
    probability, predicted = trained.predict_proba(images), trained.predict(images)
    assert probability.shape == predicted.shape == images.shape
    assert predicted.dtype == bool
    np.testing.assert_array_equal(predicted, probability > 0.5)


def test_images_of_several_sizes(trained):
    images, _ = bright_squares()
    found = trained.predict_proba([images[0], images[1, :20]])
    assert [image.shape for image in found] == [(24, 24), (20, 24)]
    np.testing.assert_allclose(found[0], trained.predict_proba(images[:1])[0], atol=1e-6)


def test_decomposition(trained):
    images, _ = bright_squares()
    stages = trained.decompose(torch.from_numpy(images))
    assert len(stages) == 8
    assert len(stages[0]) == 1
    assert stages[0][0].background.shape == (24, 24)
    np.testing.assert_allclose(torch.sigmoid(stages[2][-1].object).numpy(), trained.predict_proba(images)[2], atol=1e-5)


def test_shrinking_keeps_the_size():
    images, masks = bright_squares(size=29)
    segmenter = SparseObjectSegmenter(**SMALL, shrink=2, epochs=40, lr=2e-2).fit(images, masks)
    assert segmenter.predict_proba(images).shape == images.shape
    assert segmenter.score(images, masks) > 0.4  # squares of 5 do not fit a grid of 2
    stage = segmenter.decompose(images[:1])[0][-1]
    assert stage.background.shape == (29, 29)
    np.testing.assert_allclose(segmenter.probability(stage), segmenter.predict_proba(images)[0], atol=1e-5)


def test_the_seed_decides():
    images, masks = bright_squares()
    weights = [
        SparseObjectSegmenter(**SMALL, epochs=1, random_state=seed).fit(images, masks).model_.state_dict()
        for seed in (0, 0, 1)
    ]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    name = "stages.0.background.embed.weight"
    assert not torch.equal(weights[0][name], weights[2][name])


def test_scikit_learn_manners(trained):
    copied = clone(trained)
    assert copied.get_params() == trained.get_params()
    assert "channels=4" in repr(copied)
    with pytest.raises(NotFittedError):
        copied.predict(bright_squares()[0])
    steps = []
    copied.set_params(on_progress=lambda *told: steps.append(told), epochs=1, network="rpcanet")
    copied.fit(*bright_squares())
    assert isinstance(copied.model_, RPCANet)
    assert steps == [(0, 2, "epoch 1 of 1"), (1, 2, "epoch 1 of 1")]


def test_save_and_load(trained, tmp_path):
    images, _ = bright_squares()
    folder = trained.save(tmp_path / "segmenter")
    assert sorted(file.name for file in folder.iterdir()) == ["model.safetensors", "segmenter.json"]
    loaded = SparseObjectSegmenter.load(folder)
    np.testing.assert_array_equal(loaded.predict_proba(images), trained.predict_proba(images))
    assert loaded.get_params() == trained.get_params()
    assert loaded.loss_curve_ == trained.loss_curve_
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors is no safetensors file that can be read"):
        SparseObjectSegmenter.load(folder)
    (folder / "segmenter.json").write_text(json.dumps({"settings": {"colour": 1}, "loss_curve": []}))
    with pytest.raises(ValueError, match=r"segmenter.json is no segmenter's: .*colour"):
        SparseObjectSegmenter.load(folder)
    with pytest.raises(FileNotFoundError):
        SparseObjectSegmenter.load(tmp_path)


def test_labels_and_pixels():
    images, masks = bright_squares()
    pixels = (255 * images).astype(np.uint8)
    segmenter = SparseObjectSegmenter(**SMALL, epochs=1)
    with pytest.raises(TypeError, match=r"image 0 has dtype torch.uint8: .* normalize=True"):
        segmenter.fit(pixels, masks)
    with pytest.raises(ValueError, match="mask has 3 among its values"):
        segmenter.fit(images, 3 * masks)
    segmenter.set_params(normalize=True, binarize=True).fit(pixels, 3 * masks)
    assert 0 <= segmenter.score(pixels, 3 * masks) <= 1


def test_robust_pca_needs_no_training():
    images, _ = bright_squares(size=40)
    masks = np.random.default_rng(1).random(images.shape) < 0.03
    images = np.where(masks, 2 * np.random.default_rng(2).random(images.shape), images[0] / 2).astype(np.float32)
    segmenter = RobustPCASegmenter(threshold=0.02)
    assert segmenter.fit(images) is segmenter
    assert segmenter.score(images, masks) > 0.6
    parts = robust_pca(torch.from_numpy(images[3]))
    background, object, image = segmenter.decompose(images)[3][0]
    torch.testing.assert_close((background, object), (parts.low_rank, parts.sparse))
    torch.testing.assert_close(image, torch.from_numpy(images[3]), rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        segmenter.predict_proba(images)[3], (object.abs() / object.abs().max()).numpy(), atol=1e-6
    )
    assert not segmenter.predict(np.zeros((1, 6, 6), np.float32)).any()


def test_crops_lie_within_and_find_objects():
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(40, 50, dtype=torch.bool)
    mask[39, 0] = True
    crops = [crop_at(mask, 16, generator) for _ in range(60)]
    assert all(mask[crop].shape == (16, 16) for crop in crops)
    assert sum(bool(mask[crop].any()) for crop in crops) >= 20
    assert mask.new_zeros(16, 16)[crop_at(mask.new_zeros(16, 16), 16, generator)].shape == (16, 16)


def test_pretrained():
    segmenter = SparseObjectSegmenter.pretrained()
    records = data.load("neu-seg", "test")[:12]
    masks = [record["mask"] > 0 for record in records]
    segmenter.set_params(normalize=True)
    assert segmenter.score([record["image"] for record in records], masks) > 0.5
    with pytest.raises(LookupError, match="there is no pretrained segmenter 'moon'; there are neu-seg"):
        SparseObjectSegmenter.pretrained("moon")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0: use at least 1"),
        ({"lr": 0.0}, "lr=0.0: use a positive number"),
        ({"shrink": 0}, "shrink=0: use at least 1"),
        ({"crop": 0}, "crop=0: use a positive size"),
        ({"crop": 30}, "crop=30: at most 24 fits the smallest image"),
        ({"batch_size": 9}, "8 images make no batch of 9"),
        ({"network": "unet"}, "network='unet': use one of 'rpcanet\\+\\+', 'rpcanet'"),
    ],
)
def test_bad_settings(unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        SparseObjectSegmenter(**(SMALL | options)).fit(*bright_squares())


def test_bad_images(unchecked):
    images, masks = bright_squares()
    segmenter = SparseObjectSegmenter(**SMALL)
    with pytest.raises(ValueError, match=r"images has shape \(8, 24, 24, 1\): grey images \(images, H, W\)"):
        segmenter.fit(images[..., None], masks)
    with pytest.raises(ValueError, match=r"image 0 has shape \(24, 24, 3\): .* convert colour with image.mean\(-1\)"):
        segmenter.fit([np.zeros((24, 24, 3))], masks)
    for each in (segmenter, RobustPCASegmenter()):
        with pytest.raises(ValueError, match="image 1 has NaN or infinity"):
            each.fit([images[0], np.nan * images[1]], masks[:2]).predict([images[0], np.nan * images[1]])
    with pytest.raises(ValueError, match="8 images and 7 masks"):
        segmenter.fit(images, masks[:7])
    with pytest.raises(ValueError, match="the images have 2 sizes: give crop"):
        segmenter.fit([*images, images[0, :20]], [*masks, masks[0, :20]])
    with pytest.raises(ValueError, match="1 images make no batch of 8"):
        train_segmentation(RPCANet(1, 2), [torch.zeros(4, 4)], [torch.zeros(4, 4) > 0], SegmentationTraining())


def test_floating_point_pictures_are_read_as_they_are(tmp_path):
    values = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    Image.fromarray(values).save(tmp_path / "real.tiff")
    np.testing.assert_array_equal(read_grey(tmp_path / "real.tiff"), values)
    for factor, message in ((300, "values from 0 to 300: 0 to 1 is accepted"), (np.nan, "values from nan to nan")):
        Image.fromarray(factor * values).save(tmp_path / "other.tiff")
        with pytest.raises(ValueError, match=message):
            read_grey(tmp_path / "other.tiff")
    Image.fromarray((70_000 * values).astype(np.int32)).save(tmp_path / "wide.tiff")
    with pytest.raises(ValueError, match=r"wide.tiff has values from 0 to 70000: 0 to 65535 is accepted"):
        read_grey(tmp_path / "wide.tiff")
