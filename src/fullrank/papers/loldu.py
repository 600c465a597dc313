"""LoLDU: Low-Rank Adaptation via Lower-Diag-Upper Decomposition for Parameter-Efficient Fine-Tuning (LoLDU)."""

from __future__ import annotations

from functools import partial
from typing import Any

from fullrank.papers import Claim, Paper, Trial
from fullrank.papers._repeats import Repeats, repeat
from fullrank.papers._sentences import Size

_GLUE = "RoBERTa-base weights and GLUE"
_VIT = "ViT-B weights and the six image sets"
_LLAMA = "LLaMA2-7B weights"

PAPER = Paper(
    slug="loldu",
    title="LoLDU: Low-Rank Adaptation via Lower-Diag-Upper Decomposition for Parameter-Efficient Fine-Tuning",
    authors=7,
    published="2024-10-17",
    arxiv="2410.13618",
    position=16,
    repository="https://github.com/SKDDJ/LoLDU",
    comments=2,
    topics=("adapters",),
    summary=(
        "LoLDU factorises each pretrained weight as lower triangular, diagonal, upper triangular, keeps the "
        "triangular parts of rank r fixed and trains only the diagonal and a scale. The number of trained "
        "parameters falls by three orders of magnitude. It is tested on instruction following, GLUE, image "
        "classification and generation."
    ),
    methods=(
        "fullrank.adapt.LoLDUConfig",
        "fullrank.adapt.LoLDUModel",
        "fullrank.adapt.loldu_factors",
        "fullrank.adapt.loldu_delta",
        "fullrank.adapt.loldu_parameter_groups",
        "fullrank.linalg.ldu",
    ),
    usage="""\
import torch
from peft import get_peft_model
from fullrank.adapt import LoLDUConfig, loldu_parameter_groups

base = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 8))
model = get_peft_model(base, LoLDUConfig(r="full", target_modules=["0"], modules_to_save=["2"]))
model.print_trainable_parameters()  # 64 pivots and a scale, beside the new head
optimizer = torch.optim.AdamW(loldu_parameter_groups(model, weight_decay=0.01), lr=1e-2)
x, labels = torch.randn(256, 64), torch.randint(8, (256,))
for _ in range(50):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), labels).backward()
    optimizer.step()

before = model(x)
merged = model.merge_and_unload()   # plain linear layers again
print((merged(x) - before).abs().max())
""",
    extra="adapt",
    notes=(
        "The official repository holds the parametrisation only. The abstract's factor of 2600 does not follow "
        "from its own table (33.6 M over 0.016 M is 2100). One of the initialisations in the code is not "
        "consistent with its residual and starts away from the pre-trained weight; here every start gives the base "
        "model. The change is kept beside the weight, not inside a residual, which is the same function and exact in "
        "half precision. The triangular factors are not orthogonal, and the first r pivots are not the largest."
    ),
    claims=(
        Claim(
            id="fewer-parameters",
            says="Up to 2600 times fewer trainable parameters than regular methods.",
            source="abstract; the table gives 33.6 M over 0.016 M",
            paper_value={"abstract": 2600, "table": 2100},
            unit="times",
            holds=lambda m: m["LLaMA2-7B shapes"] >= 2600,
        ),
        Claim(
            id="glue",
            says=(
                "GLUE mean of six with RoBERTa-base: LoLDU 85.8 with 0.0184 M, LoRA 85.2, PiSSA 86.0, VeRA "
                "85.2, full 85.2."
            ),
            source="table",
            paper_value={"full": 85.2, "BitFit": 85.4, "LoRA": 85.2, "PiSSA": 86.0, "VeRA": 85.2, "LoLDU": 85.8},
            unit="%",
            needs=_GLUE,
        ),
        Claim(
            id="glue-tasks",
            says="By task: RTE 81.3 against LoRA's 78.4, the others within a point.",
            source="table",
            paper_value={
                "LoRA SST-2": 95.1,
                "LoRA MRPC": 89.7,
                "LoRA CoLA": 63.4,
                "LoRA QNLI": 93.3,
                "LoRA RTE": 78.4,
                "LoRA STS-B": 91.5,
                "LoLDU SST-2": 94.8,
                "LoLDU MRPC": 89.9,
                "LoLDU CoLA": 63.8,
                "LoLDU QNLI": 92.9,
                "LoLDU RTE": 81.3,
                "LoLDU STS-B": 92.3,
            },
            unit="%",
            needs=_GLUE,
        ),
        Claim(
            id="vit-six-sets",
            says=(
                "ViT-B on six image sets: LoLDU 82.79 (r = 768, 18 K), LoRA 76.22 (581 K), FourierFT 79.29, full 87.23."
            ),
            source="table",
            paper_value={
                "linear": 68.38,
                "full": 87.23,
                "LoRA r=16": 76.22,
                "FourierFT 72K": 76.64,
                "FourierFT 239K": 79.29,
                "LoLDU r=64": 77.83,
                "LoLDU r=768": 82.79,
            },
            unit="%",
            needs=_VIT,
        ),
        Claim(
            id="vit-fine-grained",
            says="Fine-grained sets gain most: aircraft 42.15 against 25.16, cars 66.66 against 45.38.",
            source="table",
            paper_value={"LoRA FGVC": 25.16, "LoRA Cars": 45.38, "LoLDU FGVC": 42.15, "LoLDU Cars": 66.66},
            unit="%",
            needs=_VIT,
        ),
        Claim(
            id="vit-rank-sweep",
            says="Accuracy on aircraft rises with rank, from 27.59 at r = 1 to 42.15 at r = 768 (linear 17.44).",
            source="table",
            paper_value={
                "linear": 17.44,
                "r=1": 27.59,
                "r=8": 28.28,
                "r=16": 31.13,
                "r=32": 32.75,
                "r=64": 34.01,
                "r=128": 34.91,
                "r=256": 36.38,
                "r=512": 38.48,
                "r=768": 42.15,
            },
            unit="%",
            needs=_VIT,
        ),
        Claim(
            id="rank-order",
            says="Quality rises with rank: head only, r = 1, r = 64, r = 384.",
            source="ordering of the rank sweep",
            unit="%",
            holds=lambda m: m["head only"] < m["r=1"] < m["r=64"] <= m["r=384"],
        ),
        Claim(
            id="level-with-lora",
            says="At full rank of the diagonal it is within a point of LoRA with 16 times fewer parameters.",
            source="ordering of the tables",
            unit="points",
            holds=lambda m: m["LoRA r=8"] - m["r=384"] <= 1,
        ),
        Claim(
            id="llama-instruct",
            says=(
                "LLaMA2-7B, 0.016 M parameters: MMLU 46.21, DROP 32.71, HumanEval 15.11, BBH 33.12, level with "
                "LoRA (33.6 M) and MELoRA."
            ),
            source="table",
            paper_value={
                "base MMLU": 45.96,
                "base DROP": 31.55,
                "base HEval": 12.2,
                "base BBH": 32.04,
                "LoRA MMLU": 45.64,
                "LoRA DROP": 32.46,
                "LoRA HEval": 15.09,
                "LoRA BBH": 32.4,
                "MELoRA MMLU": 46.46,
                "MELoRA DROP": 32.65,
                "MELoRA HEval": 16.16,
                "MELoRA BBH": 33.01,
                "LoLDU MMLU": 46.21,
                "LoLDU DROP": 32.71,
                "LoLDU HEval": 15.11,
                "LoLDU BBH": 33.12,
            },
            unit="score",
            needs=_LLAMA,
        ),
        Claim(
            id="diffusion-subjects",
            says=(
                "Subjects in Stable Diffusion: DINO 0.723, CLIP-T 0.319, CLIP-I 0.830, above DreamBooth and "
                "Textual Inversion in image similarity."
            ),
            source="table",
            paper_value={
                "DreamBooth DINO": 0.679,
                "DreamBooth CLIP-T": 0.323,
                "DreamBooth CLIP-I": 0.801,
                "Textual Inversion DINO": 0.649,
                "Textual Inversion CLIP-T": 0.313,
                "Textual Inversion CLIP-I": 0.801,
                "LoLDU DINO": 0.723,
                "LoLDU CLIP-T": 0.319,
                "LoLDU CLIP-I": 0.83,
            },
            unit="score",
            needs="Stable Diffusion weights and a GPU",
        ),
        Claim(
            id="learning-speed",
            says="A concept is acquired after about 100 steps.",
            source="figure",
            paper_value=100,
            unit="steps",
            needs="Stable Diffusion weights and a GPU",
        ),
        Claim(
            id="ldu-factors-matter",
            says=(
                "Frozen factors from the LDU decomposition beat random frozen factors of the same size by at "
                "least 3 points."
            ),
            source="initialisation ablation",
            unit="points",
            holds=lambda m: m["LDU"] - m["random"] >= 3,
        ),
        Claim(
            id="below-lora-on-news",
            says=(
                "On a second set, AG news, LoLDU at full rank is at least a point below LoRA of rank 8 and nearer to "
                "the head alone, at either of two learning rates: the tie on TREC does not carry over."
            ),
            source="our runs on AG news with MiniLM",
            unit="%",
            holds=lambda m: (
                m["LoRA r=8"] - max(m["r=384"], m["r=384 at 1e-2"]) >= 1
                and m["LoRA r=8"] + m["head only"] > 2 * max(m["r=384"], m["r=384 at 1e-2"])
            ),
            kind="finding",
        ),
        Claim(
            id="consistent-starts-agree",
            says="Starts that leave the base model unchanged end within a point of each other.",
            source="our runs on TREC with MiniLM",
            unit="%",
            holds=lambda m: max(m.values()) - min(m.values()) <= 1,
            kind="finding",
        ),
        Claim(
            id="inconsistent-start-fails",
            says=(
                "The published code's start at ones, whose residual belongs to the pivots, is worse than the head "
                "alone: the low rows of the paper's table of initialisations are due to it, not to the values."
            ),
            source="official code; our runs on TREC with MiniLM",
            unit="%",
            holds=lambda m: m["inconsistent"] < m["head only"] < m["consistent"],
            kind="finding",
        ),
        Claim(
            id="level-with-rivals-of-its-size",
            says=(
                "With the same 1,540 trained parameters, each at the best of three learning rates, VeRA and TinyLoRA "
                "are within 1.5 points of LoLDU."
            ),
            source="our runs on TREC with MiniLM",
            unit="%",
            holds=lambda m: max(abs(m["r=384"] - m[rival]) for rival in ("VeRA r=1", "TinyLoRA u=385")) <= 1.5,
            kind="finding",
        ),
        Claim(
            id="scale-of-the-factors",
            says=(
                "Random factors of the same norms as those of the LDU decomposition are within 1.5 points of it; only "
                "random factors of unit columns, which are a few times smaller, fall 3 points behind."
            ),
            source="our runs on TREC with MiniLM",
            unit="%",
            holds=lambda m: m["LDU"] - m["random"] <= 1.5 and m["LDU"] - m["random, unit columns"] >= 3,
            kind="finding",
        ),
        Claim(
            id="parameter-factor",
            says="The factor that follows from the paper's own table is 2100, not 2600.",
            source="arithmetic on the table",
            paper_value=2600,
            unit="times",
            holds=lambda factor: abs(factor - 2100) < 1,
            kind="finding",
        ),
    ),
)

