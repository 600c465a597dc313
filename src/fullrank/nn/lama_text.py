"""LAMA as a scikit-learn classifier of raw texts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from fullrank._files import write_bytes, write_json
from fullrank.nn.lama_classifier import LAMAClassifier, PoolingClassifier
from fullrank.nn.lama_poolings import PoolingName
from fullrank.nn.lama_text_inputs import FrozenEncoder, Vocabulary
from fullrank.nn.lama_training import PoolingTraining, class_probabilities, train_classifier, word_weights

_ABOUT, _WEIGHTS, _FORMAT = "lama.json", "model.safetensors", 1
_INTEGERS = ("num_heads", "embed_dim", "hidden_size", "min_count", "max_vocabulary", "max_tokens", "epochs",
             "batch_size", "n_iter_no_change")  # fmt: skip
_POSITIVE = ("learning_rate", "clip_norm")


class Explanation(NamedTuple):
    """What the words of a text weigh.

    Attributes:
        tokens: the words as the classifier read them.
        weights: (heads, tokens); every row sums to 1.
    """

    tokens: list[str]
    weights: NDArray[np.float32]


class LAMATextClassifier(ClassifierMixin, BaseEstimator):
    """Classifies raw texts with attention pooling, over a GRU that it trains or over a frozen encoder.

    Args:
        pooling: "lama", "han", "self_attentive", "mha", "mean" or "max". Default "lama".
        num_heads: of poolings that have several. Default 8.
        pooling_options: further options of the pooling, such as {"context": "mean"}.
        encoder: "gru" trains word embeddings and a bidirectional GRU; "bundled" reads the frozen token states of
            all-MiniLM-L6-v2; a local Hugging Face folder those of another encoder. Default "gru".
        embed_dim, hidden_size: of the GRU's words and of each of its directions. Default 100 and 64.
        classifier_dim: width of the hidden layer before the classes; None for none. Default 128.
        dropout: on word embeddings and before every linear layer of the classifier. Default 0.3.
        lowercase, token_pattern, min_count, max_vocabulary: which words the GRU knows: matches of the pattern, seen at
            least so often, the most frequent ones. Default words and single signs, twice, 8,000.
        max_tokens: longer texts are cut. Default 400.
        epochs, batch_size, learning_rate, clip_norm: of training with Adam. Default 10, 64, 1e-3 and 5.
        penalty: weight of ‖A Aᵀ - I‖²_F in the loss. Default 0, as in the paper.
        early_stopping: hold out `validation_fraction` of the texts, stop after `n_iter_no_change` epochs without a
            better accuracy on them, keep the best epoch. Default False, 0.1 and 3.
        random_state: seed of everything random; the same seed gives the same classifier on the same device.
        device: torch device. Default "cpu".

    Attributes:
        classes_: the classes, sorted.
        n_iter_: epochs that were run.
        reader_: how texts are read, a `Vocabulary` or a `FrozenEncoder`.
        network_: the torch module.

    Example:
        >>> texts = ["a fine film", "a dull film", "fine acting", "dull plot"] * 8
        >>> model = LAMATextClassifier(epochs=20, learning_rate=0.01, random_state=0).fit(texts, [1, 0, 1, 0] * 8)
        >>> model.predict(["fine plot"])
        array([1])
    """

    classes_: NDArray[Any]

    def __init__(
        self,
        pooling: PoolingName = "lama",
        num_heads: int = 8,
        *,
        pooling_options: Mapping[str, Any] | None = None,
        encoder: str = "gru",
        embed_dim: int = 100,
        hidden_size: int = 64,
        classifier_dim: int | None = 128,
        dropout: float = 0.3,
        lowercase: bool = True,
        token_pattern: str = r"\w+|[^\w\s]",
        min_count: int = 2,
        max_vocabulary: int = 8000,
        max_tokens: int = 400,
        epochs: int = 10,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        clip_norm: float = 5.0,
        penalty: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 3,
        random_state: int | np.random.RandomState | None = None,
        device: str = "cpu",
    ) -> None:
        self.pooling: PoolingName = pooling
        self.num_heads = num_heads
        self.pooling_options = pooling_options
        self.encoder = encoder
        self.embed_dim = embed_dim
        self.hidden_size = hidden_size
        self.classifier_dim = classifier_dim
        self.dropout = dropout
        self.lowercase = lowercase
        self.token_pattern = token_pattern
        self.min_count = min_count
        self.max_vocabulary = max_vocabulary
        self.max_tokens = max_tokens
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.clip_norm = clip_norm
        self.penalty = penalty
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state
        self.device = device

    def fit(self, X: Iterable[str], y: Any) -> LAMATextClassifier:
        """Train.

        Args:
            X: texts.
            y: their classes, numbers or strings.

        Raises:
            ValueError: no texts, something that is no text, as many classes as texts are not given, only one class, or
                a parameter out of range.
            MissingExtra: the encoder needs a library that is not installed.
            FileNotFoundError: the encoder's folder does not exist.
        """
        self._check_parameters()
        texts = _texts(X)
        check_classification_targets(y)
        classes, labels = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(labels) != len(texts):
            raise ValueError(f"X has {len(texts)} texts and y {len(labels)} classes: give one class for every text")
        if len(classes) < 2:
            raise ValueError(f"y has one class only, {classes.tolist()[0]!r}: at least two are needed")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.classes_ = classes
        self.reader_ = self._reader(texts)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network_ = self._network()
            self.n_iter_ = self._train(texts, torch.from_numpy(labels.astype(np.int64)), seed)
        return self

    def predict_proba(self, X: Iterable[str]) -> NDArray[np.float64]:
        """Probability of every class, (texts, classes), in the order of `classes_`.

        Raises:
            NotFittedError: `fit` was not called.
            ValueError: something that is no text.
        """
        check_is_fitted(self)
        probabilities = class_probabilities(self.network_, self.reader_.encode(_texts(X))).double()
        return (probabilities / probabilities.sum(1, keepdim=True)).numpy()

    def predict(self, X: Iterable[str]) -> NDArray[Any]:
        """The most probable class of every text.

        Raises:
            NotFittedError: `fit` was not called.
            ValueError: something that is no text.
        """
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]

    def explain(self, X: Iterable[str]) -> list[Explanation]:
        """The words of every text, and what they weigh in every head.

        A weight says where a head looks, not what a word does to the prediction; GRU states also carry their
        neighbours.

        Raises:
            NotFittedError: `fit` was not called.
            ValueError: something that is no text.
        """
        check_is_fitted(self)
        texts = _texts(X)
        weights = word_weights(self.network_, self.reader_.encode(texts))
        return [Explanation(self.reader_.tokens(text), A.numpy()) for text, A in zip(texts, weights, strict=True)]

    def save(self, folder: str | Path) -> Path:
        """Write `lama.json` and `model.safetensors`. A frozen encoder is not written, only where it lies.

        Args:
            folder: made if needed.

        Raises:
            NotFittedError: `fit` was not called.
            TypeError: a parameter that JSON does not know.
            OSError: the folder cannot be written.
        """
        check_is_fitted(self)
        content = save({name: tensor.cpu().contiguous() for name, tensor in self.network_.state_dict().items()})
        parameters = self.get_params(deep=False)
        if not isinstance(self.random_state, Integral):
            parameters["random_state"] = None  # a generator's state is not that of the fitted classifier
        about = {
            "format": _FORMAT,
            "parameters": parameters,
            "classes": self.classes_.tolist(),
            "classes_dtype": self.classes_.dtype.str,
            "n_iter": self.n_iter_,
            "words": list(self.reader_.words) if isinstance(self.reader_, Vocabulary) else None,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        json.dumps(about)  # before anything is written
        write_bytes(Path(folder) / _WEIGHTS, content)
        write_json(Path(folder) / _ABOUT, about)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> LAMATextClassifier:
        """A classifier that was saved.

        Args:
            folder: of `save`.
            device: to compute on from now on.

        Raises:
            FileNotFoundError: the folder holds none, or the frozen encoder has moved.
            ValueError: it is damaged, or of another format.
        """
        try:
            about = json.loads((Path(folder) / _ABOUT).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{Path(folder) / _ABOUT} is damaged: {error}") from error
        if not isinstance(about, dict):
            raise ValueError(f"{Path(folder) / _ABOUT} is no classifier's: it holds a {type(about).__name__}")
        content = (Path(folder) / _WEIGHTS).read_bytes()
        if about.get("format") != _FORMAT:
            raise ValueError(f"{folder} has format {about.get('format')!r}: this version reads format {_FORMAT}")
        if hashlib.sha256(content).hexdigest() != about["sha256"]:
            raise ValueError(f"{folder}: {_WEIGHTS} is damaged or does not belong to {_ABOUT}; save the model again")
        model = cls(**{**about["parameters"], "device": device})
        model.classes_ = np.array(about["classes"], dtype=about["classes_dtype"])
        model.n_iter_ = about["n_iter"]
        model.reader_ = model._reader(words=about["words"])
        model.network_ = model._network().eval()
        model.network_.load_state_dict(load(content))
        return model

    def _reader(self, texts: list[str] | None = None, words: list[str] | None = None) -> Vocabulary | FrozenEncoder:
        """How texts are read: words learned from texts, or those that were saved, or a frozen encoder."""
        if self.encoder != "gru":
            return FrozenEncoder(self.encoder, self.max_tokens, self.device)
        reading = (self.token_pattern, self.lowercase, self.max_tokens)
        if words is not None:
            return Vocabulary(words, *reading)
        return Vocabulary.learned(texts or [], *reading, self.min_count, self.max_vocabulary)

    def _network(self) -> torch.nn.Module:
        options = {"classifier_dim": self.classifier_dim, "pooling_options": self.pooling_options}
        if isinstance(self.reader_, FrozenEncoder):
            width, labels = self.reader_.width, len(self.classes_)
            made = PoolingClassifier(width, labels, self.pooling, self.num_heads, dropout=self.dropout, **options)
        else:
            made = LAMAClassifier(
                len(self.reader_), len(self.classes_), self.embed_dim, self.hidden_size, self.num_heads, self.pooling,
                self.dropout, **options,
            )  # fmt: skip
        return made.to(self.device)

    def _train(self, texts: list[str], labels: torch.Tensor, seed: int) -> int:
        settings = PoolingTraining(
            epochs=self.epochs, learning_rate=self.learning_rate, batch_size=self.batch_size,
            clip_norm=self.clip_norm, penalty=self.penalty, patience=self.n_iter_no_change,
        )  # fmt: skip
        items = self.reader_.encode(texts)
        rows, held_out = np.arange(len(texts)), None
        if self.early_stopping:
            rows, held_out = train_test_split(rows, test_size=self.validation_fraction, random_state=seed)
        return train_classifier(
            self.network_, [items[row] for row in rows], labels[rows], settings, torch.Generator().manual_seed(seed),
            None if held_out is None else ([items[row] for row in held_out], labels[held_out]),
        )  # fmt: skip

    def _check_parameters(self) -> None:
        for name in _INTEGERS:
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value!r}: use an integer of at least 1")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)!r}: use a positive number")
        if self.penalty < 0:
            raise ValueError(f"penalty={self.penalty!r}: use 0 or more")
        try:
            re.compile(self.token_pattern)
        except re.error as error:
            raise ValueError(
                f"token_pattern={self.token_pattern!r}: use a regular expression of a word ({error})"
            ) from error
        if self.early_stopping and not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction={self.validation_fraction!r}: use a share between 0 and 1")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False, True
        tags.no_validation = True
        tags.non_deterministic = False
        return tags


def _texts(X: Any) -> list[str]:
    if isinstance(X, str):
        raise ValueError("X is one string: give a list of texts, such as [text]")
    if getattr(X, "ndim", 1) != 1:
        raise ValueError(f"X has shape {X.shape}: a list or a one-dimensional array of texts is accepted")
    texts = list(X)
    if not texts:
        raise ValueError("X has no texts: give at least one")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"X[{row}] is {type(text).__name__}: texts are strings")
    return texts
