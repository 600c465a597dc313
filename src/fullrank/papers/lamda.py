"""LaMDA: Large Model Fine-Tuning via Spectrally Decomposed Low-Dimensional Adaptation (LaMDA, LaMDA++)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fullrank.papers import Claim, Paper, Trial
from fullrank.papers._repeats import Repeats, repeat
from fullrank.papers._sentences import Size

_LLM = "the paper's language models and task sets on GPUs"

PAPER = Paper(
    slug="lamda",
    title="LaMDA: Large Model Fine-Tuning via Spectrally Decomposed Low-Dimensional Adaptation",
    authors=3,
    published="2024-06-18",
    arxiv="2406.12832",
    position=32,
    repository="https://github.com/ArminAzizi98/LaMDA",
    venue="Findings of EMNLP 2024",
    topics=(
        "adapters",
        "language",
    ),
    summary=(
        "LaMDA puts a small trainable square matrix between two projections taken from the SVD of the "
        "pretrained weight; the first is frozen, the second is frozen step by step early in training. "
        "Parameters and activation memory fall well below LoRA. A variant spreads rank over layers by their "
        "spectra."
    ),
    methods=(
        "fullrank.adapt.LamdaConfig",
        "fullrank.adapt.LamdaModel",
        "fullrank.adapt.LamdaCallback",
        "fullrank.adapt.freeze_step",
        "fullrank.adapt.allocate_ranks",
        "fullrank.adapt.lamda_rank_report",
        "fullrank.adapt.lamda_parameter_table",
    ),
    usage="""\
import torch
from peft import get_peft_model
from fullrank.adapt import LamdaConfig, freeze_step, lamda_parameter_groups, lamda_rank_report

base = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 8))
config = LamdaConfig(r=8, freeze_fraction=0.3, target_modules=["0"], modules_to_save=["2"])
model = get_peft_model(base, config)
model.base_model.print_trainable_parameters()  # at the start, with B, and at the end, without it
optimizer = torch.optim.AdamW(lamda_parameter_groups(model, weight_decay=0.01), lr=2e-3)
x, labels = torch.randn(256, 64), torch.randint(8, (256,))
for step in range(100):             # in a Trainer: callbacks=[LamdaCallback()]
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), labels).backward()
    freeze_step(model, step, 100, optimizer)
    optimizer.step()
print(lamda_rank_report(model))     # rank and captured energy of every layer

