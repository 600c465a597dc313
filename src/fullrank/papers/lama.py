"""Low Rank Factorization for Compact Multi-Head Self-Attention (LAMA)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

from fullrank.papers import Claim, Paper, Trial
from fullrank.papers._repeats import Repeats, mean_and_spread, repeat

_LARGEST_WEIGHT = {"8 words": 0.514, "21 words": 0.270, "200 words": 0.0359}  # e^2 / (e^2 + words - 1)
_LENGTHS = (8, 21, 200)
_PARAMETERS = {"LAMA": 18_688, "LAMA without token network": 2_048, "Lin": 17_408, "HAN": 16_640, "MHA": 66_048}

PAPER = Paper(
    slug="lama",
    title="Low Rank Factorization for Compact Multi-Head Self-Attention",
    authors=3,
    published="2019-11-26",
    arxiv="1912.00835",
    position=9,
    topics=(
        "attention",
        "language",
    ),
    summary=(
        "LAMA adds multi-head attention to a GRU classifier with far fewer parameters: the affinity between "
        "hidden states and one global context vector is written as a low-rank bilinear form, and each rank "
        "gives one head. It needs no query per word. Sentiment, rating and news classification match heavier "
        "attention models, and the heads can be read."
    ),
    notes=(
        "There is no official code and no table could be confirmed, so no number is quoted; the layer follows the "
        "paper's figure. The third-party port leaves out the token network and averages its own inputs as context; "
        "both are options. After the normalisation over heads every score lies between -1 and 1, so on long texts the "
        "attention is close to a mean (a temperature is offered), and a single head gets no gradient. Seeds differ by "
        "2 to 5 points on small text sets, more than the attention layers do. In our quick study LAMA over a GRU ties "
        "with mean pooling and HAN; over frozen states it is above the mean on questions and below it on movie reviews."
    ),
    methods=(
        "fullrank.nn.LowRankMultiHeadAttentionPooling",
        "fullrank.nn.LAMAClassifier",
        "fullrank.nn.LAMAForSequenceClassification",
        "fullrank.nn.LAMATextClassifier",
        "fullrank.nn.pooling_layer",
        "fullrank.nn.head_redundancy",
        "fullrank.nn.orthogonality_penalty",
    ),
    usage="""\
import torch
from fullrank.nn import LAMA, LAMATextClassifier, head_redundancy

pool = LAMA(input_dim=384, num_heads=8)         # any encoder's token states in, one vector per head out
states = torch.randn(2, 12, 384)
mask = torch.arange(12) < torch.tensor([[12], [7]])
embedding, weights = pool(states, mask, need_weights=True)  # (2, 8, 384) and (2, 8, 12)
print(head_redundancy(weights))                  # 1: all heads look at the same words

