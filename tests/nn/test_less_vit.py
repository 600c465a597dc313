from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torchmetrics.classification import MulticlassJaccardIndex

from fullrank.nn import (
    SENSORS,
    HyperMAELoss,
    LESSFeatureExtractor,
    LESSViTConfig,
    LESSViTForImageClassification,
    LESSViTForPreTraining,
    LESSViTForSemanticSegmentation,
    LESSViTModel,
    LESSViTTraining,
    LinearProbe,
    Masking,
    SensorSpec,
    evaluate_less_vit,
    less_vit_base,
    less_vit_small,
    prediction_metrics,
    random_flips,
    scale_by_deviation,
    sensor,
    train_less_vit,
)
from fullrank.nn.less_vit_inputs import patchify, unpatchify

λ4 = [490, 560, 665, 842]


def config(**options):
    small = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4, "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2, "layer_scale": 0.5, "attention_radius": None,
    }  # fmt: skip
    return LESSViTConfig(**(small | options))


def build(kind=LESSViTModel, **options):
    torch.manual_seed(0)
    return kind(config(**options)).eval()


def images(channels=4, height=8, width=12, batch=2):
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def differ(one, two):
    return not torch.allclose(one, two, rtol=1e-2, atol=1e-4)


# --- the encoder ------------------------------------------------------------------------------------------------------


def test_what_it_gives():
    output = build()(images(), λ4, output_hidden_states=True)
    grid = output.last_hidden_state
    assert grid.shape == (2, 5, 7, 32)
    assert torch.equal(output.pooler_output, grid[:, 0, 0])
    assert torch.equal(output.spatial_tokens, grid[:, 0, 1:])
    assert torch.equal(output.spectral_tokens, grid[:, 1:, 0])
    assert [state.shape for state in output.hidden_states] == [grid.shape] * 3
    assert torch.equal(build()(images(), λ4, return_dict=False)[0], grid)


@pytest.mark.parametrize("channels", [1, 4, 12, 13, 20, 202])
def test_any_number_of_channels(channels):
    λ = np.linspace(400, 2400, channels)
    assert build()(images(channels, 4, 4), λ).spectral_tokens.shape == (2, channels, 32)


@pytest.mark.parametrize("position_embedding", ["sincos", "rotary"])
@pytest.mark.parametrize("radius", [None, 60])
def test_channels_may_be_reordered_with_their_wavelengths(position_embedding, radius):
    model, order = build(position_embedding=position_embedding, attention_radius=radius), [2, 0, 3, 1]
    pixels = images()
    one, two = model(pixels, λ4), model(pixels[:, order], [λ4[i] for i in order])
    for name in ("pooler_output", "spatial_tokens"):
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5)
    torch.testing.assert_close(two.spectral_tokens, one.spectral_tokens[:, order], rtol=0, atol=1e-5)
    assert differ(model(pixels[:, order], λ4).pooler_output, one.pooler_output)


def test_rectangles_are_not_their_transposes():
    model, pixels = build(), images(4, 8, 12)
    tall = model(pixels.mT, λ4).spatial_tokens.unflatten(1, (3, 2)).transpose(1, 2).flatten(1, 2)
    assert differ(tall, model(pixels, λ4).spatial_tokens)


def test_wavelengths_of_every_image_and_in_micrometres():
    model, pixels = build(), images()
    other = [450, 550, 650, 2200]
    both = model(pixels, torch.tensor([λ4, other]))
    torch.testing.assert_close(both.pooler_output[1:], model(pixels[1:], other).pooler_output)
    micrometres = model(pixels, [λ / 1000 for λ in λ4], wavelength_unit="um")
    torch.testing.assert_close(micrometres.pooler_output, model(pixels, λ4).pooler_output)


def test_a_resolution_from_numpy(unchecked):
    model = build(attention_radius=90)
    expected = model(images(), λ4, spatial_resolution=20).pooler_output
    for resolution in (np.float32(20), np.int64(20), torch.tensor(20.0)):
        assert torch.equal(model(images(), λ4, spatial_resolution=resolution).pooler_output, expected)