before = model(x)
merged = model.merge_and_unload()   # plain linear layers again
print((merged(x) - before).abs().max())
""",
    extra="adapt",
    notes=(
        "The official start differs from the paper's and leaves the base weight unchanged only in the residual "
        "form, which is our default. The ratio of trained parameters is the maximum over the authors' settings,"
        " at the end of training; the memory ratio is of the whole process. On an easy task LoRA of rank 1 is "
        "as accurate: the case for LaMDA is memory, and size that does not grow with width."
    ),
    claims=(
        Claim(
            id="matches-lora",
            says="LaMDA matches or surpasses LoRA and other methods on GLUE, summarisation, generation and reasoning.",
            source="abstract",
            needs=_LLM,
        ),
        Claim(
            id="fewer-updates",
            says="Up to 17.7 times fewer parameters are updated than with LoRA.",
            source="abstract",
            paper_value=17.7,
            unit="times",
            holds=lambda m: m["LLaMA-7B square layers"] >= 17.7,
        ),
        Claim(
            id="less-memory",
            says="Peak GPU memory in fine-tuning falls by up to 1.32 times.",
            source="abstract",
            paper_value=1.32,
            unit="times",
            needs="a GPU and a language model of over a billion parameters",
        ),
        Claim(
            id="tables",
            says=(
                "GSM8K and WikiText-2 (LLaMA-2-7B), XSum and CNN/DailyMail (BART-large), GLUE (DeBERTa-v3-base)"
                " against LoRA, AdaLoRA, LoRA-FA and VeRA."
            ),
            source="tables, not readable",
            needs=_LLM,
            confirmed=False,
        ),
        Claim(
            id="level-at-small-scale",
            says="With a third of the parameters LaMDA is within a point of LoRA.",
            source="ordering of the abstract",
            unit="points",
            holds=lambda m: m["LoRA"] - m["LaMDA"] <= 1,
        ),
        Claim(
            id="spectral-start-matters",
            says=(
                "The residual spectral start beats the official start, and gradual freezing beats freezing at "
                "once, by at least 3 points."
            ),
            source="method",
            unit="points",
            holds=lambda m: m["LaMDA"] - m["official start"] >= 3 and m["LaMDA"] - m["frozen at once"] >= 3,
        ),
        Claim(
            id="rank-allocation",
            says="LaMDA++ with ranks allotted by spectrum is at least as good as uniform ranks of the same sum.",
            source="method",
            unit="points",
            holds=lambda m: m["allotted"] >= m["uniform"] - 0.3,
        ),
        Claim(
            id="activation-memory",
            says=(
                "Activations kept for the backward pass of the adapter path shrink at least 8 times against "
                "LoRA of equal rank."
            ),
            source="method",
            unit="times",
            holds=lambda ratio: ratio >= 8,
        ),
        Claim(
            id="rank-1-lora-is-as-good",
            says="On an easy task LoRA of rank 1, with fewer parameters, is as accurate.",
            source="our runs on TREC with MiniLM",
            unit="points",
            holds=lambda m: m["LoRA r=1"] >= m["LaMDA"] - 1,
            kind="finding",
        ),
        Claim(
            id="whole-step-memory",
            says=(
                "Of a whole training step without attention LaMDA keeps at least 1.3 times less than LoRA of equal "
                "rank: activations, gradients and the optimiser's moments."
            ),
            source="exact count on a stack of linear layers",
            unit="times",
            holds=lambda ratio: ratio > 1.3,
            kind="finding",
        ),
        Claim(
            id="free-of-width",
            says="What LaMDA trains to the end and keeps for the backward pass does not grow with the layers' width.",
            source="exact count on stacks of linear layers",
            unit="growth over a quadrupled width",
            holds=lambda m: m["LaMDA bytes"] <= 1.01 and m["LaMDA parameters"] == 1 and m["LoRA bytes"] > 3,
            kind="finding",
        ),
    ),
)

_QUERY_VALUE = ["query", "value"]
_ALL_LINEAR = ["query", "key", "value", "dense"]
_LAMDA = {"r": 32, "target_modules": _QUERY_VALUE}
#: Method -> (fields of its configuration, learning rate of the adapter); LoRA is PEFT's.
_METHODS: dict[str, tuple[dict[str, Any], float]] = {
    "head only": ({}, 5e-3),
    "LoRA r=4": ({"r": 4, "lora_alpha": 8, "target_modules": _QUERY_VALUE}, 2e-3),
    "LoRA r=1": ({"r": 1, "lora_alpha": 2, "target_modules": _QUERY_VALUE}, 2e-3),
    "LaMDA": (_LAMDA, 2e-3),
    "LaMDA, official start": (_LAMDA | {"init": "official"}, 2e-3),
    "LaMDA, B frozen at once": (_LAMDA | {"freeze_fraction": 0}, 2e-3),
    "LaMDA, all linear": ({"r": 32, "target_modules": _ALL_LINEAR}, 2e-3),
    "LaMDA++, all linear": ({"r": 32, "target_modules": _ALL_LINEAR, "rank_allocation": "waterfill"}, 2e-3),
    "LaMDA, S from zero": (_LAMDA | {"init": "svd_zero"}, 5e-3),
}
_QUICK = tuple(_METHODS)[:-1]
_WIDTHS = (256, 512, 1024)
_RANK = 32


@PAPER.study
def study(trial: Trial) -> None:
    """Parameters and memory, counted; questions classified by MiniLM's last layers."""
    _parameter_counts(trial)
    layers, tokens = trial.pick(smoke=(2, 64), quick=(12, 2048), full=(12, 2048))
    size = trial.pick(smoke=Size(32, 16, 8, 2, 1), quick=Size(1500, 500, 24, 2, 2), full=Size(5452, 500, 32, 6, 4))
    with trial.one_thread():
        memory = trial.step(f"memory layers={layers} tokens={tokens}", partial(_memory, layers, tokens))
        methods = trial.pick(smoke=_QUICK, quick=_QUICK, full=tuple(_METHODS))
        runs = repeat(trial, methods, partial(_run, size, trial.device), f"TREC questions {size}")
    _measure_memory(trial, memory)
    trial.measure("level-at-small-scale", *runs.summary({"LoRA": "LoRA r=4", "LaMDA": "LaMDA"}))
    trial.measure(
        "spectral-start-matters",
        *runs.summary(
            {
                "LaMDA": "LaMDA",
                "official start": "LaMDA, official start",
                "frozen at once": "LaMDA, B frozen at once",
            }
        ),
    )
    trial.measure("rank-allocation", *runs.summary({"allotted": "LaMDA++, all linear", "uniform": "LaMDA, all linear"}))
    trial.measure("rank-1-lora-is-as-good", *runs.summary(["LoRA r=1", "LaMDA"]))
    columns = {"trained at the start": "parameters", "trained at the end": "at the end", "sum of ranks": "ranks"}
    trial.table("questions", runs.rows(**columns))
    mean, _ = runs.summary(list(runs.runs))
    first = {method: found[0] for method, found in runs.runs.items()}
    trial.note(
        f"{size.training} questions of at most {size.tokens} tokens train the last {size.layers} of MiniLM's six "
        f"layers and a head, tested on {size.testing}. LaMDA ends with {first['LaMDA']['at the end']:,} trained "
        f"numbers where LoRA of rank 4 has {first['LoRA r=4']['parameters']:,}, but starts with "
        f"{first['LaMDA']['parameters']:,}: with B frozen at once it loses "
        f"{mean['LaMDA'] - mean['LaMDA, B frozen at once']:.1f} points, which the count at the end does not tell. It "
        f"is {mean['LoRA r=4'] - mean['LaMDA']:.1f} points behind LoRA of rank 4, where one is the limit of the claim. "
        f"LoRA of rank 1, with {first['LoRA r=1']['parameters']:,} numbers, reaches {mean['LoRA r=1']:.1f} % on this "
        f"easy task, LaMDA {mean['LaMDA']:.1f} %."
    )
    _figure(trial, runs, memory)


