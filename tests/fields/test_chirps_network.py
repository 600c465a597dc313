"""The regressor: adapters found by structure, saving, merging, head masking, protocols, the estimator."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn
from transformers import ViTConfig

from fullrank.adapt import HydraConfig, LoLDUConfig
from fullrank.fields.chirps import (
    ChirpDataset,
    ChirpLocalizer,
    ChirpRegressorConfig,
    ChirpSpectrogramConfig,
    ChirpTrainingSettings,
    DrawnSpectrograms,
    StoredSpectrograms,
    ViTForChirpRegression,
    attention_layers,
    generate_chirps,
    masked_heads,
    query_value_targets,
    small_backbone,
    target_matrix,
    train_regressor,
)
from fullrank.fields.chirps.training import parameter_groups, split

TINY = ChirpSpectrogramConfig(n_time=64, n_freq=64)


def backbone(seed=0):
    torch.manual_seed(seed)
    return small_backbone((64, 64), width=16, layers=2, heads=2, patch=16)


def model(seed=0, adapter=None, **options):
    found = ViTForChirpRegression.from_backbone(
        backbone(seed), ChirpRegressorConfig(**{"lora_r": 2, "head_dims": (8,)} | options), adapter
    )
    return found.eval()


@pytest.fixture(scope="module")
def examples():
    Z, labels = generate_chirps(40, TINY, 0)
    return Z, target_matrix(labels)


def perturb(module):
    """Give an adapter that starts at no change a random one."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in module.vit.named_parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
            assert name
    return module


# --- adapters ---------------------------------------------------------------------------------------------------------


def test_sizes_of_the_paper():
    with torch.device("meta"):
        paper = ViTForChirpRegression.from_backbone(ViTConfig())
    assert paper.trainable_parameters() == {"adapter": 294_912, "head": 230_147}
    assert isinstance(paper.vit, PeftModel)


@pytest.mark.parametrize(
    ("width", "layers", "adapter", "head"),
    [(384, 12, 147_456, 131_843), (192, 12, 73_728, 82_691), (96, 4, 12_288, 58_115)],
)
def test_sizes_of_other_backbones(width, layers, adapter, head):
    config = ViTConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 32)
    with torch.device("meta"):
        found = ViTForChirpRegression.from_backbone(config).trainable_parameters()
    assert found == {"adapter": adapter, "head": head}


class OldAttention(nn.Module):
    """The names of transformers 4."""

    def __init__(self):
        super().__init__()
        self.attention = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(4, 4)})


def test_targets_are_found_by_structure():
    old = nn.Module()
    old.encoder = nn.ModuleDict({"layer": nn.ModuleList([nn.ModuleDict({"attention": OldAttention()})])})
    old.query = nn.Linear(4, 4)  # belongs to no attention
    block = "encoder.layer.0.attention"
    assert query_value_targets(old) == [f"{block}.attention.query", f"{block}.attention.value"]
    assert attention_layers(old)[0].output == f"{block}.output.dense"
    assert query_value_targets(backbone()) == [
        f"layers.{layer}.attention.{part}_proj" for layer in (0, 1) for part in ("q", "v")
    ]


def test_targets_that_are_not_there():
    with pytest.raises(ValueError, match=r"no attention with separate query and value .* linear layers are 0"):
        attention_layers(nn.Sequential(nn.Linear(3, 9)))
    with pytest.raises(ValueError, match=r"lora_targets=\['qkv'\]: the backbone has no such layers; .*q_proj"):
        model(lora_targets=("qkv",))


def test_an_adapter_starts_at_no_change(examples):
    frozen, adapted = model(adaptation="frozen"), model()
    adapted.regression_head.load_state_dict(frozen.regression_head.state_dict())
    pixels = adapted.prepare(examples[0][:4])
    torch.testing.assert_close(adapted(pixels).logits, frozen(pixels).logits)
    frozen_names = {name for name, p in adapted.named_parameters() if not p.requires_grad}
    assert all("lora" not in name and "regression_head" not in name for name in frozen_names)


@pytest.mark.parametrize("adapter", [None, HydraConfig(r=2), LoLDUConfig(r=2), LoraConfig(r=2, use_dora=True)])
def test_merged_is_unmerged_with_any_adapter(examples, adapter):
    adapted = perturb(model(adapter=copy.deepcopy(adapter)))
    pixels = adapted.prepare(examples[0][:4])
    expected = adapted(pixels).logits
    merged = adapted.merge()
    assert not isinstance(merged.vit, PeftModel)
    torch.testing.assert_close(merged(pixels).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"pooling": "mean"}, {"loss": "gaussian"}, {"adaptation": "full"}])
