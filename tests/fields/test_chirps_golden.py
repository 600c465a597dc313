"""The authors' numbers: drawing, label statistics, and the adapted transformer with its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTModel

from fullrank.fields.chirps import (
    LABELS,
    ChirpRegressorConfig,
    ChirpSpectrogramConfig,
    LabelScaler,
    ViTForChirpRegression,
    add_noise,
    draw_ridges,
    pearson_per_target,
)

#: Names of the official generator -> ours.
CONFIGURATION = {
    "duration": "duration",
    "max_chirp_duration": "max_chirp_duration",
    "num_time_bins": "n_time",
    "num_freq_bins": "n_freq",
    "max_frequency": "max_frequency",
    "max_chirp_band": "max_band",
}
CHIRP = {
    "start_time": "onset_time",
    "start_freq": "onset_frequency",
    "end_freq": "offset_frequency",
    "duration": "duration",
    "kind": "kind",
}
BACKBONE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size", "patch_size")


@pytest.mark.golden("chirp")
def test_golden(case):
    """What a case holds says which of the three it is."""
    if "cases" in case.spec:
        check_generator(case.spec, case.tensors)
    elif "standardised" in case.tensors:
        check_labels_and_metric(case.spec, case.tensors)
    else:
        assert "pixels" in case.tensors, f"a kind of case that is not known: {case.spec['what']}"
        check_regressor(case.spec, case.tensors)


def check_generator(spec, tensors):
    fields = dict(spec["config"])
    fields.pop("sample_rate")  # of a waveform that the official generator throws away
    assert set(fields) <= set(CONFIGURATION)
    config = ChirpSpectrogramConfig(**{CONFIGURATION[name]: value for name, value in fields.items()})
    checked = set()
    for number, chirp in enumerate(spec["cases"]):
        assert set(chirp) == set(CHIRP)
        labels = np.zeros(1, LABELS)
        for name, value in chirp.items():
            labels[CHIRP[name]] = value
        ridge = draw_ridges(labels, config, dtype=torch.float64)
        names = {name: f"case{number}.{name}" for name in ("ridge", "noise", "noise_level", "spectrogram")}
        checked |= set(names.values())
        torch.testing.assert_close(ridge[0], tensors[names["ridge"]], **spec["tolerance"])
        noise, level = tensors[names["noise"]][None], tensors[names["noise_level"]]
        Z = add_noise(ridge, noise, level, config.smooth_sigma)
        torch.testing.assert_close(Z[0], tensors[names["spectrogram"]], **spec["tolerance"])
    assert checked == set(tensors)


def check_labels_and_metric(spec, tensors):
    found = {name: tensor.numpy() for name, tensor in tensors.items()}
    scaler = LabelScaler().fit(found["labels"])
    ours = {
        "mean": scaler.mean,
        "std": scaler.std,
        "standardised": scaler.transform(found["labels"]),
        "predicted": scaler.inverse_transform(found["predicted_standardised"]),
        "pearson": pearson_per_target(found["predicted"], found["labels"]),
    }
    assert set(tensors) == {*ours, "labels", "predicted_standardised"}
    for name, value in ours.items():
        np.testing.assert_allclose(value, found[name], **{"atol": 1e-12} | spec["tolerance"])


def check_regressor(spec, tensors):
    config = spec["config"]
    assert set(config) == {*BACKBONE, "lora_r", "lora_alpha", "lora_targets", "head", "seed"}
    pooled = any("pooler" in name for name in tensors)
    vit = ViTModel(ViTConfig(**{name: config[name] for name in BACKBONE}), add_pooling_layer=pooled)
    model = ViTForChirpRegression.from_backbone(
        vit,
        ChirpRegressorConfig(
            lora_r=config["lora_r"], lora_alpha=config["lora_alpha"], head_dims=tuple(config["head"][1:-1])
        ),
    ).eval()
    assert model.regression_head[-1].out_features == config["head"][-1]
    model.load_state_dict({name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")})
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(trainable) == set(spec["trainable"])

    found = model(tensors["pixels"], tensors["labels"])
    tolerance = spec["tolerance"]
    torch.testing.assert_close(found.logits, tensors["prediction"], **tolerance["prediction"])
    torch.testing.assert_close(found.loss[None], tensors["loss"], **tolerance["prediction"])
    found.loss.backward()
    assert {name for name in tensors if name.startswith("grad.")} == {f"grad.{name}" for name in trainable}
    for name, parameter in trainable.items():
        torch.testing.assert_close(parameter.grad, tensors[f"grad.{name}"], **tolerance["grad"])

    merged = model.merge()(tensors["pixels"])
    torch.testing.assert_close(merged.logits, found.logits.detach(), rtol=0, atol=1e-5)