def _parameter_counts(trial: Trial) -> None:
    """On a skeleton of a block of LLaMA-7B, at rank 64."""
    import torch
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from fullrank.adapt import LamdaConfig, lamda_parameter_table

    with torch.device("meta"):
        llama = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1))  # transformers' defaults are LLaMA-7B's sizes
    config = LamdaConfig(r=64, target_modules="all-linear")
    layers = lamda_parameter_table(get_peft_model(llama, config, low_cpu_mem_usage=True))
    square = [layer for layer in layers.values() if layer.in_features == layer.out_features]
    rows = []
    for name, chosen in (("square layers", square), ("all layers", list(layers.values()))):
        lora, start, end = (
            sum(getattr(layer, field) for layer in chosen) for field in ("lora", "trained_at_start", "trained_at_end")
        )
        rows.append(
            {
                "layers of a block": name, "LoRA": lora, "LaMDA at the start": start, "LaMDA at the end": end,
                "times fewer at the start": lora / start, "times fewer at the end": lora / end,
            }
        )  # fmt: skip
    trial.table("parameters-of-llama-7b", rows)
    trial.measure(
        "fewer-updates", {f"LLaMA-7B {row['layers of a block']}": row["times fewer at the end"] for row in rows}
    )
    trial.note(
        f"At equal rank 64 LaMDA ends with {rows[0]['times fewer at the end']:.0f} times fewer trained numbers than "
        f"LoRA in a square layer of LLaMA-7B, and starts with {rows[0]['times fewer at the start']:.1f} times fewer. "
        "The paper's 17.7 is the largest ratio over its own settings."
    )