def test_modalities_have_embeddings_of_their_own():
    model, pixels, λ = build(), images(6), [*λ4, 5500, 5700]
    apart = model(pixels, λ, modality_sizes=(4, 2))
    assert differ(apart.pooler_output, model(pixels, λ).pooler_output)
    assert model(pixels, λ, modality_sizes=(0, 6)).last_hidden_state.shape == (2, 7, 7, 32)


def test_a_huge_radius_is_no_mask():
    wide, without = build(attention_radius=1e6), build()
    assert torch.equal(wide(images(), λ4).last_hidden_state, without(images(), λ4).last_hidden_state)


def test_tables_made_without_gradients_serve_training():
    """Of a grid and a radius that no other test has: what inference leaves in the cache is used again."""
    model, pixels = build(attention_radius=77), images(4, 12, 20)
    with torch.inference_mode():
        model(pixels, λ4)
    model(pixels, λ4).pooler_output.sum().backward()
    assert bool(model.embeddings.global_cls.grad.isfinite().all())


@pytest.mark.parametrize("position_embedding", ["sincos", "rotary"])
def test_masks_leave_tokens_out(position_embedding):
    """Hiding channels is leaving them out of the image; hiding patches gives those that a mask in place would keep."""
    model, pixels = build(position_embedding=position_embedding, attention_radius=60), images()
    hidden = torch.tensor([[False, True, False, False]] * 2)
    masked = model(pixels, λ4, bool_masked_channels=hidden)
    left = model(pixels[:, [0, 2, 3]], [λ4[i] for i in (0, 2, 3)])
    torch.testing.assert_close(masked.last_hidden_state, left.last_hidden_state)
    patches = torch.tensor([[True, False, False, True, False, True], [False, False, True, True, True, False]])
    both = model(pixels, λ4, bool_masked_pos=patches)
    assert both.last_hidden_state.shape == (2, 5, 4, 32)
    changed = pixels + 10 * unpatchify(patches[:, None, :, None].expand(2, 4, 6, 16).float(), (2, 3))
    torch.testing.assert_close(model(changed, λ4, bool_masked_pos=patches).last_hidden_state, both.last_hidden_state)
    nothing = torch.zeros_like(patches)
    torch.testing.assert_close(
        model(pixels, λ4, bool_masked_pos=nothing).last_hidden_state, model(pixels, λ4).last_hidden_state
    )


def test_pixels_without_data_and_padding():
    model, pixels = build(pad=True), images(4, 7, 10)
    mask = torch.zeros(2, 1, 7, 10, dtype=torch.bool)
    mask[:, :, 2, 3] = True
    with_nan = pixels.masked_fill(mask, float("nan"))
    output = model(with_nan, λ4, nodata_mask=mask)
    torch.testing.assert_close(output, model(pixels.masked_fill(mask, 0), λ4))
    assert output.spatial_tokens.shape == (2, 6, 32)


