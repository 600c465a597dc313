from __future__ import annotations

import math
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from fullrank.adapt import LocaConfig, TrainingSettings, train, training_memory
from fullrank.adapt.memory import activation_bytes
from fullrank.adapt.training import parameter_groups
from fullrank.tasks.evaluation import evaluate


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 6)
        self.head = nn.Linear(6, 1)

    def forward(self, x, labels):
        logits = self.head(torch.tanh(self.body(x))).squeeze(-1)
        return {"loss": (logits - labels).square().mean(), "logits": logits}


def rows(count=40):
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return [{"x": row, "labels": row[0] - row[1]} for row in x]


def collate(items):
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def adapted(config=None):
    torch.manual_seed(0)
    return get_peft_model(Regression(), config or LoraConfig(target_modules=["body"], r=2, modules_to_save=["head"]))


def test_training_reaches_the_adapter_and_the_head_and_tells_of_every_step():
    model, seen = adapted(), []
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    settings = TrainingSettings(epochs=20, batch_size=8, learning_rate=3e-2, head_learning_rate=3e-2)
    record = train(model, rows(), collate, settings, on_progress=lambda *step: seen.append(step))
    assert record.steps == len(record.losses) == len(seen) == 100
    assert seen[-1][:2] == (100, 100)
    assert record.losses[-1] < record.losses[0] / 5
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not model.training


def test_the_head_has_a_learning_rate_of_its_own():
    settings = TrainingSettings(learning_rate=1e-3, head_learning_rate=1e-2, location_learning_rate=1e-4)
    model = adapted(
        LocaConfig(target_modules=["body"], n_frequency=3, init_locations="distinct", modules_to_save=["head"])
    )
    rates = {
        name: group["lr"]
        for group in parameter_groups(model, settings)
        for name, parameter in model.named_parameters()
        if any(parameter is other for other in group["params"])
    }
    assert {name.rpartition(".")[2]: rate for name, rate in rates.items() if "loca" in name} == {
        "spectrum": 1e-3,
        "locations": 1e-4,
    }
    assert {rate for name, rate in rates.items() if "head" in name} == {1e-2}


def test_a_stopped_training_says_so():
    def stop(done, total, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(adapted(), rows(), collate, TrainingSettings(), on_progress=stop)


def test_memory_is_counted_exactly():
    model = Regression()
    model.body.requires_grad_(False)
    batch = collate(rows(10))
    # tanh(body x) for the head's weight, the difference for its square; neither x nor a weight is counted
    assert activation_bytes(model, batch) == 4 * (10 * 6 + 10)
    memory = training_memory(model, batch)
    assert (memory.gradients, memory.optimizer) == (4 * 7, 8 * 7)
    assert memory.total == memory.activations + memory.gradients + memory.optimizer
    assert model.training


def test_views_of_one_storage_count_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(8))

        def forward(self, x):
            y = x * self.w  # keeps x, which is the batch's own
            return (y.exp() * y.view(2, 4).view(8)).sum()

    assert activation_bytes(Twice(), {"x": torch.ones(8)}) == 4 * (8 + 8)  # y and exp(y)


def test_what_was_counted_is_let_go():
    outputs = []

    class Exponential(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            y = (self.scale * x).exp()  # saves its own output
            outputs.append(weakref.ref(y))
            return y

    assert activation_bytes(Exponential(), {"x": torch.ones(8)}) == 4 * 8
    assert outputs[0]() is None


def test_evaluation_of_a_language_model_weighs_tokens():
    class Uniform(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(7))

        def forward(self, labels):
            kept = labels[:, 1:]
            logits = self.logits.expand(*kept.shape, 7)
            return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), kept.flatten(), ignore_index=-100)}

    items = [torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, -100, -100]), torch.tensor([1, 2, 3, -100])]
    found = evaluate(Uniform(), items, lambda rows: {"labels": torch.stack(rows)}, "causal-lm", batch_size=2)
    assert found["perplexity"] == pytest.approx(7)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("epochs", 0, "epochs=0: a positive number"),
        ("epochs", math.inf, "epochs=inf: a positive number"),
        ("learning_rate", math.inf, "learning_rate=inf: a positive number"),
        ("learning_rate", float("nan"), "learning_rate=nan: a positive"),
        ("warmup", 1.0, "warmup=1.0: a share"),
        ("device", "tpu", "'cpu' and 'cuda' are accepted"),
    ],
)
def test_bad_settings(field, value, words):
    with pytest.raises(ValueError, match=words):
        TrainingSettings(**{field: value})


def test_nothing_to_train():
    with pytest.raises(ValueError, match="nothing in the model is trainable"):
        train(Regression().requires_grad_(False), rows(), collate, TrainingSettings())
    with pytest.raises(ValueError, match="no examples to train on"):
        train(Regression(), [], collate, TrainingSettings())
    with pytest.raises(ValueError, match="no examples to evaluate on"):
        evaluate(Regression(), [], collate, "regression")
