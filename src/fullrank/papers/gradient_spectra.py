"""How Instruction and Reasoning Data shape Post-Training: Data Quality through the Lens of Layer-wise Gradients."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import cache, partial
from typing import Any

from fullrank.papers import Cancelled, Claim, Paper, Trial

_MODELS = "Qwen2.5, Llama 3 or Gemma 2 weights and the authors' high and low subsets"
_KINDS = ("q", "k", "v", "o")
_ONE_GENERATOR = threading.Lock()  # of torch, which initialises weights

PAPER = Paper(
    slug="gradient-spectra",
    title=(
        "How Instruction and Reasoning Data shape Post-Training: Data Quality through the Lens of Layer-wise Gradients"
    ),
    authors=4,
    published="2025-04-14",
    arxiv="2504.10766",
    position=37,
    repository="https://github.com/MingLiiii/Gradient_Unified",
    venue="ACL 2026",
    comments=2,
    topics=("measurement", "language"),
    summary=(
        "The layer-wise gradient of a training sample tells how good the sample is: good instruction and "
        "reasoning data give smaller nuclear norms and higher effective ranks. The spectral view unifies "
        "several data-quality scores and separates reasoning from plain instruction data. Models of one family "
        "behave alike whatever their size."
    ),
    methods=("fullrank.spectra.GradientSpectra", "fullrank.spectra.SpectraReport"),
    usage="""\
from transformers import AutoModelForCausalLM, AutoTokenizer
from fullrank.spectra import GradientSpectra