@pytest.mark.parametrize("adapter", [None, HydraConfig(r=2)])
def test_saved_and_loaded(examples, tmp_path, options, adapter):
    adapter = None if "adaptation" in options else adapter
    first = perturb(model(adapter=copy.deepcopy(adapter), **options))
    first.scaler.fit(examples[1])
    first.spectrogram = TINY
    first.save_pretrained(tmp_path / "model")
    again = ViTForChirpRegression.from_pretrained(tmp_path / "model")
    np.testing.assert_allclose(again.predict(examples[0]), first.predict(examples[0]), rtol=1e-6)
    assert again.config == first.config
    assert again.spectrogram == TINY
    assert again.trainable_parameters() == first.trainable_parameters()
    half = first.save_pretrained(tmp_path / "half", torch.float16)
    smaller = (half / "model.safetensors").stat().st_size
    assert smaller < 0.7 * (tmp_path / "model" / "model.safetensors").stat().st_size
    np.testing.assert_allclose(
        ViTForChirpRegression.from_pretrained(half).predict(examples[0]),
        first.predict(examples[0]),
        rtol=0.05,
        atol=0.5,
    )


def test_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no saved chirp regressor: chirp_regressor\.json is missing"):
        ViTForChirpRegression.from_pretrained(tmp_path)
    folder = model().save_pretrained(tmp_path / "model")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="is no chirp regressor that can be read"):
        ViTForChirpRegression.from_pretrained(folder)
    model(head_dims=(9,)).save_pretrained(tmp_path / "other")
    (folder / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match="do not fit its configuration"):
        ViTForChirpRegression.from_pretrained(folder)
    (folder / "chirp_regressor.json").write_text("{")
    with pytest.raises(ValueError, match="is no chirp regressor that can be read"):
        ViTForChirpRegression.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        ViTForChirpRegression.from_backbone("nowhere")


def test_a_folder_as_backbone(tmp_path, examples):
    vit = backbone()
    vit.save_pretrained(tmp_path)
    found = ViTForChirpRegression.from_backbone(tmp_path, ChirpRegressorConfig(adaptation="frozen"))
    pixels = found.prepare(examples[0][:2])
    torch.testing.assert_close(found.eval().vit(pixels).last_hidden_state, vit.eval()(pixels).last_hidden_state)


# --- pictures in, numbers out -----------------------------------------------------------------------------------------


