"""What a model that is changed has to keep: its quality at a task, without a new head and without training.

A model with a head is asked what its head was made for. An encoder without one is asked for the similarity of sentence
pairs, or for the classes that a linear probe on the original's embeddings tells apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fullrank.tasks.evaluation import correlation, evaluate, lower_is_better
from fullrank.tasks.examples import Examples, Record, Task
from fullrank.tasks.losses import Batch, labelled_losses
from fullrank.tasks.tokens import TokenizedExamples, collator

_SCALE = 5.0  # of the similarity scores
_HEADED = ("ForSequenceClassification", "ForCausalLM", "LMHeadModel")


class Quality(ABC):
    """How good a model is at a task, and the loss of every sample there.

    Attributes:
        metric: name of the main measure.
    """

    metric: str

    @property
    def lower_is_better(self) -> bool:
        """Whether less of the main measure is better."""
        return lower_is_better(self.metric)

    @abstractmethod
    def batches(self, batch_size: int = 8) -> Iterator[Batch]:
        """The training examples in batches."""

    @abstractmethod
    def sample_losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "batch"]:
        """The loss of every sample of a batch."""

    @abstractmethod
    def measure(self, model: nn.Module) -> dict[str, float]:
        """Measures on the test examples by name, the main one first."""


def quality_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, examples: Examples, max_length: int = 128
) -> Quality:
    """What a model is to keep at these examples.

    Args:
        model: of transformers, as trained.
        tokenizer: its tokenizer.
        examples: of its task: classes, scores or pairs for a model with such a head, texts for a language model, pairs
            with scores or classes for an encoder without a head.
        max_length: tokens of an example.

    Raises:
        ValueError: there is no tokenizer, or the examples do not fit the model.
    """
    if tokenizer is None:
        raise ValueError("the model has no tokenizer, which its examples need: add one to its folder")
    name = type(model).__name__
    require_fit(name, examples)
    if name.endswith(_HEADED):
        return HeadQuality(tokenizer, examples, max_length, _outputs(model))
    if examples.task == "pairs":
        return SimilarityQuality(tokenizer, examples, max_length)
    return ProbeQuality(model, tokenizer, examples, max_length)


def require_fit(name: str, examples: Examples) -> None:
    """Refuse examples that a model cannot be asked for, by the name of its class: it need not be loaded yet.

    Raises:
        ValueError: they do not fit.
    """
    language = name.endswith(_HEADED[1:])
    if language != (examples.task == "causal-lm"):
        raise ValueError(
            f"{name} cannot be asked for {examples.task} ({examples.source}): "
            + ("give it texts" if language else "give it labels or pairs with scores, or take a language model")
        )
    similarity = examples.task == "pairs" and not examples.labels
    if not (name.endswith(_HEADED) or similarity or examples.task == "classification"):
        raise ValueError(
            f"{name} is an encoder without a head, which {examples.task} ({examples.source}) does not fit: give it "
            "pairs with scores, or texts with labels"
        )


class HeadQuality(Quality):
    """A model with its head: accuracy, rank correlation or perplexity.

    Args:
        tokenizer: of the model.
        examples: for the head.
        max_length: tokens of an example.
        outputs: of the head, or None for a language model.

    Raises:
        ValueError: the head has other classes than the examples.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int, outputs: int | None
    ) -> None:
        if outputs is not None and outputs != examples.outputs:
            raise ValueError(
                f"the model's head has {outputs} outputs, {examples.source} needs {examples.outputs}: give it examples "
                "of the task that it was trained for"
            )
        self.task: Task = examples.task
        self._tokens = TokenizedExamples.of(examples, tokenizer, max_length)
        self._collate = collator(tokenizer, examples.task)
        self.metric = {"causal-lm": "perplexity"}.get(self.task, "accuracy" if examples.labels else "spearman")

    def batches(self, batch_size: int = 8) -> Iterator[Batch]:
        """Keyword arguments of the model, with labels."""
        items = self._tokens.train
        for start in range(0, len(items), batch_size):
            yield self._collate([items[row] for row in range(start, min(start + batch_size, len(items)))])

    def sample_losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "batch"]:
        """See `labelled_losses`."""
        return labelled_losses(model, batch)

    def measure(self, model: nn.Module) -> dict[str, float]:
        """See `tasks.evaluate`."""
        return evaluate(model, self._tokens.test, self._collate, self.task)