folder = "path/to/a/causal/language/model"
measure = GradientSpectra(AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder))
good = measure.score([("What is 2 + 3?", "Two and three make 5."), ("Name a colour.", "Blue is one of many colours.")])
poor = measure.score([("What is 2 + 3?", "make 5 three Two and."), ("Name a colour.", "many is colours one Blue of.")])
print(good.mean()["nuclear_norm"])         # layers x (query, key, value, output)
print(good.compare(poor).p_value)          # samples paired by length
""",
    notes=(
        "Response length confounds both metrics: the rank of a gradient is at most the number of tokens and the loss "
        "is a token mean, so longer responses have higher effective ranks and lower nuclear norms whatever their "
        "quality. "
        "In the official subsets the 'high' side is up to 95 times longer (Magpie is the exception). Comparisons here "
        "pair samples by length unless told otherwise. The official script pairs the query's and the output's gradient "
        "without transposing one of them; both pairings are offered."
    ),
    extra="adapt",
    claims=(
        Claim(
            id="nuclear-norm-falls",
            says="Data of higher quality gives smaller nuclear norms, for every score of quality (IFD, InsTag, ...).",
            source="abstract",
            needs=_MODELS,
        ),
        Claim(
            id="effective-rank-rises",
            says="Data of higher quality gives higher effective ranks, which resolve finer differences.",
            source="abstract",
            needs=_MODELS,
        ),
        Claim(
            id="reasoning-ranks-highest",
            says="Reasoning data (s1.1) has much higher effective ranks than instruction data, the highest everywhere.",
            source="abstract and official readme",
            needs=_MODELS,
        ),
        Claim(
            id="appendix-tables",
            says="The 60 tables of the appendix show the same for every model and data set.",
            source="appendix, not read",
            confirmed=False,
            needs=_MODELS,
        ),
        Claim(
            id="shuffled-nuclear-norm",
            says=(
                "Destroying the quality of solutions by shuffling their words raises the nuclear norm by at least a "
                "third in every projection, with length as it is and with 24 tokens each."
            ),
            source="the abstract's claim, on GSM8K and a model trained here",
            unit="ratio to the full solution",
            holds=lambda ratio: min(ratio.values()) >= 1 / 0.75,
        ),
        Claim(
            id="answer-only-nuclear-norm",
            says="A full solution has a nuclear norm at least 40 % below that of the bare answer, in every projection.",
            source="the abstract's claim, on GSM8K and a model trained here",
            unit="ratio to the answer",
            holds=lambda ratio: max(ratio.values()) <= 0.6,
        ),
        Claim(
            id="full-solution-effective-rank",
            says="A full solution has at least 1.5 times the effective rank of the bare answer, in every projection.",
            source="the abstract's claim, on GSM8K and a model trained here",
            unit="ratio to the answer",
            holds=lambda ratio: min(ratio.values()) >= 1.5,
        ),
        Claim(
            id="cosines-say-nothing",
            says="Cosines of gradients of neighbouring layers, and of one layer's projections, are near zero.",
            source="official readme",
            paper_value="near zero",
            unit="mean absolute cosine",
            holds=lambda cosine: max(cosine["adjacent"], cosine["same layer"]) < 0.1,
        ),
        Claim(
            id="curves-follow-the-family",
            says="Curves over layers look alike inside a family whatever the size, and differ between families.",
            source="abstract",
            unit="correlation of the curves",
            holds=lambda correlation: correlation["within"] > correlation["between"],
        ),
        Claim(
            id="length-alone-separates",
            says=(
                "Length alone moves both metrics: cutting the same solutions to 24 tokens lowers the effective rank "
                "and raises the nuclear norm."
            ),
            source="our runs on GSM8K",
            unit="ratio to the whole solution",
            kind="finding",
            holds=lambda ratio: ratio["effective rank"] < 0.9 and ratio["nuclear norm"] > 1.1,
        ),
        Claim(
            id="equal-length-does-not-separate",
            says=(
                "At equal length the effective rank does not separate good text from shuffled text: the difference is "
                "at most 5 % in every projection, so 'higher quality, higher effective rank' holds only together with "
                "length."
            ),
            source="our runs on GSM8K",
            unit="relative difference",
            kind="finding",
            holds=lambda difference: max(abs(value) for value in difference.values()) <= 0.05,
        ),
    ),
)


@PAPER.study
def study(trial: Trial) -> None:
    """Small language models trained on GSM8K; gradients of good, shuffled, foreign and bare responses."""
    import numpy as np

    steps = trial.pick(smoke=6, quick=450, full=3000)
    problems = trial.pick(smoke=6, quick=50, full=400)
    models = [("llama", 96, seed) for seed in trial.seeds[:2]] + [("llama", 64, 0), ("gpt2", 96, 0), ("gpt2", 64, 0)]
    done: dict[tuple[str, int, int], int] = dict.fromkeys(models, 0)
    stopped = threading.Event()

    def measure(model: tuple[str, int, int]) -> dict[str, Any]:
        """Train one model and take its gradients: 100 parts of the work each."""

        def say(part: int, total: int, text: str, start: int = 0) -> None:
            if stopped.is_set():
                raise Cancelled(text)
            done[model] = start + 100 * part // total
            trial.progress(sum(done.values()), 200 * len(models), text)

        family, width, seed = model
        key = f"{family} width={width} seed={seed} steps={steps}"
        say(0, 1, f"training {family} of width {width}")
        state = trial.tensors(key, partial(_trained, family, width, seed, steps, trial.device, say))
        say(0, 1, f"gradients of {family} of width {width}", 100)
        probes = (0,) if width == 64 or family == "gpt2" else trial.seeds
        samples = f"problems={problems} probes={probes}"
        conditions = partial(_conditions, family, width, state, problems, probes, trial.device, partial(say, start=100))
        return trial.step(f"{key} {samples}", conditions)

    _tokenizer()  # before the threads, which would each make it; they take copies, for cutting texts sets a state
    with trial.one_thread(), ThreadPoolExecutor(2) as pool:  # a core for each
        try:
            measured = dict(zip(models, pool.map(measure, models), strict=True))
        except BaseException:
            stopped.set()  # the pool waits for its threads, which Ctrl-C does not reach
            raise
    work = 2 * len(models)
    trial.progress(work * 100, work * 100, "comparing")
    main = [value for (family, width, _), value in measured.items() if (family, width) == ("llama", 96)]

    def mean(condition: str, metric: str) -> Any:
        """By projection, over models, probe samples and layers."""
        return np.mean([np.mean(model[condition][metric], axis=(0, 1)) for model in main], axis=0)

    def ratio(top: str, bottom: str, metric: str) -> dict[str, float]:
        return dict(zip(_KINDS, (mean(top, metric) / mean(bottom, metric)).tolist(), strict=True))

    def prefixed(prefix: str, values: dict[str, float]) -> dict[str, float]:
        return {f"{prefix} {name}": value for name, value in values.items()}

    nuclear, rank = "nuclear_norm", "effective_rank"
    natural = ratio("shuffled", "full", nuclear)
    cut = ratio("shuffled, 24 tokens", "full, 24 tokens", nuclear)
    trial.measure("shuffled-nuclear-norm", prefixed("natural", natural) | prefixed("24 tokens", cut))
    trial.measure("answer-only-nuclear-norm", ratio("full", "answer only", nuclear))
    trial.measure("full-solution-effective-rank", ratio("full", "answer only", rank))
    cosines = {
        name: float(np.mean([model["full"][key] for model in main]))
        for name, key in (("adjacent", "adjacent"), ("same layer", "same_layer"))
    }
    trial.measure("cosines-say-nothing", cosines)
    shorter = {
        "effective rank": float(np.mean(list(ratio("full, 24 tokens", "full", rank).values()))),
        "nuclear norm": float(np.mean(list(ratio("full, 24 tokens", "full", nuclear).values()))),
    }
    trial.measure("length-alone-separates", shorter)
    equal = ratio("full, 24 tokens", "shuffled, 24 tokens", rank)
    trial.measure("equal-length-does-not-separate", {kind: value - 1 for kind, value in equal.items()})
    trial.measure("curves-follow-the-family", _curve_correlations(measured))
    rows = []
    for condition in main[0]:
        for name, metric in (("nuclear norm", nuclear), ("effective rank", rank)):
            values = dict(zip(_KINDS, mean(condition, metric).tolist(), strict=True))
            tokens = float(np.mean([model[condition]["tokens"] for model in main]))
            rows.append({"condition": condition, "tokens": tokens, "metric": name, **values})
    trial.table("conditions", rows)
    apart = max(abs(value - 1) for value in equal.values())
    trial.note(
        f"At 24 tokens each, the effective ranks of good and of shuffled solutions differ by at most {apart:.1%} in "
        f"any projection; a whole solution has at least {min(ratio('full', 'answer only', rank).values()):.1f} times "
        "the effective rank of the bare answer, which is shorter. The paper's claim on rank needs both numbers."
    )
    _figure(trial, measured)


@cache
def _tokenizer() -> Any:
    """Byte-pair encoding of 1024 pieces, learned from the training problems; the same for every model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from fullrank import data

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    texts = (f"{record['question']}\n{record['answer']}" for record in data.load("gsm8k-mini", "train"))
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _model(family: str, width: int, seed: int) -> Any:
    """Four layers, four heads; Llama with rotary positions, or GPT-2 with learned ones."""
    import torch
    import transformers

    with _ONE_GENERATOR, torch.random.fork_rng():
        torch.manual_seed(seed)
        if family == "gpt2":
            return transformers.GPT2LMHeadModel(
                transformers.GPT2Config(
                    vocab_size=1024, n_embd=width, n_layer=4, n_head=4, n_positions=512,
                    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
                )
            )  # fmt: skip
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=1024, hidden_size=width, intermediate_size=8 * width // 3 // 8 * 8, num_hidden_layers=4,
                num_attention_heads=4, max_position_embeddings=512, bos_token_id=None, eos_token_id=None,
            )
        )  # fmt: skip