_TARGETS = ["query", "value"]
#: What the paper's table counts, in parameters.
_TABLE = {"LoRA": 33.6e6, "LoLDU": 0.016e6}
#: Method -> (configuration in PEFT or here, its fields, learning rate of the adapter).
_METHODS: dict[str, tuple[str, dict[str, Any], float]] = {
    "head only": ("", {}, 1e-2),
    "r=1": ("LoLDUConfig", {"r": 1}, 3e-2),
    "r=64": ("LoLDUConfig", {"r": 64}, 3e-2),
    "r=384": ("LoLDUConfig", {"r": 384}, 1e-2),
    "random factors": ("LoLDUConfig", {"r": 384}, 1e-2),
    "random factors, unit columns": ("LoLDUConfig", {"r": 384}, 1e-2),
    "LoRA r=8": ("LoraConfig", {"r": 8, "lora_alpha": 16}, 3e-3),
    "VeRA r=1": ("VeraConfig", {"r": 1}, 1e-1),
    "TinyLoRA u=385": ("TinyLoraConfig", {"r": 20, "u": 385}, 1e-2),
}
_INCONSISTENT = "start at ones, residual of the pivots"
#: Further starts of z at full rank -> `init_method`; the last is the published code's, see `_start_at_ones`.
_INIT_METHODS = {"start at the pivots": "lu", "start at ones": "ones", _INCONSISTENT: "lu"}
_CONSISTENT = ("r=384", "start at the pivots", "start at ones")
_STARTS = ("head only", *_CONSISTENT, _INCONSISTENT)
#: The same on the second set, where the pivots do better at a lower rate.
_ON_NEWS = {method: _METHODS[method] for method in ("head only", "LoRA r=8")} | {
    "r=384": ("LoLDUConfig", {"r": 384}, 3e-3),
    "r=384 at 1e-2": _METHODS["r=384"],
}
_RANKS = (1, 8, 16, 32, 64, 128, 256, 384)


