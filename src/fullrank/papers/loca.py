"""LoCA: Location-Aware Cosine Adaptation for Parameter-Efficient Fine-Tuning (LoCA)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from fullrank.papers import Claim, Paper, Trial
from fullrank.papers._repeats import repeat
from fullrank.papers._sentences import Size

_ROBERTA = "RoBERTa-base weights and GLUE"

PAPER = Paper(
    slug="loca",
    title="LoCA: Location-Aware Cosine Adaptation for Parameter-Efficient Fine-Tuning",
    authors=8,
    published="2025-02-04",
    arxiv="2502.06820",
    position=24,
    repository="https://github.com/TL-UESTC/LoCA",
    venue="ICLR 2025",
    topics=(
        "adapters",
        "language",
    ),
    summary=(
        "LoCA learns a weight update as a few coefficients of a two-dimensional cosine transform and also "
        "learns where in the spectrum they sit. Positions are discrete, so their gradients are estimated by "
        "finite differences. A theory compares frequency-domain and low-rank updates, and tests cover language "
        "and vision models."
    ),
    methods=(
        "fullrank.adapt.LocaConfig",
        "fullrank.adapt.LocaModel",
        "fullrank.adapt.LocaCallback",
        "fullrank.adapt.loca_delta",
        "fullrank.adapt.loca_param_groups",
        "fullrank.linalg.sparse_idct2",
    ),
    usage="""\
import torch
from peft import get_peft_model
from fullrank.adapt import LocaConfig, loca_param_groups

base = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 8))
config = LocaConfig(n_frequency=100, learn_location_steps=40, target_modules=["0"], modules_to_save=["2"])
model = get_peft_model(base, config)
optimizer = torch.optim.AdamW(loca_param_groups(model, lr=1e-2, location_lr=5e-3))
x, labels = torch.randn(256, 64), torch.randint(8, (256,))
for step in range(120):             # in a Trainer: callbacks=[LocaCallback()]
    model.base_model.update_schedule(step, 120)
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), labels).backward()
    optimizer.step()
print(model.base_model.loca_report())  # amplitudes, places that moved, size of the change