def _trained(
    family: str, width: int, seed: int, steps: int, device: str, on_progress: Callable[[int, int, str], None]
) -> dict[str, Any]:
    """Language modelling of the training problems: 16 windows of 160 tokens a step, AdamW, cosine schedule."""
    import torch

    from fullrank import data

    tokenizer, model = deepcopy(_tokenizer()), _model(family, width, seed).to(device)
    texts = [f"{record['question']}\n{record['answer']}\n\n" for record in data.load("gsm8k-mini", "train")]
    tokens = torch.tensor(list(itertools.chain.from_iterable(tokenizer(texts)["input_ids"])))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        starts = torch.randint(len(tokens) - 161, (16,), generator=generator)
        batch = torch.stack([tokens[start : start + 160] for start in starts]).to(device)
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 5 == 0:
            on_progress(step, steps, f"training {family} of width {width}: loss {float(loss.detach()):.2f}")
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _conditions(
    family: str,
    width: int,
    state: dict[str, Any],
    problems: int,
    probes: tuple[int, ...],
    device: str,
    on_progress: Callable[[int, int, str], None],
) -> dict[str, dict[str, Any]]:
    """Metrics of every condition: (probes, layers, projections), mean cosines, and the mean number of tokens."""
    import numpy as np

    from fullrank import data
    from fullrank.spectra import GradientSpectra

    tokenizer, model = deepcopy(_tokenizer()), _model(family, width, 0).to(device)
    model.load_state_dict(state)
    measure = GradientSpectra(model, tokenizer)
    records = data.load("gsm8k-mini", "test")
    found: dict[str, dict[str, Any]] = {}
    for number, probe in enumerate(probes):
        random = np.random.default_rng(probe)
        chosen = [records[index] for index in random.choice(len(records), problems, replace=False)]
        for part, (name, texts) in enumerate(_responses(chosen, random).items()):
            on_progress(4 * number + part, 4 * len(probes), f"gradients of {family} of width {width}")
            report = measure.score(texts, max_length=512)
            _gather(found, name, report)
            if name != "answer only":
                _gather(found, f"{name}, 24 tokens", measure.score(**_first_tokens(measure, texts, 24)))
    return found