def test_sizes_of_the_paper():
    with torch.device("meta"):
        base, optical, small = less_vit_base(), less_vit_base(modalities=["optical"]), less_vit_small()
        wide = less_vit_base(channel_head_dim=4, rank=8)
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    assert count(base) == 83_219_328
    assert round(count(optical) / 1e6, 1) == 81.6
    assert round(count(wide) / 1e6, 1) == 79.1
    assert (small.config.hidden_size, small.config.num_attention_heads) == (384, 6)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wavelengths": None}, "wavelengths are missing"),
        ({"wavelengths": [490, 560]}, r"shape \(2,\) do not fit"),
        ({"wavelengths": [0.49, 0.56, 0.665, 0.842]}, "nanometres expected"),
        ({"wavelengths": [-490, 560, 665, 842]}, "positive"),
        ({"wavelengths": [float("inf"), 560, 665, 842]}, "finite numbers of nanometres"),
        ({"wavelength_unit": "m"}, "'nm' or 'um'"),
        ({"pixel_values": images()[0]}, r"pixel_values has shape \(4, 8, 12\): \(batch, channels, height, width\)"),
        ({"pixel_values": images(height=0)}, r"pixel_values has shape \(2, 4, 0, 12\): .* none of them 0"),
        ({"pixel_values": images(4, 9, 15)}, "9 x 15 .* resize or crop to 8 x 16"),
        ({"pixel_values": torch.full((1, 4, 8, 8), float("nan"))}, "pass nodata_mask"),
        ({"nodata_mask": torch.zeros(2, 3, 8, 12, dtype=torch.bool)}, "nodata_mask of"),
        ({"spatial_resolution": 0}, "spatial_resolution=0"),
        ({"spatial_resolution": float("inf")}, "spatial_resolution=inf"),
        ({"spatial_resolution": [10, 30]}, "group images"),
        ({"modality_sizes": (3, 2)}, "4 in all"),
        ({"bool_masked_pos": torch.zeros(2, 5, dtype=torch.bool)}, r"use \(2, 6\)"),
        ({"bool_masked_channels": torch.ones(2, 4, dtype=torch.bool)}, "hides everything"),
        ({"bool_masked_channels": torch.eye(2, 4, dtype=torch.bool) | (torch.arange(2) > 0)[:, None]}, "same number"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        build()(**({"pixel_values": images(), "wavelengths": λ4} | arguments))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 25}, "no multiple"),
        ({"position_embedding": "rotary", "channel_head_dim": 1}, "cannot be rotated"),
        ({"position_embedding": "rotary", "decoder_channel_head_dim": 4}, "4 spectral and 2 spatial"),
        ({"channel_head_dim": 5}, r"use one of \[1, 2, 4, 8, 16\]"),
        ({"decoder_channel_head_dim": 3}, r"use one of \[1, 2, 4, 8\]"),
        ({"patch_size": 0}, "patch_size=0"),
        ({"position_embedding": "learned"}, "'sincos' or 'rotary'"),
        ({"mask_ratio": 1.0}, "mask_ratio=1.0"),
        ({"modalities": ["optical", "optical"]}, "every kind of sensor once"),
        ({"modal_mode": "lidar"}, "multi, random, each, optical, radar"),
    ],
)
def test_bad_configuration(options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


# --- saving, training, the interface of transformers ------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [LESSViTModel, LESSViTForPreTraining, LESSViTForImageClassification, LESSViTForSemanticSegmentation],
)
def test_saving_and_loading(kind, tmp_path):
    model = build(kind, num_labels=3, upernet_hidden_size=8, wavelength_range=[350, 2500])
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "less_vit"
    again = kind.from_pretrained(tmp_path)
    ours, theirs = (each.config.to_dict() for each in (model, again))
    assert all(theirs[name] == ours[name] for name in ours if name not in ("_name_or_path", "dtype"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    encoder = model if kind is LESSViTModel else model.less_vit
    loaded = LESSViTModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(images(), λ4).last_hidden_state, encoder(images(), λ4).last_hidden_state)


def test_a_new_head_on_a_trained_encoder(tmp_path):
    build(LESSViTForPreTraining).save_pretrained(tmp_path)
    torch.manual_seed(3)
    model = LESSViTForImageClassification.from_pretrained(tmp_path, num_labels=5)
    assert model.classifier.weight.shape == (5, 32)
    assert 0 < float(model.classifier.weight.detach().abs().max()) < 1
    assert not model.classifier.bias.any()


def test_the_start_is_the_paper_s():
    model = build(LESSViTForPreTraining, initializer_range=0.02, layer_scale=0.3)
    tokens = torch.stack([model.less_vit.embeddings.global_cls, model.less_vit.embeddings.channel_cls]).detach()
    assert 0.01 < float(tokens.std()) < 0.03
    assert 0.005 < float(model.decoder.mask_token.detach().std()) < 0.04
    assert bool((model.less_vit.encoder.blocks[0].scale1 == 0.3).all())
    bound = (6 / (32 + 128)) ** 0.5
    assert 0.9 * bound < float(model.less_vit.encoder.blocks[0].up.weight.detach().abs().max()) <= bound


def test_gradient_checkpointing_changes_no_gradient():
    model = build(LESSViTForPreTraining, attention_radius=60, rank=2).train()
    patches, channels = torch.arange(6).expand(2, -1) > 1, torch.arange(4).expand(2, -1) > 1

    def gradients():
        model.zero_grad()
        model(images(), λ4, 10, None, patches, channels).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    # transformers 5 has a new name for it and warns at the old one.
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    assert model.less_vit.encoder.gradient_checkpointing
    assert model.decoder.layers.gradient_checkpointing
    torch.testing.assert_close(gradients(), plain)


def test_autocast_and_half_precision():
    model = build(LESSViTForPreTraining).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images(), λ4).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert bool(loss.isfinite())
    assert build().to(torch.bfloat16)(images(), λ4).pooler_output.dtype == torch.bfloat16