@PAPER.study
def study(trial: Trial) -> None:
    """Questions and news, classified by MiniLM's last layers: ranks, starts, random factors, and rivals."""
    _parameter_counts(trial)
    size = trial.pick(
        smoke=Size(32, 16, 8, 2, 1),
        quick=Size(600, 500, 16, 2, 4),
        full=Size(5000, 1500, 32, 6, 4),
    )
    sweep = trial.pick(smoke=(), quick=(), full=tuple(f"r={r}" for r in _RANKS if f"r={r}" not in _METHODS))
    # The starts are compared with each other from the same order of sentences, so that fewer seeds tell them apart.
    paired = trial.seeds[: trial.pick(smoke=1, quick=1, full=len(trial.seeds))]
    on_questions = partial(_run, "trec-questions", size, trial.device)
    with trial.one_thread():
        questions = repeat(trial, [*_METHODS, *sweep], on_questions, f"TREC questions {size}")
        starts = repeat(trial, _STARTS, on_questions, f"TREC questions {size}", paired)
        longer = size._replace(tokens=2 * size.tokens)
        news = repeat(trial, _ON_NEWS, partial(_run, "agnews", longer, trial.device), f"AG news {longer}")
    trial.measure("rank-order", *questions.summary(["head only", "r=1", "r=64", "r=384"]))
    trial.measure("level-with-lora", *questions.summary(["LoRA r=8", "r=384"]))
    trial.measure("below-lora-on-news", *news.summary(_ON_NEWS.keys()))
    factors = {"LDU": "r=384", "random": "random factors", "random, unit columns": "random factors, unit columns"}
    trial.measure("ldu-factors-matter", *questions.summary(factors))
    trial.measure("scale-of-the-factors", *questions.summary(factors))
    trial.measure("consistent-starts-agree", *starts.summary(_CONSISTENT))
    trial.measure(
        "inconsistent-start-fails",
        *starts.summary({"head only": "head only", "inconsistent": _INCONSISTENT, "consistent": "start at ones"}),
    )
    trial.measure("level-with-rivals-of-its-size", *questions.summary(["r=384", "VeRA r=1", "TinyLoRA u=385"]))
    for name, runs in (("questions", questions), ("starts", starts), ("news", news)):
        trial.table(name, runs.rows(parameters="parameters"))
    lora, ours = (questions.runs[method][0]["parameters"] for method in ("LoRA r=8", "r=384"))
    trial.note(
        f"{size.training} sentences of at most {size.tokens} tokens train query and value of the last {size.layers} of "
        f"MiniLM's six layers for {size.epochs} epochs, and a head, tested on {size.testing}. LoRA of rank 8 trains "
        f"{lora / ours:.0f} times as many numbers as LoLDU of full rank. VeRA reaches LoLDU's size with rank 1 only, "
        f"TinyLoRA with 20 singular directions. AG news, cut after {longer.tokens} tokens, stands in for SUBJ, which "
        "is not bundled."
    )
    mean, spread = questions.summary(list(questions.runs))
    trial.note(
        f"Accuracy goes from {mean['head only']:.1f} % of the head over {mean['r=1']:.1f} % of r = 1 to "
        f"{mean['r=64']:.1f} % of r = 64 and {mean['r=384']:.1f} % of r = 384; the last two have spreads over seeds of "
        f"{spread['r=64']:.1f} and {spread['r=384']:.1f} points. Ranks up to 64 train at 3e-2, the full one at 1e-2."
    )
    trial.note(
        f"With the factors of the weight {mean['r=384']:.1f} % are right, with Gaussian ones of the same Frobenius "
        f"norms {mean['random factors']:.1f} %, with Gaussian ones of unit columns and rows "
        f"{mean['random factors, unit columns']:.1f} %, all at the same learning rate. Adam's steps on the diagonal "
        "have the same size whatever the factors are, so that smaller factors learn more slowly: what sets LDU apart "
        "from plain random factors here is their size."
    )
    _figure(trial, questions)