before = model(x)
merged = model.merge_and_unload()   # plain linear layers again
print((merged(x) - before).abs().max())
""",
    extra="adapt",
    notes=(
        "The location gradient is a finite difference between neighbouring cells; at the learning rates of "
        "short runs locations do not move at all, so a run has to report how many moved. The official package "
        "counts amplitudes only: twice as many numbers again are optimised as locations. Its fast transform is wrong "
        "and its cosine table loses digits at large sizes; every transform here is exact. Steps of the optimiser are "
        "counted instead of forward passes, and the counter is saved."
    ),
    claims=(
        Claim(
            id="parameter-efficiency",
            says=(
                "On language and vision tasks LoCA is more parameter-efficient than LoRA-type and frequency-"
                "type methods at comparable cost."
            ),
            source="abstract",
            holds=lambda m: (
                m["LoCA"] >= m["FourierFT"] - 0.3 and m["LoRA"] - m["LoCA"] <= 1 and m["parameter ratio"] >= 6
            ),
        ),
        Claim(
            id="chosen-cells-beat-random",
            says=(
                "Random frequency cells can be worse than low rank in expectation; chosen cells are better (tested on "
                "the paper's model of a change, independent normal entries)."
            ),
            source="abstract",
            unit="relative error",
            holds=lambda m: m["chosen"] < m["low rank"] < m["random"],
        ),
        Claim(
            id="glue",
            says=(
                "On GLUE with RoBERTa-base and 24 thousand parameters it is at or slightly above FourierFT and "
                "LoRA on average."
            ),
            source="tables, numbers not confirmed",
            needs=_ROBERTA,
            confirmed=False,
        ),
        Claim(
            id="rte-rival",
            says=(
                "On RTE at k = 256 an independent project has 79.1 % for FourierFT and lost by moving locations more."
            ),
            source="an independent project that uses the authors' functions",
            paper_value=79.1,
            unit="%",
            needs=_ROBERTA,
            confirmed=False,
        ),
        Claim(
            id="beats-the-head",
            says="LoCA beats training the head alone by at least 6 points.",
            source="premise of the tables",
            unit="points",
            holds=lambda m: m["LoCA"] - m["head only"] >= 6,
        ),
        Claim(
            id="locations-are-found",
            says=(
                "Started one cell off the true places, learned locations recover at least 40 % of them; fixed "
                "ones at most 5 %."
            ),
            source="the method's claim, on a synthetic target",
            unit="share",
            holds=lambda m: (
                round(m["learned cells"], 9) >= 0.4  # a mean of shares of 20 cells: 0.5, 0.5 and 0.2 are 0.4
                and m["fixed cells"] <= 0.05
                and m["learned loss"] <= 0.65
                and m["fixed loss"] >= 0.95
            ),
        ),
        Claim(
            id="real-changes-favour-low-rank",
            says=(
                "What fine-tuning really does to a weight is not that model: at equal numbers low rank is nearer to it "
                "than the best chosen cells."
            ),
            source="our full fine-tuning of MiniLM on TREC",
            unit="relative error",
            holds=lambda m: m["low rank"] < m["chosen"],
            kind="finding",
        ),
        Claim(
            id="learned-places-do-not-gain-on-text",
            says="On short text runs learned locations do not gain over fixed ones, although cells move.",
            source="our runs on TREC with MiniLM",
            unit="points",
            holds=lambda m: m["moved"] > 0 and abs(m["learned"] - m["fixed"]) <= 1,
            kind="finding",
        ),
    ),
)

_TARGETS = ["query", "value"]
_CELLS = {"n_frequency": 500, "scale": 8.0}
#: Method -> (configuration in PEFT or here, its fields, learning rate); FourierFT's rate is the best of three.
_METHODS: dict[str, tuple[str, dict[str, Any], float]] = {
    "head only": ("", {}, 5e-3),
    "LoRA r=4": ("LoraConfig", {"r": 4, "lora_alpha": 8}, 2e-3),
    "FourierFT": ("FourierFTConfig", {"n_frequency": 500, "scaling": 150.0}, 4e-1),
    "LoCA, fixed places": ("LocaConfig", {**_CELLS, "learn_location_steps": 0}, 1e-2),
    "LoCA, learned places": ("LocaConfig", {**_CELLS, "learn_location_steps": 0.2}, 1e-2),
}
_SIDE_BY_SIDE = tuple(_METHODS)[:4]
_LONGER = tuple(_METHODS)[3:]
_RANKS = (1, 2, 4, 8, 16)
_LORA_RANK = 4  # whose numbers the claims on approximation compare
_GRID, _TRUE_CELLS = (32, 48), 20


@PAPER.study
def study(trial: Trial) -> None:
    """Cells of a known change; how near cells and low rank come to changes; questions classified by MiniLM."""
    _recovery(trial)
    size = trial.pick(smoke=Size(32, 16, 8, 2, 1), quick=Size(1500, 500, 20, 2, 2), full=Size(5452, 500, 32, 6, 2))
    longer = size._replace(epochs=trial.pick(smoke=2, quick=4, full=10))
    with trial.one_thread():
        runs = repeat(trial, _SIDE_BY_SIDE, partial(_run, size, trial.device), f"TREC questions {size}")
        pair = repeat(trial, _LONGER, partial(_run, longer, trial.device), f"TREC questions {longer}")
        _approximation(trial, size)
    head, lora, fourier, fixed = _SIDE_BY_SIDE
    means, spreads = runs.summary({"LoCA": fixed, "FourierFT": fourier, "LoRA": lora})
    ratio = runs.runs[lora][0]["parameters"] / runs.runs[fixed][0]["parameters"]
    trial.measure("parameter-efficiency", means | {"parameter ratio": ratio}, spreads)
    trial.measure("beats-the-head", *runs.summary({"LoCA": fixed, "head only": head}))
    means, spreads = pair.summary({"fixed": fixed, "learned": "LoCA, learned places"})
    moved = pair.summary(["LoCA, learned places"], "moved")[0]["LoCA, learned places"]
    trial.measure("learned-places-do-not-gain-on-text", means | {"moved": moved}, spreads)
    trial.table("side-by-side", runs.rows(parameters="parameters"))
    trial.table("learned-places", pair.rows(parameters="parameters", steps="steps", moved="moved"))
    learned = pair.runs["LoCA, learned places"][0]
    trial.note(
        f"{size.training} questions of at most {size.tokens} tokens train query and value of the last {size.layers} of "
        f"MiniLM's six layers and a head, tested on {size.testing}. Places are learned in the first fifth of the "
        f"longer runs, of {learned['steps']} steps: {moved:.0f} of the amplitudes change their cell on average. In "
        f"these steps {learned['parameters']:,} numbers are optimised, three times as many as are reported."
    )


def _recovery(trial: Trial) -> None:
    """A change of known cells, started beside them."""
    steps = trial.pick(smoke=60, quick=600, full=600)
    with trial.one_thread():
        fits = repeat(trial, ("learned", "fixed"), partial(_fit, steps), f"fitting known cells, {steps} steps")
    cells, loss = (fits.summary(("learned", "fixed"), score) for score in ("cells", "loss"))
    means, spreads = (
        {f"{name} cells": share for name, share in cells[i].items()}
        | {f"{name} loss": value for name, value in loss[i].items()}
        for i in (0, 1)
    )
    trial.measure("locations-are-found", means, spreads)


def _fit(steps: int, places: str, seed: int) -> dict[str, float]:
    """0.5 ||dW - T||^2 from places one cell off: the share of true cells found, and the loss relative to the start."""
    import torch

    from fullrank.adapt import loca_delta, locate

    generator = torch.Generator().manual_seed(seed)
    (rows, columns), k = _GRID, _TRUE_CELLS
    last = torch.tensor([[rows - 1], [columns - 1]])
    chosen = torch.randperm(rows * columns, generator=generator)[:k]
    true = torch.stack([chosen // columns, chosen % columns])
    sign = torch.randint(0, 2, (k,), generator=generator) * 2 - 1
    amplitudes = sign * (0.5 + torch.rand(k, generator=generator))
    target = loca_delta(amplitudes, true / last, _GRID)
    ways = torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]])[torch.randint(0, 4, (k,), generator=generator)].mT
    outside = (true + ways < 0) | (true + ways > last)
    start = true + torch.where(outside, -ways, ways)
    a, theta = torch.zeros(k, requires_grad=True), (start / last).requires_grad_()
    optimizer = torch.optim.AdamW([{"params": [a], "lr": 0.05}, {"params": [theta], "lr": 2e-3}], weight_decay=0)
    for step in range(steps):
        moving = places == "learned" and step < steps // 2 and step % 30 >= 10
        optimizer.zero_grad()
        (0.5 * (loca_delta(a, theta, _GRID) - target).square().sum()).backward()
        (a if moving else theta).grad = None  # what rests is left alone by the optimiser, momentum included
        optimizer.step()
    with torch.no_grad():
        left = (loca_delta(a, theta, _GRID) - target).square().sum() / target.square().sum()
        found = {tuple(cell) for cell in locate(theta, _GRID).mT.tolist()}
    return {"cells": sum(tuple(cell) in found for cell in true.mT.tolist()) / k, "loss": float(left)}


def _run(size: Size, device: str, method: str, seed: int) -> dict[str, Any]:
    """One training run: accuracy in percent, and how many amplitudes are in another cell than at the start."""
    import peft

    import fullrank.adapt as adapt
    from fullrank.papers._sentences import sentence_task, train_sentences

    kind, fields, rate = _METHODS[method]
    seeded = {"random_loc_seed": seed} if "n_frequency" in fields else {}
    room = adapt if kind in adapt.__all__ else peft
    config = getattr(room, kind)(target_modules=_TARGETS, **fields, **seeded) if kind else None
    settings = adapt.TrainingSettings(epochs=size.epochs, learning_rate=rate, seed=seed, device=device)
    task = sentence_task("trec-questions", size.training, size.testing, size.tokens, size.layers)
    ours = kind == "LocaConfig"
    outcome = train_sentences(task, config, settings, callbacks=[adapt.LocaCallback()] if ours else ())
    model: Any = outcome.model
    return {
        "accuracy": 100 * outcome.accuracy,
        "parameters": outcome.parameters,
        "steps": size.epochs * -(-len(task.train) // settings.batch_size),
        "moved": sum(layer.moved for layer in model.base_model.loca_report().values()) if ours else None,
    }


def _approximation(trial: Trial, size: Size) -> None:
    """Errors of low rank, of chosen and of random cells, on normal matrices and on changes by full fine-tuning."""
    curves = repeat(
        trial, ("normal entries", "fine-tuning"), partial(_errors, size, trial.device), f"approximating changes, {size}"
    )
    at = f"r={_LORA_RANK}"
    for claim, change in (
        ("chosen-cells-beat-random", "normal entries"), ("real-changes-favour-low-rank", "fine-tuning"),
    ):  # fmt: skip
        shares = {name: curves.summary([change], f"{name} {at}") for name in ("low rank", "chosen", "random")}
        trial.measure(claim, *({name: share[i][change] for name, share in shares.items()} for i in (0, 1)))
    rows = [
        {
            "change": change,
            "numbers as": f"r={r}",
            **{
                name: curves.summary([change], f"{name} r={r}")[0][change]
                for name in ("low rank", "chosen", "chosen, places counted", "random")
            },
        }
        for change in curves.runs
        for r in _RANKS
    ]
    trial.table("relative-errors", rows)
    real = next(row for row in rows if row["change"] == "fine-tuning" and row["numbers as"] == at)
    trial.note(
        f"On changes of query and value by full fine-tuning, rank {_LORA_RANK} leaves a relative error of "
        f"{real['low rank']:.2f}, as many of the best cosine cells {real['chosen']:.2f}, and a third as many, whose "
        f"places count as numbers too, {real['chosen, places counted']:.2f}. The paper's theory takes a change to have "
        "independent normal entries; there the order is the paper's."
    )
    _figure(trial, rows)


def _errors(size: Size, device: str, change: str, seed: int) -> dict[str, float]:
    """Relative errors at the numbers that each rank takes, mean over the matrices."""
    import torch

    from fullrank.linalg import dct2

    found: dict[str, list[float]] = {}
    generator = torch.Generator().manual_seed(seed)
    changes = (
        _fine_tuned(size, device, seed) if change == "fine-tuning" else [torch.randn(384, 384, generator=generator)]
    )
    for dW in changes:
        total = dW.square().sum()
        strongest = torch.linalg.svdvals(dW).square()
        cells = dct2(dW).square().flatten()
        best, shuffled = cells.sort(descending=True).values, cells[torch.randperm(len(cells), generator=generator)]
        for r in _RANKS:
            numbers = r * sum(dW.shape)
            kept = {
                "low rank": strongest[:r],
                "chosen": best[:numbers],
                "chosen, places counted": best[: numbers // 3],
                "random": shuffled[:numbers],
            }
            for name, energy in kept.items():
                found.setdefault(f"{name} r={r}", []).append(float((1 - energy.sum() / total).clamp(min=0).sqrt()))
    return {name: sum(errors) / len(errors) for name, errors in found.items()}


def _fine_tuned(size: Size, device: str, seed: int) -> list[Any]:
    """What full fine-tuning changes of query and value in every layer."""
    from fullrank.adapt import TrainingSettings
    from fullrank.papers._sentences import sentence_task, train_sentences, upper_layers

    task = sentence_task("trec-questions", size.training, size.testing, size.tokens, size.layers)
    settings = TrainingSettings(epochs=size.epochs, head_learning_rate=2e-4, seed=seed, device=device)
    after: Any = train_sentences(task, None, settings, everything=True).model
    before = dict(upper_layers(task.layers, task.classes, seed).named_parameters())
    names = [name for name in before if name.endswith(("query.weight", "value.weight"))]
    return [(after.get_parameter(name).cpu() - before[name]).detach() for name in names]


def _figure(trial: Trial, rows: Sequence[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    colours = {"low rank": "#b45309", "chosen": "#0f766e", "chosen, places counted": "#5eead4", "random": "#57534e"}
    for axes, change in zip(figure.subplots(1, 2, sharey=True), ("normal entries", "fine-tuning"), strict=True):
        for name, colour in colours.items():
            axes.plot(_RANKS, [row[name] for row in rows if row["change"] == change], "o-", c=colour, ms=4, label=name)
        axes.set_xscale("log", base=2)
        axes.set(title=change, xlabel="rank that takes as many numbers", xticks=_RANKS, xticklabels=_RANKS)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("relative error of the change")
    figure.axes[1].legend(frameon=False, fontsize=8)
    trial.figure("low-rank-and-cells", figure)