def test_training_under_transformers(tmp_path):
    from transformers import Trainer, TrainingArguments

    rows = [{"pixel_values": image, "labels": int(image.mean() > 0.5)} for image in images(batch=8)]
    collate = lambda items: {  # noqa: E731
        "pixel_values": torch.stack([item["pixel_values"] for item in items]),
        "labels": torch.tensor([item["labels"] for item in items]),
        "wavelengths": torch.tensor(λ4),
    }
    settings = TrainingArguments(
        tmp_path, max_steps=2, per_device_train_batch_size=4, use_cpu=True, report_to=[], save_strategy="no",
        disable_tqdm=True, dataloader_pin_memory=False, remove_unused_columns=False,
    )  # fmt: skip
    model = LESSViTForImageClassification(config(num_labels=2))
    before = model.classifier.weight.detach().clone()
    Trainer(model, settings, train_dataset=rows, data_collator=collate).train()
    assert not torch.equal(model.classifier.weight, before)


def test_the_loop_learns_and_reports():
    model = build(LESSViTForImageClassification, num_labels=2)
    labels = torch.arange(16) % 2
    pixels = images(batch=16) + labels[:, None, None, None]
    batch = {"pixel_values": pixels, "wavelengths": λ4, "labels": labels}
    seen = []
    losses = train_less_vit(
        model, lambda step: batch, LESSViTTraining(60, 1e-2), lambda step, loss: seen.append((step, loss))
    )
    assert seen == list(enumerate(losses))
    assert losses[-1] < 0.6 * losses[0]
    assert model.training
    metrics = evaluate_less_vit(model, [batch])
    assert set(metrics) == {"accuracy", "balanced accuracy"}
    assert metrics["accuracy"] > 75
    with pytest.raises(ValueError, match="empty"):
        evaluate_less_vit(model, [])
    model.classifier.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="at step 0"):
        train_less_vit(model, lambda step: batch, LESSViTTraining(1))


# --- Hyper-MAE --------------------------------------------------------------------------------------------------------


def test_masks_are_permutations():
    noise = torch.rand(3, 7, generator=torch.Generator().manual_seed(0))
    masking = Masking.random(noise, 3)
    order = masking.ids_restore.argsort(1)
    assert torch.equal(order.gather(1, masking.ids_restore), torch.arange(7).expand(3, -1))
    assert torch.equal((~masking.mask).sum(1), torch.full((3,), 3))
    assert torch.equal(masking.ids_keep, noise.argsort(1)[:, :3])
    again = Masking.from_mask(masking.mask)
    assert torch.equal(again.mask, masking.mask)
    tokens = torch.arange(3 * 8 * 2).reshape(3, 8, 2)
    restored = masking.restore_after_cls(masking.keep_after_cls(tokens, 1), torch.full((3, 4, 2), -1), 1)
    assert torch.equal(restored[:, 1:][~masking.mask], tokens[:, 1:][~masking.mask])
    assert bool((restored[:, 1:][masking.mask] == -1).all())
    assert torch.equal(restored[:, 0], tokens[:, 0])


def test_how_much_is_hidden():
    model = build(LESSViTForPreTraining)
    output = model(images(8), np.linspace(400, 2400, 8))
    assert torch.equal(output.channel_mask.sum(1), torch.full((2,), 4))
    assert torch.equal(output.patch_mask.sum(1), torch.full((2,), 5))
    assert output.latent.shape == (2, 5, 2, 32)
    assert output.reconstruction.shape == output.target.shape == (2, 8, 6, 16)
    none = build(LESSViTForPreTraining, mask_ratio=0.0, channel_mask_ratio=0.0)(images(), λ4)
    assert not none.patch_mask.any()
    assert not none.channel_mask.any()
    assert none.loss.item() == 0