def _parameter_counts(trial: Trial) -> None:
    """On a skeleton of LLaMA2-7B, query and value; and what the paper's own table gives."""
    import torch
    from peft import LoraConfig, PeftConfig
    from transformers import LlamaConfig, LlamaForCausalLM

    from fullrank.adapt import LoLDUConfig, trainable_parameters

    config = LlamaConfig()  # transformers' defaults are the sizes of LLaMA-7B
    blocks, config.num_hidden_layers = config.num_hidden_layers, 1
    with torch.device("meta"):
        llama = LlamaForCausalLM(config)

    def count(kind: type[PeftConfig], r: int) -> int:
        return blocks * trainable_parameters(llama, kind(r=r, target_modules=["q_proj", "v_proj"]))  # pyright: ignore[reportCallIssue]

    lora, loldu = count(LoraConfig, 64), {r: count(LoLDUConfig, r) for r in (256, 1024)}
    trial.measure("fewer-parameters", {"LLaMA2-7B shapes": lora / loldu[256], "at r = 1024": lora / loldu[1024]})
    trial.measure("parameter-factor", _TABLE["LoRA"] / _TABLE["LoLDU"])
    trial.table(
        "parameters-of-llama2-7b",
        [
            {"method": "LoRA r=64", "parameters": lora, "times fewer than LoRA": 1.0},
            *(
                {"method": f"LoLDU r={r}", "parameters": count, "times fewer than LoRA": lora / count}
                for r, count in loldu.items()
            ),
        ],
    )
    trial.note(
        f"The paper's 0.016 million parameters of LLaMA2-7B are those of r = 256; at r = 1024, which its table of "
        f"settings states, LoLDU trains {loldu[1024]:,}, and LoRA of rank 64 {lora / loldu[1024]:.0f} times as many."
    )