def _responses(records: list[dict[str, Any]], random: Any) -> dict[str, list[tuple[str, str]]]:
    """The four conditions: the solution, its words shuffled, another problem's solution, and the bare answer."""
    solutions = [record["answer"] for record in records]
    shuffled = [" ".join(random.permutation(solution.split())) for solution in solutions]
    answers = [solution.rpartition("####")[2].strip() for solution in solutions]
    by_condition = {
        "full": solutions,
        "shuffled": shuffled,
        "other problem's": solutions[1:] + solutions[:1],
        "answer only": answers,
    }
    prompts = [record["question"] for record in records]
    return {name: list(zip(prompts, responses, strict=True)) for name, responses in by_condition.items()}


def _first_tokens(measure: Any, texts: list[tuple[str, str]], count: int) -> dict[str, Any]:
    """The samples, cut after the first tokens of the response."""
    encoded = [measure.encode(prompt, response, 512) for prompt, response in texts]
    ends = [int((labels != -100).nonzero()[0]) + count for _, labels in encoded]
    return {
        "input_ids": [ids[:end] for (ids, _), end in zip(encoded, ends, strict=True)],
        "labels": [labels[:end] for (_, labels), end in zip(encoded, ends, strict=True)],
    }


def _gather(found: dict[str, dict[str, Any]], name: str, report: Any) -> None:
    entry = found.setdefault(
        name, {"nuclear_norm": [], "effective_rank": [], "adjacent": [], "same_layer": [], "tokens": []}
    )
    for metric, table in report.mean().items():
        if metric in entry:
            entry[metric].append(table.tolist())
    for similarity in ("adjacent", "same_layer"):
        entry[similarity].append(float(report.similarities[similarity].abs().nanmean()))
    entry["tokens"].append(float(report.n_response_tokens.double().mean()))


def _curve_correlations(measured: dict[tuple[str, int, int], dict[str, Any]]) -> dict[str, float]:
    """Mean correlation of the layer curves of both metrics, inside a family and between families."""
    import numpy as np

    def curve(key: tuple[str, int, int]) -> Any:
        parts = []
        for metric in ("nuclear_norm", "effective_rank"):
            table = np.log(np.mean(measured[key]["full"][metric], axis=0))  # layers x projections
            parts.append(((table - table.mean(0)) / table.std()).ravel())  # each projection's shape over layers
        return np.concatenate(parts)

    pairs: dict[str, list[float]] = {"within": [], "between": []}
    for first, second in itertools.combinations(measured, 2):
        kind = "within" if first[0] == second[0] else "between"
        pairs[kind].append(float(np.corrcoef(curve(first), curve(second))[0, 1]))
    return {kind: float(np.mean(values)) for kind, values in pairs.items()}


def _figure(trial: Trial, measured: dict[tuple[str, int, int], dict[str, Any]]) -> None:
    import numpy as np
    from matplotlib.figure import Figure

    model = measured["llama", 96, trial.seeds[0]]
    colours = {"full": "#0f766e", "shuffled": "#b45309", "other problem's": "#4338ca", "answer only": "#57534e"}
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    grid = figure.subplots(2, 4, sharex=True)
    for row, metric in enumerate(("nuclear_norm", "effective_rank")):
        for column, kind in enumerate(_KINDS):
            axes = grid[row][column]
            for condition, colour in colours.items():
                axes.plot(np.mean(model[condition][metric], axis=0)[:, column], color=colour, label=condition)
            axes.spines[["top", "right"]].set_visible(False)
            if row == 0:
                axes.set_title(kind)
            else:
                axes.set_xlabel("layer")
            if column == 0:
                axes.set_ylabel(metric.replace("_", " "))
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    trial.figure("layer-curves", figure)
