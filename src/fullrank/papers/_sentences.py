"""What the studies of adapters share: sentences classified by the last layers of MiniLM, whose first layers run once.

The frozen layers under the adapted ones give the same states in every epoch, with every method and seed, so they are
computed once. Sentences are represented by the mean of their tokens, and classified by a linear head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import TrainerCallback

    from fullrank.adapt import TrainingSettings

_BATCH = 64


class Size(NamedTuple):
    """How much text is trained on."""

    training: int
    testing: int
    tokens: int
    layers: int
    epochs: int


@dataclass(frozen=True)
class Sentences:
    """States of sentences under the adapted layers; an item is (states, label).

    Attributes:
        states: (tokens, width) of every sentence.
        labels: its class.
    """

    states: Sequence[Tensor]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.states[index], self.labels[index]


@dataclass(frozen=True)
class SentenceTask:
    """A data set of sentences in classes.

    Attributes:
        classes: how many.
        layers: how many layers of the encoder are adapted.
        train, test: the sentences.
    """

    classes: int
    layers: int
    train: Sentences
    test: Sentences


@dataclass(frozen=True)
class Outcome:
    """What training gave.

    Attributes:
        accuracy: on the test sentences, from 0 to 1.
        parameters: trained in the adapter at the first step, without the head.
        seconds_per_step: the median step.
        model: as trained, in evaluation mode.
    """

    accuracy: float
    parameters: int
    seconds_per_step: float
    model: nn.Module = field(repr=False)


@cache
def sentence_task(name: str, training: int, testing: int, tokens: int = 24, layers: int = 2) -> SentenceTask:
    """A bundled data set, with the states that MiniLM's first layers give.

    Args:
        name: "trec-questions", "sst2", "agnews" or "rt-polarity".
        training, testing: how many sentences, drawn with seed 0.
        tokens: longer sentences are cut.
        layers: how many of the six layers are left to adapt.
    """
    from fullrank.adapt import load_examples

    examples = load_examples(name, "classification", seed=0)
    number = {label: index for index, label in enumerate(examples.labels)}
    parts = [
        Sentences(
            _states([record["text"] for record in records], tokens, layers),
            [number[record["label"]] for record in records],
        )
        for records in (examples.train[:training], examples.test[:testing])
    ]
    return SentenceTask(len(examples.labels), layers, *parts)


def upper_layers(layers: int, classes: int, seed: int) -> nn.Module:
    """The last layers of MiniLM, mean pooling and a new linear head; takes `states`, `attention_mask`, `labels`."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _upper_layers(layers, classes)


def train_sentences(
    task: SentenceTask,
    config: Any,
    settings: TrainingSettings,
    *,
    everything: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    before_training: Callable[[nn.Module], None] = lambda model: None,
    on_progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Outcome:
    """Train an adapter with the head, the head alone, or everything.

    Args:
        task: the sentences.
        config: the adapter's PEFT configuration; None for none. Its random choices come from the seed of `settings`.
        settings: how to train.
        everything: without an adapter: train the layers in full too.
        callbacks: of the method.
        before_training: may change the model, such as its start.
        on_progress: called with (done, total, text) after every step.
    """
    import torch
    from peft import get_peft_model

    from fullrank.adapt import train
    from fullrank.adapt.methods import adapter_parameters

    model: Any = upper_layers(task.layers, task.classes, settings.seed)
    if config is None:
        model.encoder.requires_grad_(everything)
    else:
        config.modules_to_save = ["head"]
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            model = get_peft_model(model, config)
    before_training(model)
    counted = set(model.encoder.parameters() if everything else adapter_parameters(model))  # some layers share theirs
    parameters = sum(parameter.numel() for parameter in counted if parameter.requires_grad)
    record = train(model, task.train, collate, settings, callbacks, on_progress)
    return Outcome(accuracy(model, task.test), parameters, record.seconds_per_step, model)


def accuracy(model: nn.Module, sentences: Sentences) -> float:
    """The share of sentences whose class a model names."""
    from fullrank.tasks.evaluation import evaluate

    return evaluate(model, sentences, collate, "classification", 2 * _BATCH)["accuracy"]


def collate(items: Sequence[tuple[Tensor, int]]) -> dict[str, Tensor]:
    """A batch, padded on the right."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    states = pad_sequence([item[0] for item in items], batch_first=True)
    lengths = torch.tensor([len(item[0]) for item in items])
    mask = torch.arange(states.shape[1]) < lengths[:, None]
    return {"states": states, "attention_mask": mask, "labels": torch.tensor([item[1] for item in items])}


def _encoder() -> Any:
    from transformers import AutoModel

    from fullrank import data

    return AutoModel.from_pretrained(data.bundled_encoder(), attn_implementation="sdpa").eval()


def _states(texts: Sequence[str], tokens: int, layers: int) -> list[Tensor]:
    """What the layers under the last ones make of sentences, (tokens, width) each."""
    import torch
    from transformers import AutoTokenizer

    from fullrank import data

    model = _encoder()
    model.encoder.layer = model.encoder.layer[: len(model.encoder.layer) - layers]
    tokenizer: Any = AutoTokenizer.from_pretrained(data.bundled_encoder())
    states: list[Tensor] = []
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer(
            list(texts[start : start + _BATCH]), truncation=True, max_length=tokens, padding=True, return_tensors="pt"
        )
        with torch.no_grad():
            found = model(**batch).last_hidden_state
        states += [row[mask.bool()].clone() for row, mask in zip(found, batch["attention_mask"], strict=True)]
    return states


def _upper_layers(layers: int, classes: int) -> nn.Module:
    import torch
    from torch import nn

    class UpperLayers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = _encoder().encoder
            self.encoder.layer = self.encoder.layer[-layers:]
            self.encoder.requires_grad_(False)
            self.head = nn.Linear(self.encoder.config.hidden_size, classes)

        def forward(self, states: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
            found = self.encoder(states, attention_mask=attention_mask[:, None, None, :]).last_hidden_state
            weights = attention_mask.unsqueeze(-1).to(found.dtype)
            logits = self.head((found * weights).sum(1) / weights.sum(1))
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    return UpperLayers()