def test_one_pattern_for_the_batch_with_a_perception_field():
    shared, apart = (
        build(LESSViTForPreTraining, attention_radius=80, shared_patch_mask=shared)(images(4, 16, 16, 8), λ4).patch_mask
        for shared in (True, False)
    )
    assert bool((shared == shared[0]).all())
    assert not bool((apart == apart[0]).all())


def test_two_channels_stay_visible():
    model = build(LESSViTForPreTraining, channel_mask_ratio=0.9)
    with pytest.warns(UserWarning, match="fewer than 2 of 4"):
        output = model(images(), λ4)
    assert torch.equal(output.channel_mask.sum(1), torch.full((2,), 2))
    assert not build(LESSViTForPreTraining)(images(1), [500]).channel_mask.any()


def test_modalities_that_are_not_encoded_are_predicted():
    pixels, λ = images(6), [*λ4, 5500, 5700]
    radar = build(LESSViTForPreTraining, modal_mode="radar")(pixels, λ, modality_sizes=(4, 2))
    assert bool(radar.channel_mask[:, :4].all())
    assert not radar.channel_mask[:, 4:].any()
    assert radar.reconstruction.shape == (2, 6, 6, 16)
    each = build(LESSViTForPreTraining, modal_mode="each")
    torch.manual_seed(0)
    passes = each._modes((4, 2))
    assert passes == ["optical", "radar", "multi"]
    assert each._modes((4, 0)) == ["multi"]
    random = build(LESSViTForPreTraining, modal_mode="random")
    drawn = [random._modes((4, 2), torch.Generator().manual_seed(seed))[0] for seed in range(20)]
    assert drawn == [random._modes((4, 2), torch.Generator().manual_seed(seed))[0] for seed in range(20)]
    assert set(drawn) == set(passes)
    assert each(pixels, λ, modality_sizes=(4, 2)).loss.item() > radar.loss.item()
    with pytest.raises(ValueError, match="channels of optical only"):
        build(LESSViTForPreTraining, modal_mode="radar")(images(), λ4)


def test_the_loss_by_hand():
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.rand(2, 5, 3, 4, generator=generator) for _ in range(2))
    patches = torch.tensor([[True, False, True], [False, False, True]])
    channels = torch.tensor([[True, False, True, False, False], [False, True, True, False, False]])
    e = (prediction - target).square().mean(-1)
    pos, chan = [], []
    for group in (slice(0, 3), slice(3, 5)):
        pos.append(sum(e[b, group, n].mean() for b in range(2) for n in range(3) if patches[b, n]) / 3)
        hidden = [e[b, c].mean() for b in range(2) for c in range(5)[group] if channels[b, c]]
        if hidden:  # nothing of the second group is hidden
            chan.append(sum(hidden) / len(hidden))
    expected = sum(pos) / 2 + sum(chan) / len(chan)
    loss = HyperMAELoss()
    torch.testing.assert_close(loss(prediction, target, patches, channels, (3, 2)), expected)
    torch.testing.assert_close(loss(prediction, target, patches, channels, (3, 2, 0)), expected)
    everywhere = torch.ones_like(target, dtype=torch.bool)
    torch.testing.assert_close(loss(prediction, target, patches, channels, (3, 2), everywhere), expected)


def test_pixels_without_data_do_not_count():
    loss, generator = HyperMAELoss(), torch.Generator().manual_seed(0)
    prediction, target, wrong = (torch.rand(2, 3, 4, 5, generator=generator) for _ in range(3))
    patches, channels = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    valid = torch.rand(2, 3, 4, 5, generator=generator) < 0.7
    valid[0, 1, 2] = False  # a whole patch
    valid[1, :, 3] = False  # a patch in all channels
    ours = loss(prediction, target, patches, channels, (3,), valid)
    torch.testing.assert_close(
        loss(prediction, torch.where(valid, target, wrong), patches, channels, (3,), valid), ours
    )
    none = loss(prediction, target, patches, channels, (3,), torch.zeros_like(valid))
    assert float(none) == 0