def _run(source: str, size: Size, device: str, method: str, seed: int) -> dict[str, Any]:
    """One training run: accuracy in percent."""
    import peft

    import fullrank.adapt as adapt
    from fullrank.adapt import TrainingSettings
    from fullrank.papers._sentences import sentence_task, train_sentences

    kind, fields, rate = _ON_NEWS[method] if source == "agnews" else _configured(method)
    room = adapt if kind in adapt.__all__ else peft
    config = getattr(room, kind)(target_modules=_TARGETS, **fields) if kind else None
    before = {
        "random factors": _with_random_factors,
        "random factors, unit columns": partial(_with_random_factors, unit=True),
        _INCONSISTENT: _start_at_ones,
    }.get(method, lambda model: None)
    settings = TrainingSettings(
        epochs=size.epochs, learning_rate=rate, head_learning_rate=1e-2, seed=seed, device=device
    )
    task = sentence_task(source, size.training, size.testing, size.tokens, size.layers)
    outcome = train_sentences(task, config, settings, before_training=before)
    return {"accuracy": 100 * outcome.accuracy, "parameters": outcome.parameters}


def _configured(method: str) -> tuple[str, dict[str, Any], float]:
    if method in _INIT_METHODS:
        return "LoLDUConfig", {"r": 384, "init_method": _INIT_METHODS[method]}, 1e-2
    return _METHODS.get(method) or ("LoLDUConfig", {"r": int(method.removeprefix("r="))}, 1e-2)


def _deltas(model: Any) -> list[Any]:
    from fullrank.adapt.loldu import LoLDUDelta

    return [module for module in model.modules() if isinstance(module, LoLDUDelta)]


def _with_random_factors(model: Any, unit: bool = False) -> None:
    """Put Gaussian factors in the place of the weight's, with their Frobenius norms, or of unit columns and rows."""
    import torch

    for delta in _deltas(model):
        for name in ("A", "B"):
            factor = getattr(delta, name)
            noise = torch.randn_like(factor)
            norm = delta.rank**0.5 if unit else factor.norm()
            setattr(delta, name, noise * (norm / noise.norm()))


def _start_at_ones(model: Any) -> None:
    """The authors' code: the residual is that of the pivots, and z starts at one all the same."""
    for delta in _deltas(model):
        delta.z.data.fill_(1)


def _figure(trial: Trial, questions: Repeats) -> None:
    from matplotlib.figure import Figure

    means, spreads = questions.summary(list(questions.runs))
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    methods = list(questions.runs)[::-1]
    bars = range(len(methods))
    colours = ["#0f766e" if method.startswith("r=") else "#57534e" for method in methods]
    axes.barh(bars, [means[m] for m in methods], xerr=[spreads[m] for m in methods], color=colours, height=0.6)
    axes.set_yticks(bars, methods)
    for bar, method in zip(bars, methods, strict=True):
        parameters = questions.runs[method][0]["parameters"]
        axes.text(means[method] + spreads[method] + 0.5, bar, f"{parameters:,}", va="center", fontsize=8)
    low, high = min(means.values()), max(means.values())
    axes.set(xlabel="accuracy on TREC questions, %; trained parameters beside it", xlim=(low - 10, high + 12))
    axes.spines[["top", "right"]].set_visible(False)
    trial.figure("accuracy-by-method", figure)