class SimilarityQuality(Quality):
    """An encoder's sentence embeddings: rank correlation of their cosine with a score of similarity, times 100.

    A sample's loss is the squared difference of cosine and score, scaled to [0, 1].
    """

    metric = "spearman x 100"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int) -> None:
        self._tokenize = partial(tokenized, tokenizer, max_length=max_length)
        self.train, self.test = examples.train, examples.test

    def batches(self, batch_size: int = 8) -> Iterator[Batch]:
        """First and second sentences, tokenised, and their scores."""
        for start in range(0, len(self.train), batch_size):
            records = self.train[start : start + batch_size]
            scores = torch.tensor([float(record["score"]) / _SCALE for record in records])
            first, second = (self._tokenize([str(record[side]) for record in records]) for side in ("first", "second"))
            yield {"first": first, "second": second, "labels": scores}

    def sample_losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "batch"]:
        """(cosine - score / 5)^2."""
        first, second = (mean_pooled(model, batch[side]) for side in ("first", "second"))
        return (functional.cosine_similarity(first, second) - batch["labels"].to(first.device)).square()

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Rank correlation and linear correlation, times 100."""
        first, second = (
            embed(model, self._tokenize, [str(record[side]) for record in self.test]) for side in ("first", "second")
        )
        cosine = functional.cosine_similarity(first, second).double().numpy()
        scores = np.array([float(record["score"]) for record in self.test])
        return {
            "spearman x 100": 100 * correlation(stats.spearmanr, cosine, scores),
            "pearson x 100": 100 * correlation(stats.pearsonr, cosine, scores),
        }


class ProbeQuality(Quality):
    """An encoder's embeddings of texts in classes: accuracy of the linear probe that fits the original model.

    The probe stays as it is, so that only the change of the encoder is measured.
    """

    metric = "accuracy"

    def __init__(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, examples: Examples, max_length: int
    ) -> None:
        self._tokenize = partial(tokenized, tokenizer, max_length=max_length)
        self.train, self.test = examples.train, examples.test
        self._classes = {label: number for number, label in enumerate(examples.labels)}
        states = embed(model, self._tokenize, [str(record["text"]) for record in self.train])
        probe = LogisticRegression(max_iter=1000).fit(states.numpy(), self._labels(self.train).numpy())
        weight, bias = torch.from_numpy(probe.coef_).float(), torch.from_numpy(probe.intercept_).float()
        # scikit-learn keeps one row for two classes
        self._weight = torch.cat([-weight, weight]) / 2 if len(weight) == 1 else weight
        self._bias = torch.cat([-bias, bias]) / 2 if len(bias) == 1 else bias

    def batches(self, batch_size: int = 8) -> Iterator[Batch]:
        """Tokenised texts and their classes."""
        for start in range(0, len(self.train), batch_size):
            records = self.train[start : start + batch_size]
            yield self._tokenize([str(record["text"]) for record in records]) | {"labels": self._labels(records)}

    def sample_losses(self, model: nn.Module, batch: Batch) -> Float[Tensor, "batch"]:
        """Cross-entropy of the probe."""
        states = mean_pooled(model, {name: value for name, value in batch.items() if name != "labels"})
        logits = functional.linear(states, self._weight.to(states), self._bias.to(states))
        return functional.cross_entropy(logits, batch["labels"].to(states.device), reduction="none")

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Accuracy, and the mean loss."""
        states = embed(model, self._tokenize, [str(record["text"]) for record in self.test])
        logits, labels = functional.linear(states, self._weight, self._bias), self._labels(self.test)
        return {
            "accuracy": float((logits.argmax(-1) == labels).double().mean()),
            "loss": float(functional.cross_entropy(logits, labels)),
        }

    def _labels(self, records: Sequence[Record]) -> Tensor:
        return torch.tensor([self._classes[record["label"]] for record in records])


def tokenized(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> dict[str, Tensor]:
    """Token ids and mask of texts, padded to the longest."""
    encoded = tokenizer(list(texts), padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def mean_pooled(model: nn.Module, inputs: dict[str, Tensor]) -> Float[Tensor, "batch dim"]:
    """The mean of the last hidden states of a batch's tokens."""
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in inputs.items()}
    states = model(**inputs).last_hidden_state.float()
    mask = inputs["attention_mask"].unsqueeze(-1).to(states)
    return (states * mask).sum(1) / mask.sum(1).clamp_min(1)


@torch.no_grad()
def embed(
    model: nn.Module, tokenize: Callable[[list[str]], dict[str, Tensor]], texts: Sequence[str], batch_size: int = 64
) -> Float[Tensor, "texts dim"]:
    """Mean-pooled embeddings of texts, on the CPU; texts of like length are computed together."""
    training = model.training
    model.eval()
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    parts = [
        mean_pooled(model, tokenize([texts[row] for row in order[start : start + batch_size]])).cpu()
        for start in range(0, len(texts), batch_size)
    ]
    model.train(training)
    states = torch.cat(parts)
    return states[torch.tensor(order).argsort()]


def _outputs(model: PreTrainedModel) -> int | None:
    return model.config.num_labels if type(model).__name__.endswith("ForSequenceClassification") else None