def test_no_data_in_a_step():
    model, pixels = build(LESSViTForPreTraining, pad=True), images(4, 7, 10)
    mask = torch.zeros(2, 1, 7, 10, dtype=torch.bool)
    mask[..., 4:] = True
    patches, channels = torch.arange(6).expand(2, -1) > 2, torch.arange(4).expand(2, -1) > 1
    step = lambda x: model(x, λ4, 10, None, patches, channels, mask).loss  # noqa: E731
    torch.testing.assert_close(step(pixels.masked_fill(mask, float("nan"))), step(pixels.masked_fill(mask, 7.0)))
    with pytest.raises(ValueError, match="pass nodata_mask"):
        model(pixels.masked_fill(mask, float("nan")), λ4)


def test_constant_patches_can_be_standardised():
    output = build(LESSViTForPreTraining, norm_pix_loss=True)(torch.ones(2, 4, 8, 8), λ4)
    assert not output.target.any()
    assert bool(output.loss.isfinite())


def test_patches_are_rows_of_rows():
    pixels = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6).float()
    patches = patchify(pixels, 2)
    assert patches[0, 0, 1].tolist() == [2, 3, 8, 9]
    assert torch.equal(unpatchify(patches, (2, 3)), pixels)


# --- heads, metrics, features, sensors --------------------------------------------------------------------------------


def test_classification_losses():
    model = build(LESSViTForImageClassification, num_labels=3)
    output = model(images(), λ4, labels=torch.tensor([0, 2]))
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(output.logits, torch.tensor([0, 2])))
    model.config.problem_type = "multi_label_classification"
    labels = torch.tensor([[1, 0, 1], [0, 0, 1]])
    output = model(images(), λ4, labels=labels, output_hidden_states=True)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, labels.float())
    torch.testing.assert_close(output.loss, expected)
    assert len(output.hidden_states) == 3


@pytest.mark.parametrize(("height", "width", "options"), [(8, 12, {}), (4, 4, {}), (7, 10, {"pad": True})])
def test_segmentation(height, width, options):
    model = build(LESSViTForSemanticSegmentation, num_labels=3, upernet_hidden_size=8, **options)
    labels = torch.zeros(2, height, width, dtype=torch.long)
    labels[:, :2] = -100
    output = model(images(4, height, width), λ4, labels=labels)
    assert output.logits.shape == (2, 3, height, width)
    assert output.hidden_states is None
    counted = output.logits.movedim(1, -1)[:, 2:].flatten(0, 2)
    expected = torch.nn.functional.cross_entropy(counted, labels[:, 2:].flatten())
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    metrics = evaluate_less_vit(
        model, [{"pixel_values": images(4, height, width), "wavelengths": λ4, "labels": labels}]
    )
    assert set(metrics) == {"mIoU", "pixel accuracy"}


def test_metrics_against_torchmetrics_and_by_hand():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 5, generator=generator)
    labels = torch.randint(0, 4, (2, 6, 5), generator=generator)
    labels[0, 0] = -100
    found = prediction_metrics(logits, labels)["mIoU"]
    reference = MulticlassJaccardIndex(4, ignore_index=-100)(logits, labels)
    assert found == pytest.approx(100 * float(reference), rel=1e-5)
    scores = torch.tensor([[2.0, -1.0], [1.0, 3.0], [0.5, 0.1]])
    assert prediction_metrics(scores, torch.tensor([[1, 0], [1, 1], [0, 0]])) == {"mAP": 100.0, "macro mAP": 100.0}
    three = prediction_metrics(torch.eye(3)[[0, 0, 1, 0]], torch.tensor([0, 0, 1, 1]))
    assert three == {"accuracy": 75.0, "balanced accuracy": 75.0}


