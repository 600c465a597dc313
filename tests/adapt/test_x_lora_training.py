"""X-LoRA learns as its wrapped model would: what is trained, gradient checkpointing, the trainer, compilation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fullrank.adapt import XLoraModel
from fullrank.adapt.x_lora_recomputing import recomputing

from .mixtures import loaded, mixture
from .models import build, inputs, output

EITHER = pytest.mark.parametrize("use_reentrant", [False, True])


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def learn(model, given, steps=3):
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**given, labels=given["input_ids"]).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("experts", [False, True])
def test_only_the_gate_learns_unless_told_otherwise(experts):
    model = mixture("llama", use_trainable_adapters=experts, xlora_depth=2, xlora_size=6).train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    learn(model, inputs("llama"))
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    gate = {name for name in before if name.startswith("gate.")}
    assert changed == gate | ({name for name in before if ".lora_" in name} if experts else set())
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == model.get_nb_trainable_parameters()[0]


@EITHER
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("options", [{}, {"layerwise_scalings": True, "use_trainable_adapters": True}])
def test_gradient_checkpointing_changes_nothing(name, options, use_reentrant):
    model = mixture(name, xlora_dropout_p=0.0, **options).train()
    output(model, name).square().sum().backward()
    expected = gradients(model)
    assert all(gradient.abs().max() > 0 for gradient in expected.values())
    model.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    output(model, name).square().sum().backward()
    found = gradients(model)
    assert set(found) == set(expected)
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


@EITHER
def test_two_forward_passes_before_one_backward_pass(use_reentrant):
    """A block that is run again has to meet the scalings of its own forward pass, not of the last."""
    model = mixture("llama", xlora_dropout_p=0.0).train()
    ids = inputs("llama")["input_ids"]
    given = [{"input_ids": ids}, {"inputs_embeds": model.get_input_embeddings()(ids.flip(1)).detach()}]

    def both():
        model.zero_grad()
        sum(model(**one).logits.square().sum() for one in given).backward()
        return gradients(model)

    expected = both()
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    for key, gradient in both().items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-4, atol=1e-5 * float(expected[key].abs().max()))


def test_an_error_leaves_nothing_behind():
    model = mixture("llama").train()
    model.activation_checkpointing_enable({"use_reentrant": False})

    def functions():
        return [module._gradient_checkpointing_func for module in recomputing(model)]

    before = functions()
    with pytest.raises(ValueError, match="batch_size"):
        model(inputs("llama")["input_ids"], labels=torch.zeros(1, 1, dtype=torch.long))
    assert model._pass.scalings is None
    assert functions() == before != []


def test_a_copy_is_independent():
    model = mixture("llama")
    expected = output(model, "llama")
    other = copy.deepcopy(model)
    assert torch.equal(output(other, "llama"), expected)
    learn(other.train(), inputs("llama"))
    assert not torch.allclose(output(other.eval(), "llama"), expected)
    assert torch.equal(output(model, "llama"), expected)
    other.set_topk_lora(1)
    assert model.gate_config.top_k_lora is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast(dtype):
    model = mixture("llama")
    expected = output(model, "llama")
    half = mixture("llama", base=build("llama").to(dtype))
    found = output(half, "llama")
    assert found.dtype == dtype
    near = {"rtol": 0, "atol": 40 * torch.finfo(dtype).eps * float(expected.detach().abs().max())}
    torch.testing.assert_close(found.float(), expected, **near)
    if dtype == torch.bfloat16:
        with torch.autocast("cpu", dtype=dtype):
            found = output(model.train(), "llama")
            found.float().square().mean().backward()
        assert model.gate.output.weight.grad.dtype == torch.float32
        torch.testing.assert_close(found.float(), expected, **near)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # the compiler's
@pytest.mark.parametrize("layerwise", [False, True])
def test_compiled(layerwise):
    model = mixture("llama", layerwise_scalings=layerwise)
    compiled = torch.compile(model, backend="eager")
    given = inputs("llama") | {"use_cache": False}
    torch.testing.assert_close(compiled(**given).logits, model(**given).logits)
    with model.disable_adapter():
        torch.testing.assert_close(compiled(**given).logits, output(build("llama"), "llama"))


class Sentences(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        ids = torch.randint(3, 40, (6,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": ids, "labels": ids}


def trainer(model, folder, **options):
    from transformers import Trainer, TrainingArguments

    defaults = {
        "output_dir": str(folder), "per_device_train_batch_size": 4, "max_steps": 4, "save_steps": 2,
        "learning_rate": 0.05, "report_to": [], "use_cpu": True, "disable_tqdm": True, "seed": 0,
        "lr_scheduler_type": "constant", "dataloader_pin_memory": False, "logging_steps": 100,
    }  # fmt: skip
    return Trainer(model, TrainingArguments(**(defaults | options)), train_dataset=Sentences())


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("experts", [False, True])
def test_the_trainer_trains_saves_and_resumes(experts, tmp_path):
    options = {"xlora_dropout_p": 0.0, "use_trainable_adapters": experts}
    model = loaded(tmp_path / "experts", **options)
    before = output(model, "llama")
    trainer(model, tmp_path / "run").train()
    after = output(model.eval(), "llama")
    assert not torch.allclose(after, before)
    again = XLoraModel.from_pretrained(build("llama"), tmp_path / "run" / "checkpoint-4", check_base=False)
    torch.testing.assert_close(output(again, "llama"), after)
    resumed = loaded(tmp_path / "experts", **options)
    trainer(resumed, tmp_path / "run").train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    torch.testing.assert_close(output(resumed.eval(), "llama"), after, rtol=1e-4, atol=1e-5)


def test_it_counts_as_a_module_with_two_parts():
    model = mixture("llama")
    assert {name for name, _ in model.named_children()} == {"base_model", "gate"}
    assert isinstance(model.gate.output, nn.Linear)
    assert {name.partition(".")[0] for name in model.state_dict()} == {"base_model", "gate"}