texts = ["a fine film", "a dull film", "fine acting", "dull plot"] * 8
model = LAMATextClassifier(epochs=20, learning_rate=0.01, random_state=0).fit(texts, [1, 0, 1, 0] * 8)
print(model.predict(["fine plot"]))
tokens, heads = model.explain(["fine plot"])[0]  # the words, and what they weigh in every head
""",
    extra="search",
    claims=(
        Claim(
            id="matches-baselines",
            says=(
                "On text classification LAMA matches or outperforms strong baselines: here it is no worse than mean "
                "pooling and at most one point below single-head (HAN) attention."
            ),
            source="abstract",
            unit="%",
            holds=lambda m: m["LAMA"] >= m["mean pooling"] and m["LAMA"] >= m["HAN"] - 1,
        ),
        Claim(
            id="matches-baselines-full-size",
            says=(
                "On movie-review sentiment, Yelp business ratings and news topics LAMA matches or outperforms a series "
                "of strong baselines."
            ),
            source="abstract",
            needs="the Yelp reviews, the full news set and the paper's word vectors",
        ),
        Claim(
            id="fewer-parameters",
            says=(
                "Its attention has fewer parameters than comparable multi-head attention (MHA): at most 0.3 times as "
                "many, about 0.03 times without the token network, at most 2 points less accurate."
            ),
            source="abstract",
            unit="%, and ratio of parameters",
            holds=lambda m: (
                m["LAMA"] >= m["MHA"] - 2 and m["parameters"] <= 0.3 and m["parameters without token network"] <= 0.035
            ),
        ),
        Claim(
            id="cheaper",
            says=(
                "It costs less than transformer self-attention: at most half the time of multi-head attention on texts "
                "of 400 tokens."
            ),
            source="abstract",
            unit="ratio of times",
            holds=lambda ratio: ratio <= 0.5,
        ),
        Claim(
            id="interpretable-maps",
            says="Its attention maps can be interpreted: the importance of a word depends on its context.",
            source="abstract",
            needs="people who judge attention maps",
        ),
        Claim(
            id="beats-single-head",
            says="It is more effective than single-head attention.",
            source="abstract of version 1",
            unit="%",
            holds=lambda m: m["LAMA"] >= m["HAN"],
        ),
        Claim(
            id="smaller-and-faster-than-multi-head",
            says="It has fewer parameters and is faster than existing multi-head attention.",
            source="abstract of version 1",
            unit="ratio to multi-head attention",
            holds=lambda m: m["parameters"] < 1 and m["time"] < 1,
        ),
        Claim(
            id="frozen-encoder",
            says="Over frozen token states of a pre-trained encoder LAMA is at least as good as mean pooling.",
            source="control on TREC and movie-review sentences with MiniLM",
            unit="%",
            holds=lambda m: m["LAMA"] >= m["mean pooling"],
            kind="finding",
        ),
        Claim(
            id="long-texts-near-mean",
            says=(
                "Because scores lie between -1 and 1, no word can get more than 51 % of the attention among 8 words, "
                "27 % among 21 and 3.6 % among 200: on long texts LAMA is close to a mean."
            ),
            source="derived from the normalisation in Figure 1",
            unit="largest weight",
            holds=lambda m: all(m[words] <= bound for words, bound in _LARGEST_WEIGHT.items()),
            kind="finding",
        ),
        Claim(
            id="one-head-does-not-learn",
            says="With a single head the score collapses to plus or minus one, and the attention gets no gradient.",
            source="derived from the normalisation in Figure 1",
            unit="norm of the gradient",
            holds=lambda norm: norm <= 1e-6,
            kind="finding",
        ),
        Claim(
            id="learned-context-is-redundant",
            says="A learned context and one of the two factors fold into the other factor: outputs stay the same.",
            source="algebra",
            unit="largest difference of outputs",
            holds=lambda difference: difference <= 1e-6,
            kind="finding",
        ),
        Claim(
            id="token-network-dominates",
            says=(
                "At width 128 with 8 heads the token network holds most of the parameters (18,688 with it, 2,048 "
                "without); with it LAMA is larger than structured self-attention (Lin, 17,408) and HAN (16,640), and "
                "smaller than multi-head attention (66,048)."
            ),
            source="our count",
            unit="parameters",
            holds=lambda m: all(m[name] == count for name, count in _PARAMETERS.items()),
            kind="finding",
        ),
        Claim(
            id="seeds-outweigh-the-layer",
            says="On small text sets accuracy differs more between seeds than between kinds of attention.",
            source="our pilot on TREC",
            unit="points",
            holds=lambda m: m["largest range over seeds"] >= m["range over attention layers"],
            kind="finding",
        ),
    ),
)


class _Size(NamedTuple):
    """How much text is trained on."""

    training: dict[str, int]
    testing: int
    epochs: int
    frozen: int
    frozen_epochs: int
    lengths: tuple[int, ...]
    repeats: int


#: Method -> parameters of the text classifier. All have 8 heads where they have several.
_METHODS: dict[str, dict[str, Any]] = {
    "mean pooling": {"pooling": "mean"},
    "HAN": {"pooling": "han"},
    "Lin": {"pooling": "self_attentive"},
    "MHA": {"pooling": "mha"},
    "LAMA": {"pooling": "lama"},
    "LAMA, mean context": {"pooling": "lama", "pooling_options": {"context": "mean"}},
    "LAMA without l2": {"pooling": "lama", "pooling_options": {"normalize": None}},
    "LAMA without token network": {"pooling": "lama", "pooling_options": {"project": False}},
    "LAMA, temperature 8": {"pooling": "lama", "pooling_options": {"temperature": 8.0}},
}
_COMPARED = ("mean pooling", "HAN", "Lin", "MHA", "LAMA")
_ATTENTION = ("HAN", "Lin", "MHA", "LAMA")
_SEVERAL_HEADS = ("Lin", "MHA", "LAMA", "LAMA without l2")
_FROZEN = ("mean pooling", "HAN", "LAMA", "LAMA, temperature 8")
_RATE = 3e-3  # of Adam, for every method: at 1e-3 few texts are not learned in few epochs
_SETS = {"TREC": "trec-questions", "movie reviews": "rt-polarity"}
_WIDTH, _HEADS = 128, 8
_TIMED_LENGTH = 400
_QUESTION = "what is the longest river in the united states ?"


@PAPER.study
def study(trial: Trial) -> None:
    """Questions and movie-review sentences, classified with each pooling; then what follows from the equations."""
    size = trial.pick(
        smoke=_Size({"TREC": 48, "movie reviews": 48}, 40, 1, 32, 1, (50, _TIMED_LENGTH), 1),
        quick=_Size({"TREC": 2500, "movie reviews": 2500}, 1000, 5, 1000, 12, (50, 100, 200, _TIMED_LENGTH), 9),
        full=_Size({"TREC": 5452, "movie reviews": 8000}, 2000, 10, 5000, 15, (50, 100, 200, 400, 800), 21),
    )
    with trial.one_thread():
        over_gru = _over_gru(trial, size)
        _frozen_encoder(trial, size)
        times = _times(trial, size)
    _measure_accuracy(trial, over_gru)
    _measure_cost(trial, over_gru, times)
    _long_texts(trial, [run for name in _SETS for run in over_gru[name].runs["LAMA"]])
    _algebra(trial)
    _map(trial, over_gru["TREC"].runs["LAMA"][0])
    trial.note(
        f"{size.training['TREC']} questions and {size.training['movie reviews']} movie-review sentences, {size.epochs} "
        f"epochs of Adam at {_RATE:g}, word embeddings learned from scratch: accuracies are those of small training "
        "sets, without the pre-trained word vectors of that period. Orders are of means over both sets and all seeds: "
        "read them beside the spread over seeds. The classifier after LAMA and Lin reads eight vectors and has more "
        "parameters than the attention saves; the tables count both."
    )


def _over_gru(trial: Trial, size: _Size) -> dict[str, Repeats]:
    """Every pooling over a GRU of 64 units a direction."""
    found = {}
    for name in _SETS:
        methods = _METHODS if name == "TREC" else _COMPARED
        about = f"{name}, {size.training[name]} sentences, {size.epochs} epochs"
        found[name] = repeat(trial, methods, partial(_classify, name, size, trial.device), about)
        trial.table(
            "questions" if name == "TREC" else "movie-reviews",
            found[name].rows(**{"attention parameters": "attention", "classifier parameters": "classifier"}),
        )
    means, spreads = found["TREC"].summary(_SEVERAL_HEADS, "likeness")
    trial.table(
        "head-likeness",
        [
            {"method": method, "mean cosine between heads": means[method], "spread": spreads[method]}
            for method in _SEVERAL_HEADS
        ],
    )
    return found


@cache
def _texts(name: str, training: int, testing: int) -> tuple[list[str], list[int], list[str], list[int]]:
    """Training texts and labels, test texts and labels, drawn with seed 0; movie reviews have no split of their own."""
    import numpy as np

    from fullrank import data

    def drawn(split: str) -> list[dict[str, Any]]:
        records = data.load(_SETS[name], split)
        return [records[row] for row in np.random.default_rng(0).permutation(len(records))]

    if "test" in data.dataset(_SETS[name]).splits:
        train, test = drawn("train"), drawn("test")
    else:
        everything = drawn("all")
        test, train = everything[:testing], everything[testing:]
    train, test = train[:training], test[:testing]
    texts, labels = ([[record[field] for record in part] for part in (train, test)] for field in ("text", "label"))
    return texts[0], labels[0], texts[1], labels[1]


def _classify(name: str, size: _Size, device: str, method: str, seed: int) -> dict[str, Any]:
    """One training run; of LAMA also the largest weights that words of texts of some lengths get, and a map."""
    import torch

    from fullrank.nn import LAMATextClassifier, head_redundancy
    from fullrank.nn.lama_training import word_weights

    train, labels, test, answers = _texts(name, size.training[name], size.testing)
    model = LAMATextClassifier(
        **_METHODS[method], epochs=size.epochs, learning_rate=_RATE, random_state=seed, device=device
    )
    model.fit(train, labels)
    network: Any = model.network_
    counts = network.parameter_counts()
    run = {
        "accuracy": 100 * float(model.score(test, answers)),
        "attention": counts["attention"],
        "classifier": counts["classifier"],
    }
    maps = word_weights(model.network_, model.reader_.encode(test))
    if maps[0].shape[0] > 1:
        run["likeness"] = sum(float(head_redundancy(A)) for A in maps) / len(maps)
    if method == "LAMA":
        words = torch.cat(model.reader_.encode(test))
        run["largest"] = {
            str(length): max(
                float(A.max())
                for A in word_weights(model.network_, words[: len(words) // length * length].split(length))
            )
            for length in _LENGTHS
        }
        explained = model.explain([_QUESTION])[0]
        run["map"] = {"tokens": explained.tokens, "weights": explained.weights.tolist()}
    return run


def _measure_accuracy(trial: Trial, over_gru: Mapping[str, Repeats]) -> None:
    """Means over both sets."""
    both = _over_sets(over_gru, _COMPARED)
    trial.measure("matches-baselines", *mean_and_spread({name: both[name] for name in ("LAMA", "mean pooling", "HAN")}))
    trial.measure("beats-single-head", *mean_and_spread({name: both[name] for name in ("LAMA", "HAN")}))
    questions = {method: over_gru["TREC"].values(method) for method in _ATTENTION}
    means = [sum(values) / len(values) for values in questions.values()]
    trial.measure(
        "seeds-outweigh-the-layer",
        {
            "largest range over seeds": max(max(values) - min(values) for values in questions.values()),
            "range over attention layers": max(means) - min(means),
        },
    )
    means, spreads = mean_and_spread({name: both[name] for name in ("LAMA", "MHA")})
    counts = {method: runs[0]["attention"] for method, runs in over_gru["TREC"].runs.items()}
    ratios = {
        "parameters": counts["LAMA"] / counts["MHA"],
        "parameters without token network": counts["LAMA without token network"] / counts["MHA"],
    }
    trial.measure("fewer-parameters", means | ratios, spreads | dict.fromkeys(ratios, 0.0))


def _frozen_encoder(trial: Trial, size: _Size) -> None:
    """Token states of MiniLM, pooled, with a linear classifier."""
    about = f"over frozen MiniLM, {size.frozen} sentences, {size.frozen_epochs} epochs"
    runs = {
        name: repeat(trial, _FROZEN, partial(_classify_states, name, size, trial.device), f"{name} {about}")
        for name in _SETS
    }
    trial.table("frozen-encoder", [{"data": name, **row} for name in _SETS for row in runs[name].rows()])
    both = _over_sets(runs, _FROZEN)
    trial.measure("frozen-encoder", *mean_and_spread({name: both[name] for name in ("LAMA", "mean pooling")}))
    questions, _ = runs["TREC"].summary(_FROZEN)
    trial.note(
        "Over frozen states on TREC the mean reaches "
        f"{questions['mean pooling']:.1f} %, LAMA {questions['LAMA']:.1f} %, LAMA at temperature 8 "
        f"{questions['LAMA, temperature 8']:.1f} %, and HAN, whose single head can be sharp, {questions['HAN']:.1f} %. "
        "The linear classifier reads eight times as many features after LAMA as after a single vector."
    )


def _over_sets(runs: Mapping[str, Repeats], methods: Iterable[str]) -> dict[str, list[float]]:
    """Method -> accuracy of every seed, mean over the data sets."""
    return {
        method: [sum(one) / len(one) for one in zip(*(found.values(method) for found in runs.values()), strict=True)]
        for method in methods
    }


@cache
def _states(name: str, training: int, testing: int, device: str) -> tuple[Any, Any]:
    """What the frozen encoder makes of the training and the test texts; every method and seed reads the same."""
    from fullrank.nn.lama_text_inputs import FrozenEncoder

    train, _, test, _ = _texts(name, training, testing)
    encoder = FrozenEncoder("bundled", 64, device)
    return encoder.encode(train), encoder.encode(test)


def _classify_states(name: str, size: _Size, device: str, method: str, seed: int) -> dict[str, Any]:
    import torch

    from fullrank.nn import PoolingClassifier
    from fullrank.nn.lama_training import PoolingTraining, class_probabilities, train_classifier

    _, labels, _, answers = _texts(name, size.frozen, size.testing)
    classes = max(labels) + 1
    train, test = _states(name, size.frozen, size.testing, device)
    settings = PoolingTraining(epochs=size.frozen_epochs, learning_rate=_RATE)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = PoolingClassifier(train[0].shape[1], classes, classifier_dim=None, **_METHODS[method])
        network.to(device)
        train_classifier(network, train, torch.tensor(labels), settings, torch.Generator().manual_seed(seed))
    found = class_probabilities(network, test).argmax(1)
    return {"accuracy": 100 * float((found == torch.tensor(answers)).double().mean())}


def _times(trial: Trial, size: _Size) -> dict[int, dict[str, float]]:
    """Seconds of a training step of the pooling layer alone, by number of words and method."""
    lengths = trial.track(size.lengths, "timing the poolings")
    return {
        length: trial.step(
            f"timing T={length} repeats={size.repeats}", partial(_timed, length, size.repeats, trial.device)
        )
        for length in lengths
    }


def _timed(length: int, repeats: int, device: str) -> dict[str, float]:
    """Forward and backward on 16 texts, the methods in turn; the least time, which other work disturbs least."""
    import time

    import torch

    from fullrank.nn import pooling_layer

    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = {
            method: pooling_layer(
                _METHODS[method]["pooling"], _WIDTH, _HEADS, **_METHODS[method].get("pooling_options", {})
            )
            for method in ("HAN", "Lin", "MHA", "LAMA", "LAMA without token network")
        }
        hidden = torch.randn(16, length, _WIDTH).to(device)
    seconds: dict[str, list[float]] = {method: [] for method in layers}
    for _ in range(repeats + 1):  # the first does not count
        for method, layer in layers.items():
            states = hidden.clone().requires_grad_()
            layer.to(device)
            began = time.perf_counter()
            layer(states).square().mean().backward()
            float(torch.as_tensor(states.grad).sum())  # waits for the device
            seconds[method].append(time.perf_counter() - began)
    return {method: min(found[1:]) for method, found in seconds.items()}


def _measure_cost(trial: Trial, over_gru: Mapping[str, Repeats], times: Mapping[int, Mapping[str, float]]) -> None:
    counts = {method: runs[0]["attention"] for method, runs in over_gru["TREC"].runs.items()}
    ratio = times[_TIMED_LENGTH]["LAMA"] / times[_TIMED_LENGTH]["MHA"]
    trial.measure("cheaper", ratio)
    trial.measure("smaller-and-faster-than-multi-head", {"parameters": counts["LAMA"] / counts["MHA"], "time": ratio})
    trial.table(
        "time-of-a-step",
        [
            {"words": int(length), **{f"{method} ms": 1000 * value for method, value in found.items()}}
            for length, found in times.items()
        ],
    )
    _time_figure(trial, times)


def _long_texts(trial: Trial, runs: Sequence[dict[str, Any]]) -> None:
    """The largest weight in trained models, and in one that is built to reach the bound."""
    trained = {length: max(run["largest"][str(length)] for run in runs) for length in _LENGTHS}
    extreme = {length: _extreme(length) for length in _LENGTHS}
    trial.measure(
        "long-texts-near-mean", {f"{length} words": max(trained[length], extreme[length]) for length in _LENGTHS}
    )
    trial.table(
        "largest-weight",
        [
            {"words": length, "trained": trained[length], "built to be extreme": extreme[length], "a mean": 1 / length}
            for length in _LENGTHS
        ],
    )


def _extreme(length: int) -> float:
    """One head wants the first word and none of the others."""
    import torch

    from fullrank.nn import LAMA

    layer = LAMA(2, 2, project=False, dtype=torch.float64)
    with torch.no_grad():
        layer.P.copy_(100 * torch.eye(2))
        layer.Q.copy_(torch.eye(2))
        torch.as_tensor(layer.c).fill_(1)
    hidden = torch.tensor([[1.0, 0.0]] + [[-1.0, 0.0]] * (length - 1), dtype=torch.float64)
    return float(layer(hidden[None], need_weights=True)[1].detach().max())


def _algebra(trial: Trial) -> None:
    """What needs no training: the gradient of one head, folding, and parameters."""
    import warnings

    import torch

    from fullrank.nn import LAMA, pooling_layer

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="num_heads=1")
        torch.manual_seed(0)
        hidden = torch.randn(8, 20, _WIDTH)
        single = LAMA(_WIDTH, 1, dtype=torch.float64)
        single(hidden.double()).square().sum().backward()
        trial.measure(
            "one-head-does-not-learn", max(float(torch.as_tensor(p.grad).norm()) for p in single.parameters())
        )
        learned = LAMA(_WIDTH, _HEADS)
        given = LAMA(_WIDTH, _HEADS, context="given")
        given.load_state_dict({name: p for name, p in learned.state_dict().items() if name != "c"})
        difference = (learned(hidden) - given(hidden, context=learned.c)).abs().max()
        trial.measure("learned-context-is-redundant", float(difference.detach()))
    layers = {
        "LAMA": pooling_layer("lama", _WIDTH, _HEADS),
        "LAMA without token network": pooling_layer("lama", _WIDTH, _HEADS, project=False, context="mean"),
        "Lin": pooling_layer("self_attentive", _WIDTH, _HEADS),
        "HAN": pooling_layer("han", _WIDTH),
        "MHA": pooling_layer("mha", _WIDTH, _HEADS),
    }
    trial.measure(
        "token-network-dominates", {name: sum(p.numel() for p in layer.parameters()) for name, layer in layers.items()}
    )


def _time_figure(trial: Trial, times: Mapping[int, Mapping[str, float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for method, colour in (("MHA", "#b45309"), ("LAMA", "#0f766e"), ("LAMA without token network", "#7c3aed")):
        axes.plot(list(times), [1000 * found[method] for found in times.values()], "o-", c=colour, label=method)
    axes.set(xlabel="words", ylabel="milliseconds of a step, 16 texts", xscale="log", yscale="log")
    axes.set_xticks(list(times), labels=[str(length) for length in times])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    trial.figure("time-of-a-step", figure)


def _map(trial: Trial, run: Mapping[str, Any]) -> None:
    """What the words of one question weigh in every head."""
    from matplotlib.figure import Figure

    tokens, weights = run["map"]["tokens"], run["map"]["weights"]
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(weights, cmap="Greens", vmin=0, aspect="auto")
    axes.set_xticks(range(len(tokens)), labels=tokens, rotation=45, ha="right")
    axes.set_yticks(range(len(weights)), labels=[str(head + 1) for head in range(len(weights))])
    axes.set(ylabel="head")
    figure.colorbar(image, label="weight")
    trial.figure("attention-map", figure)