def test_features_in_a_pipeline(tmp_path):
    model, pixels = build(), images(batch=6).numpy()
    model.save_pretrained(tmp_path)
    extractor = LESSFeatureExtractor(tmp_path, λ4, batch_size=4)
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels), λ4)
    np.testing.assert_allclose(extractor.fit_transform(pixels), expected.pooler_output, rtol=1e-4, atol=1e-5)
    for pooling, features in (
        ("spatial", expected.spatial_tokens.mean(1)),
        ("spectral", expected.spectral_tokens.mean(1)),
        ("patches", expected.spatial_tokens.flatten(0, 1)),
    ):
        other = clone(extractor).set_params(pooling=pooling, model=model)
        np.testing.assert_allclose(other.fit_transform(pixels), features, rtol=1e-4, atol=1e-5)
    labels = [0, 1, 0, 1, 0, 1]
    assert make_pipeline(extractor, LogisticRegression()).fit(pixels, labels).predict(pixels).shape == (6,)
    with pytest.raises(ValueError, match="cls, spatial, spectral, patches"):
        extractor.set_params(pooling="mean").fit(pixels)
    with pytest.raises(ValueError, match="channels, height, width"):
        LESSFeatureExtractor(model, λ4).fit(pixels[0])


def test_a_linear_probe():
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(60, 4)), np.arange(60) % 3
    features[np.arange(60), labels] += 5
    assert (LinearProbe().fit(features, labels).predict(features) == labels).mean() > 0.95


def test_flips():
    pixels, seen = images(batch=1), set()
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        flipped = random_flips(pixels, generator)
        seen.add(
            tuple(torch.equal(flipped, pixels.flip(axes) if axes else pixels) for axes in ([], [-1], [-2], [-2, -1]))
        )
    assert len(seen) == 4


def test_scaling_by_two_deviations():
    pixels = torch.tensor([-1.0, 0.0, 1.0, 2.0, 3.0, 9.0]).reshape(1, 1, 2, 3)
    scaled = scale_by_deviation(pixels, [1.0], [0.5])
    assert scaled.flatten().tolist() == [0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    own = scale_by_deviation(images())
    torch.testing.assert_close(own.mean((0, 2, 3)), torch.full((4,), 0.5), rtol=0, atol=0.05)
    assert bool((scale_by_deviation(torch.ones(1, 2, 3, 3)).isfinite()).all())
    counts = (1000 * pixels).to(torch.int16)
    torch.testing.assert_close(scale_by_deviation(counts, [1000.5], [500.25]), scaled, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="belong together"):
        scale_by_deviation(pixels, [1.0])
    with pytest.raises(ValueError, match="one a channel"):
        scale_by_deviation(images(), [1.0], [1.0])


def test_sensors():
    names = [spec.name for spec in SENSORS]
    assert len(set(names)) == len(names)
    assert {"sentinel-1", "sentinel-2", "enmap", "modis", *(f"landsat-{n}" for n in (4, 5, 7, 8, 9))} <= set(names)
    assert sensor("sentinel-2").wavelengths[-1] == 2202.4
    assert sensor("sentinel-1").modality == "radar"
    assert len(sensor("enmap").wavelengths) == 202
    some = sensor("sentinel-2").select(["B8A", "B02"])
    assert (some.wavelengths, some.mean) == ((864.7, 492.4), (2581.0, 1397.6))
    assert some.scale(torch.full((1, 2, 2, 2), 2000.0)).shape == (1, 2, 2, 2)
    with pytest.raises(ValueError, match="2 bands"):
        some.scale(images())
    own = SensorSpec("own", [500.0, 600.0], [0.2, 0.3], [0.1, 0.1], 5.0)
    assert (own.bands, own.wavelengths, own.mean) == (("B1", "B2"), (500.0, 600.0), (0.2, 0.3))
    assert own == SensorSpec(name="own", wavelengths=(500.0, 600.0), mean=(0.2, 0.3), std=(0.1, 0.1), resolution=5.0)
    with pytest.raises(LookupError, match="no band 'B99'"):
        sensor("sentinel-2").select(["B99"])
    with pytest.raises(LookupError, match="sentinel-2"):
        sensor("sentinel-9")
    with pytest.raises(ValueError, match="2 wavelengths but 1 entries of bands"):
        SensorSpec("two", (500.0, 600.0), (), (), 10.0, ("one",))
    with pytest.raises(ValueError, match="positive"):
        SensorSpec("none", (500.0,), (), (), 0.0)