def test_pictures_of_every_shape(examples, caplog):
    network = model()
    Z = torch.from_numpy(examples[0][:3])
    pixels = network.prepare(Z)
    assert pixels.shape == (3, 3, 64, 64)
    assert pixels.amin() == -1
    assert pixels.amax() == 1
    unit = model(normalize="unit").prepare(Z)
    torch.testing.assert_close(2 * unit - 1, pixels)
    torch.testing.assert_close(network(pixels[:, 0]).logits, network(pixels).logits)
    torch.testing.assert_close(network(pixels[:, :1]).logits, network(pixels).logits)
    with caplog.at_level(logging.INFO, logger="fullrank.fields.chirps.regressor"):
        network(torch.zeros(1, 3, 128, 96))
        network(torch.zeros(1, 3, 128, 96))
    assert caplog.messages == ["pictures of (128, 96) are resized to the (64, 64) of the backbone"]
    drawn = ChirpDataset(1, config=TINY, render="figure")[0][0]
    assert network.prepare(drawn[None]).shape == (1, 3, 64, 64)
    in_bytes = (255 * drawn[None]).round().to(torch.uint8)
    torch.testing.assert_close(network.prepare(in_bytes), network.prepare(drawn[None]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(torch.zeros(1, 2, 64, 64)), "pixel_values has the shape .* one channel, or none is accepted"),
        (
            lambda m: m(torch.zeros(1, 3, 64, 64), torch.zeros(1, 2)),
            r"labels has the shape \(1, 2\): \(1, 3\) is needed",
        ),
        (lambda m: m.prepare(torch.zeros(64, 64)), "spectrograms are needed"),
        (lambda m: m.prepare(torch.full((1, 64, 64), torch.nan)), "NaN or infinite"),
        (lambda m: m.predict(np.zeros((1, 64, 64))), "label scaler has no mean"),
    ],
)
def test_pictures_that_do_not_fit(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call(model())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet"}, "backbone='resnet': use one of 'vit'"),
        ({"adaptation": "some"}, "adaptation='some': use one of 'lora', 'frozen', 'full'"),
        ({"loss": "l1"}, "loss='l1': use one of"),
        ({"pooling": "max"}, "pooling='max': use one of"),
        ({"normalize": "imagenet"}, "normalize='imagenet': use one of"),
        ({"lora_r": 0}, "lora_r=0: a rank of at least 1"),
        ({"lora_dropout": 1.0}, "lora_dropout=1.0"),
        ({"head_dims": (0,)}, r"head_dims=\(0,\)"),
        ({"targets": ("onset_time", "onset_time")}, "each once"),
        ({"lora_targets": "q_proj"}, "lora_targets='q_proj': use 'auto' or a tuple"),
    ],
)
def test_bad_configurations(unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        ChirpRegressorConfig(**options)


def test_an_adapter_beside_another_adaptation():
    with pytest.raises(ValueError, match="adapter=HydraConfig beside adaptation='full': give one of them"):
        model(adapter=HydraConfig(r=2), adaptation="full")


@pytest.mark.parametrize("loss", ["mse", "huber", "gaussian"])
def test_losses(examples, loss):
    network = model(loss=loss)
    labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    found = network(network.prepare(examples[0][:4]), labels)
    error = found.logits - labels
    expected = {
        "mse": lambda: error.square().mean(),
        "huber": lambda: torch.where(error.abs() < 1, error.square() / 2, error.abs() - 0.5).mean(),
        "gaussian": lambda: ((error.square() / found.log_variance.exp() + found.log_variance) / 2).mean(),
    }[loss]()
    torch.testing.assert_close(found.loss, expected)
    found.loss.backward()


def test_compiled():
    """In a process of its own, without checks in every function."""
    code = """
import torch
from fullrank.fields.chirps import ChirpRegressorConfig, ViTForChirpRegression, small_backbone
vit = small_backbone((32, 32), width=16, layers=1, heads=2, patch=16)
model = ViTForChirpRegression.from_backbone(vit, ChirpRegressorConfig(lora_r=2, head_dims=(8,))).eval()
pixels = torch.randn(2, 3, 32, 32)
compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
torch.testing.assert_close(compiled(pixels).logits, model(pixels).logits)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=250)


# --- attention heads --------------------------------------------------------------------------------------------------


def test_a_masked_head_is_one_whose_output_columns_are_zero(examples):
    network = perturb(model())
    pixels = network.prepare(examples[0][:4])
    before = network(pixels).logits
    with masked_heads(network.vit, [(1, 0)], 2):
        masked = network(pixels).logits
    torch.testing.assert_close(network(pixels).logits, before)
    changed = copy.deepcopy(network)
    output = changed.vit.get_submodule(attention_layers(changed.vit)[1].output)
    output.weight.data[:, :8] = 0
    torch.testing.assert_close(changed(pixels).logits, masked)
    assert not torch.allclose(masked, before)
    with (
        pytest.raises(ValueError, match="head 2 of layer 0: the model has 2 layers of 2 heads"),
        masked_heads(network.vit, [(0, 2)], 2),
    ):
        pass


def test_the_map_of_heads(examples):
    network = model()
    labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    pixels = network.prepare(examples[0][:4])
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    rise = network.head_ablation(pixels, labels)
    assert rise.shape == (2, 2)
    assert (rise != 0).all()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, state[name])


# --- training ---------------------------------------------------------------------------------------------------------


def test_protocols(examples):
    """The paper's protocol scales by all labels and stops by the test part; ours by neither."""
    Z, y = examples
    records = {}
    for protocol in ("fair", "paper"):
        network = model()
        settings = ChirpTrainingSettings(protocol=protocol, epochs=1, batch_size=8)
        record = records[protocol] = train_regressor(network, StoredSpectrograms(Z, y), settings)
        used = y if protocol == "paper" else y[record.train]
        np.testing.assert_allclose(network.scaler.mean, used.mean(axis=0))
        np.testing.assert_allclose(network.scaler.std, used.std(axis=0))
        assert set(record.test_r) == {"onset_time", "onset_frequency", "offset_frequency"}
    paper, fair = records["paper"], records["fair"]
    assert paper.validation is paper.test
    assert paper.losses[-1][1] == pytest.approx(paper.test_loss, rel=1e-5)
    assert [len(part) for part in (fair.train, fair.validation, fair.test)] == [32, 4, 4]
    assert sorted(np.concatenate([fair.train, fair.validation, fair.test])) == list(range(40))
    assert ChirpTrainingSettings(protocol="fair", label_stats="all").scales_by_all
    with pytest.raises(ValueError, match="9 examples: at least 10"):
        split(9)


def test_early_stopping_keeps_the_best(examples):
    network = model(adaptation="full")
    settings = ChirpTrainingSettings(epochs=30, batch_size=8, learning_rate=0.1, stop_after=2)
    record = train_regressor(network, StoredSpectrograms(*examples), settings)
    stopping = [loss for _, loss in record.losses]
    assert len(stopping) == record.best_epoch + 2 < 30
    assert stopping[record.best_epoch - 1] == min(stopping)


def test_training_is_reproducible_and_learns():
    spectrograms = DrawnSpectrograms(ChirpDataset(160, 0, TINY))
    settings = ChirpTrainingSettings(epochs=6, batch_size=16, learning_rate=3e-3, schedule="cosine", seed=1)
    runs = [train_regressor(model(adaptation="full"), spectrograms, settings).losses for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0][-1][0] < 0.97 * runs[0][0][0]


def test_learning_rates_of_adapter_and_head():
    groups = parameter_groups(model(), ChirpTrainingSettings(learning_rate=1e-3, head_learning_rate=1e-2))
    assert [group["lr"] for group in groups] == [1e-3, 1e-2]
    assert sum(p.numel() for p in groups[0]["params"]) == model().trainable_parameters()["adapter"]
    assert len(parameter_groups(model(adaptation="frozen"), ChirpTrainingSettings())) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "loose"}, "protocol='loose': use one of 'fair', 'paper'"),
        ({"label_stats": "test"}, "label_stats='test': use one of"),
        ({"schedule": "step"}, "schedule='step': use one of"),
        ({"epochs": 0}, "epochs=0: a positive number"),
    ],
)
def test_bad_settings(unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        ChirpTrainingSettings(**options)


def test_labels_that_do_not_fit(examples):
    Z, y = examples
    with pytest.raises(ValueError, match="Z has 40 spectrograms and y 39 rows"):
        StoredSpectrograms(Z, y[:-1])
    with pytest.raises(ValueError, match="column 'onset_time' of y is constant"):
        train_regressor(model(), StoredSpectrograms(Z, y * [0, 1, 1]))
    with pytest.raises(ValueError, match=r"y\[0\] has nan in column 'onset_time'"):
        train_regressor(model(), StoredSpectrograms(Z, y * [np.nan, 1, 1]))


# --- the estimator ----------------------------------------------------------------------------------------------------


def test_the_estimator(examples):
    Z, y = examples
    estimator = ChirpLocalizer(backbone(), epochs=1, batch_size=8)
    with pytest.raises(NotFittedError, match=r"not fitted yet: call fit\(Z, y\) before predict"):
        estimator.predict(Z)
    same = clone(ChirpLocalizer(epochs=3, targets=("onset_time",)))
    assert same.get_params()["epochs"] == 3
    predicted = estimator.fit(Z, y).predict(Z)
    assert predicted.shape == y.shape
    assert 0 <= estimator.score(Z, y) <= 1
    again = ChirpLocalizer(backbone(), epochs=1, batch_size=8).fit(Z, y).predict(Z)
    np.testing.assert_allclose(again, predicted)
    assert isinstance(estimator.model_.vit, PeftModel)
    labels = generate_chirps(40, TINY, 0)[1]
    assert estimator.score(Z, labels) == estimator.score(Z, y)
    of_labels = ChirpLocalizer(backbone(), epochs=1, batch_size=8).fit(Z, labels)
    np.testing.assert_allclose(of_labels.predict(Z), predicted)
    small = ChirpLocalizer(epochs=1, batch_size=16, targets=("onset_time",)).fit(Z, y[:, :1])
    assert small.model_.trainable_parameters()["adapter"] > 400_000
    assert small.predict(Z).shape == (40, 1)
    with pytest.raises(ValueError, match="at least 10 are needed"):
        estimator.fit(Z[:5], y[:5])
    with pytest.raises(ValueError, match=r"\(n, n_freq, n_time\) spectrograms are needed"):
        estimator.predict(Z[0])
    with pytest.raises(ValueError, match="sample_weight"):
        estimator.score(Z, y, np.ones(40))