def _memory(layers: int, tokens: int) -> list[dict[str, int | str]]:
    """What a training step of a stack of linear layers keeps, beside its weights, by method and width."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import nn

    from fullrank.adapt import LamdaConfig, training_memory
    from fullrank.adapt.memory import activation_bytes

    configs = {
        "LoRA": partial(LoraConfig, r=_RANK, lora_alpha=_RANK),
        "LaMDA": partial(LamdaConfig, r=_RANK, svd="randomized"),
        "LaMDA, B frozen": partial(LamdaConfig, r=_RANK, svd="randomized", freeze_fraction=0),
    }
    rows: list[dict[str, int | str]] = []
    for width in _WIDTHS:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            x = torch.randn(tokens, width)
            for method, config in configs.items():
                blocks = [module for _ in range(layers) for module in (nn.Linear(width, width), nn.GELU())]
                stack = nn.Sequential(*blocks).requires_grad_(False)
                # An input that needs a gradient makes the frozen stack keep what it keeps under any adapter.
                without = activation_bytes(stack, {"input": x.clone().requires_grad_()})
                linear = [name for name, module in stack.named_children() if isinstance(module, nn.Linear)]
                model: Any = get_peft_model(stack, config(target_modules=linear))  # pyright: ignore[reportArgumentType]
                step = training_memory(model, {"input": x.clone().requires_grad_()})
                trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
                rows.append(
                    {
                        "width": width, "method": method, "parameters": trained, "stack's bytes": without,
                        "adapter's bytes": step.activations - without, "bytes of a step": step.total,
                    }
                )  # fmt: skip
    return rows


def _measure_memory(trial: Trial, rows: Sequence[Mapping[str, Any]]) -> None:
    at = {(row["method"], row["width"]): row for row in rows}
    narrow, wide = _WIDTHS[0], _WIDTHS[-1]

    def ratio(entry: str, above: tuple[str, int], below: tuple[str, int]) -> float:
        return at[above][entry] / at[below][entry]

    trial.measure("activation-memory", ratio("adapter's bytes", ("LoRA", wide), ("LaMDA", wide)))
    trial.measure("whole-step-memory", ratio("bytes of a step", ("LoRA", wide), ("LaMDA", wide)))
    frozen = "LaMDA, B frozen"
    trial.measure(
        "free-of-width",
        {
            "LaMDA bytes": ratio("adapter's bytes", (frozen, wide), (frozen, narrow)),
            "LaMDA parameters": ratio("parameters", (frozen, wide), (frozen, narrow)),
            "LoRA bytes": ratio("adapter's bytes", ("LoRA", wide), ("LoRA", narrow)),
        },
    )
    trial.table("memory-of-a-step", rows)


def _run(size: Size, device: str, method: str, seed: int) -> dict[str, Any]:
    """One training run: accuracy in percent, and how many numbers are trained at its start and at its end."""
    from peft import LoraConfig

    from fullrank.adapt import LamdaCallback, LamdaConfig, TrainingSettings, lamda_parameter_table
    from fullrank.papers._sentences import sentence_task, train_sentences

    fields, rate = _METHODS[method]
    ours = method.startswith("LaMDA")
    config = (LamdaConfig if ours else LoraConfig)(**fields) if fields else None
    task = sentence_task("trec-questions", size.training, size.testing, size.tokens, size.layers)
    settings = TrainingSettings(epochs=size.epochs, learning_rate=rate, seed=seed, device=device)
    outcome = train_sentences(task, config, settings, callbacks=[LamdaCallback()] if ours else ())
    layers = lamda_parameter_table(outcome.model).values() if ours else []
    return {
        "accuracy": 100 * outcome.accuracy,
        "parameters": outcome.parameters,
        "at the end": sum(layer.trained_at_end for layer in layers) if ours else outcome.parameters,
        "ranks": sum(layer.rank for layer in layers) if ours else None,
    }


def _figure(trial: Trial, runs: Repeats, memory: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.figure import Figure

    means, spreads = runs.summary(list(runs.runs))
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    methods = list(runs.runs)[::-1]
    bars = range(len(methods))
    colours = ["#0f766e" if method.startswith("LaMDA") else "#57534e" for method in methods]
    left.barh(bars, [means[m] for m in methods], xerr=[spreads[m] for m in methods], color=colours, height=0.6)
    left.set_yticks(bars, methods)
    left.set(xlabel="accuracy on TREC questions, %", xlim=(min(means.values()) - 5, None))
    for method, colour in (("LoRA", "#57534e"), ("LaMDA", "#0f766e")):
        kept = [row["adapter's bytes"] / 2**20 for row in memory if row["method"] == method]
        right.plot(_WIDTHS, kept, "o-", c=colour, label=method)
    right.set(xlabel="width of the layers", ylabel="MiB kept for the backward pass", xticks=_WIDTHS)
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    trial.figure("accuracy-and-memory", figure)
