"""The authors' numbers: blocks of both releases, the encoder, and a step of Hyper-MAE."""

from __future__ import annotations

import pytest
import torch

from fullrank.nn.less_attention import LESSBlock
from fullrank.nn.less_positions import perception_field_mask
from fullrank.nn.less_vit import LESSViTConfig, LESSViTModel
from fullrank.nn.less_vit_conversion import convert_less_vit_state, less_vit_name
from fullrank.nn.less_vit_masking import Masking
from fullrank.nn.less_vit_pretraining import LESSViTForPreTraining

BLOCK = {
    "dim", "num_heads", "channel_dims_per_head", "channel_dim", "spatial_dim", "spatial_head_dim", "rank", "channels",
    "patch_side", "attention_radius_m", "patch_size", "resolution_m", "layer_scale", "qk_norm", "seed",
}  # fmt: skip
MODEL = {
    "patch_size", "embed_dim", "channel_embed_dims_per_head", "depth", "num_heads", "init_values", "decoder_embed_dim",
    "decoder_depth", "decoder_channel_embed_dims_per_head", "decoder_num_heads", "rank", "use_perception_field_mask",
    "attention_radius", "image", "batch", "channels", "radar_channels", "optical_channels", "spatial_resolution",
    "mask_ratio", "channel_mask_ratio", "norm_pix_loss", "qk_norm", "qkv_bias", "seed",
}  # fmt: skip


def official_state(tensors):
    return {name.removeprefix("state."): t for name, t in tensors.items() if name.startswith("state.")}


def later_release(case):
    return case.spec["upstream"]["repository"].endswith("LESSViT")


def release(case):
    return {"value_per_rank": True, "rank_reduce": "mean"} if later_release(case) else {}


def close(case, ours, theirs):
    outputs = case.spec["tolerance"]["outputs"]
    torch.testing.assert_close(ours, theirs, rtol=outputs["rtol"], atol=outputs["atol"])


def check_gradients(case, model):
    """Norms of every gradient; the two projections that we join are compared as one."""
    theirs: dict[str, float] = {}
    for name, norm in case.spec["grad_norms"].items():
        ours = less_vit_name(name)
        if norm is None:  # of the modality that the case is without
            assert model.get_parameter(ours).grad is None
        else:
            theirs[ours] = (theirs.get(ours, 0) ** 2 + norm**2) ** 0.5
    ours = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
    assert set(theirs) == set(ours)
    largest = max(theirs.values())
    for name, norm in theirs.items():
        assert ours[name] == pytest.approx(norm, rel=case.spec["tolerance"]["grad_norms"]["rtol"], abs=1e-5 * largest)
    assert case.spec["parameter_count"] == sum(p.numel() for p in model.parameters())


def vit_config(case, **options):
    config = case.spec["config"]
    assert set(config) <= MODEL
    radius = config.get("attention_radius", 640) if config.get("use_perception_field_mask", False) else None
    return LESSViTConfig(
        hidden_size=config["embed_dim"],
        num_hidden_layers=config["depth"],
        num_attention_heads=config["num_heads"],
        channel_head_dim=config["channel_embed_dims_per_head"],
        rank=config["rank"],
        patch_size=config["patch_size"],
        layer_scale=config["init_values"],
        attention_radius=radius,
        qk_norm=config.get("qk_norm", False),
        qkv_bias=config.get("qkv_bias", True),
        decoder_hidden_size=config["decoder_embed_dim"],
        decoder_num_hidden_layers=config["decoder_depth"],
        decoder_num_attention_heads=config["decoder_num_heads"],
        decoder_channel_head_dim=config["decoder_channel_embed_dims_per_head"],
        norm_pix_loss=config.get("norm_pix_loss", False),
        **release(case),
        **options,
    )


def check_block(case):
    tensors, config = case.tensors, case.spec["config"]
    assert set(config) <= BLOCK
    block = LESSBlock(
        config["dim"],
        config["num_heads"],
        config["channel_dims_per_head"],
        rank=config["rank"],
        layer_scale=config["layer_scale"],
        qk_norm=config["qk_norm"],
        **release(case),
    )
    block.load_state_dict(convert_less_vit_state(official_state(tensors)))
    mask = None
    if config["attention_radius_m"] is not None:
        grid = (config["patch_side"], config["patch_side"])
        mask = perception_field_mask(grid, config["patch_size"], config["resolution_m"], config["attention_radius_m"])
        assert torch.equal(mask, tensors["spatial_mask"].bool())
    x = tensors["input"].requires_grad_()
    z_c, z_s = block.attention.pooling(block.norm1(x))
    close(case, z_c, tensors["pooled_channel"])
    close(case, z_s, tensors["pooled_spatial"])
    y = block(x, mask)
    close(case, y, tensors["output"])
    (y * tensors["cotangent"]).sum().backward()
    close(case, x.grad, tensors["grad.input"])
    check_gradients(case, block)


def images(tensors):
    """Optical and radar images and wavelengths side by side, and how many channels each has."""
    kinds = {kind: tensors[kind] for kind in ("optical", "radar") if kind in tensors}
    wavelengths = [tensors[name] for name in ("wavelengths", "radar_wavelengths") if name in tensors]
    pixels = torch.cat(list(kinds.values()), dim=1).requires_grad_()
    return pixels, torch.cat(wavelengths, dim=1), [kinds[k].shape[1] if k in kinds else 0 for k in ("optical", "radar")]


def check_encoder(case):
    tensors, config = case.tensors, case.spec["config"]
    pixels, wavelengths, sizes = images(tensors)
    options = {}
    if bool((wavelengths <= 1).all()):  # of the later release: scaled from its range to [0, 1]
        options["position_embedding"] = "rotary"
        wavelengths = 400 + 2100 * wavelengths.double()
    model = LESSViTModel(vit_config(case, **options)).eval()
    model.load_state_dict(convert_less_vit_state(official_state(tensors)))
    resolution = config["spatial_resolution"]
    tokens = model(pixels, wavelengths, resolution, sizes).last_hidden_state
    if "pos_chan_embed" in tensors:
        grid = model.grid_of(pixels)
        E = model.encoder.positions(wavelengths, grid, resolution, config["patch_size"])
        close(case, E, tensors["pos_chan_embed"])
    close(case, tokens, tensors["tokens"])
    (tokens * tensors["cotangent"]).sum().backward()
    start = 0
    for kind, size in zip(("optical", "radar"), sizes, strict=True):
        if f"grad.{kind}" in tensors:
            close(case, pixels.grad[:, start : start + size], tensors[f"grad.{kind}"])
        start += size
    check_gradients(case, model)


def check_hyper_mae(case):
    tensors = case.tensors
    pixels, wavelengths, sizes = images(tensors)
    model = LESSViTForPreTraining(vit_config(case)).train()
    model.load_state_dict(convert_less_vit_state(official_state(tensors)))
    channels, patches = (
        Masking(tensors[f"{name}_ids_restore"], int((tensors[f"{name}_mask"][0] == 0).sum()))
        for name in ("channel", "pos")
    )
    resolution = case.spec["config"].get("spatial_resolution", 10)
    output = model(pixels, wavelengths, resolution, sizes, patches, channels)
    assert torch.equal(output.channel_mask.float(), tensors["channel_mask"])
    assert torch.equal(output.patch_mask.float(), tensors["pos_mask"])
    close(case, output.target, tensors["target"])
    close(case, output.latent, tensors["latent"])
    close(case, output.reconstruction, tensors["recon"])
    close(case, output.loss.reshape(1), tensors["loss"])
    output.loss.backward()
    check_gradients(case, model)


@pytest.mark.golden("less-vit")
def test_golden(case):
    """What a case is shows in what it holds: a step with masks, an encoder from images, or a block."""
    tensors = case.tensors
    if "recon" in tensors:
        check_hyper_mae(case)
    elif "tokens" in tensors:
        check_encoder(case)
    else:
        check_block(case)
