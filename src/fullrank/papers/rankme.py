"""RankMe: Assessing the downstream performance of pretrained self-supervised representations by their rank."""

from __future__ import annotations

from functools import partial
from typing import Any

from fullrank.papers import Claim, Paper, Trial

_IMAGENET = "ImageNet pre-training of hundreds of ResNet-50 and ViT runs"

PAPER = Paper(
    slug="rankme",
    title="RankMe: Assessing the downstream performance of pretrained self-supervised representations by their rank",
    authors=4,
    published="2022-10-05",
    arxiv="2210.02885",
    position=35,
    venue="ICML 2023",
    topics=("measurement", "vision"),
    summary=(
        "Self-supervised image encoders give no loss that tells whether they are good. RankMe takes the "
        "effective rank of the embeddings, the exponential of the entropy of normalised singular values, and "
        "shows that it predicts downstream accuracy well enough to choose hyper-parameters without labels. "
        "Hundreds of training runs support it."
    ),
    methods=("fullrank.spectra.rankme", "fullrank.spectra.RankMe", "fullrank.spectra.select_by_rankme"),
    usage="""\
import torch
from fullrank.spectra import RankMe, rankme, select_by_rankme

Z = torch.randn(4000, 256)         # embeddings, one row per image, no augmentation, eval mode
print(rankme(Z))                   # between 1 and 256

metric = RankMe()                  # streaming, merges exactly over processes
for batch in Z.split(512):
    metric.update(batch)
print(metric.report())

runs = {"cov=0": torch.randn(4000, 2) @ torch.randn(2, 256), "cov=1": Z}
print(select_by_rankme(runs, {"cov=0": 0.0, "cov=1": 1.0}).best)
""",
    notes=(
        "There is no official code, and re-implementations differ: the paper adds eps = 1e-7 to every share outside "
        "normalisation, centres nothing and normalises no rows, which are the defaults here. Other libraries use "
        "eps = 1e-5, which inflates the value by 15 % at 2048 dimensions. Measure embeddings (after the projector), "
        "judge representations (before it), and compare only runs of one method."
    ),
    extra="search",
    claims=(
        Claim(
            id="selection-costs-little",
            says=(
                "Choosing hyper-parameters by the highest RankMe, without labels, costs nearly no final performance "
                "against choosing with labels (tested here: at most 1.5 points in either family of runs)."
            ),
            source="abstract",
            paper_value="nearly no reduction",
            unit="points",
            holds=lambda gap: max(gap["VICReg"], gap["SimCLR"]) <= 1.5,
        ),
        Claim(
            id="imagenet-gap",
            says="On ImageNet the chosen runs are less than half a point below the label oracle on average.",
            source="secondary summary",
            paper_value=0.5,
            unit="points",
            confirmed=False,
            needs=_IMAGENET,
        ),
        Claim(
            id="imagenet-chosen-runs",
            says=(
                "The runs chosen by RankMe reach 67 to 68.5 % (VICReg) and 72.2 to 72.4 % (DINO), the oracle's about "
                "68.2 to 68.6 and 72.4; alpha-ReQ is sometimes far lower (59 to 64, once 32)."
            ),
            source="recalled",
            paper_value={"RankMe, VICReg": 67.0, "oracle, VICReg": 68.2, "RankMe, DINO": 72.2, "oracle, DINO": 72.4},
            unit="%",
            confirmed=False,
            needs=_IMAGENET,
        ),
        Claim(
            id="sample-size",
            says=(
                "25,600 rows give the same value as all of ImageNet (tested here: a quarter of the rows changes the "
                "value by at most 2 %)."
            ),
            source="experiments section",
            paper_value="25,600 rows",
            unit="relative difference",
            holds=lambda difference: difference <= 0.02,
        ),
        Claim(
            id="rank-follows-accuracy",
            says="Among runs of one method accuracy of a linear probe grows with the rank of the embeddings.",
            source="abstract and Figure 1",
            unit="Spearman rho",
            holds=lambda rho: rho["VICReg"] >= 0.6,
        ),
        Claim(
            id="collapse-is-seen",
            says="A collapsed run (variance weight 0) has the lowest RankMe of its family.",
            source="motivation of the method",
            unit="share of seeds",
            holds=lambda share: share == 1,
        ),
        Claim(
            id="better-than-the-loss",
            says="RankMe chooses better runs than the final value of the loss does.",
            source="motivation of the method",
            unit="%",
            holds=lambda accuracy: accuracy["RankMe"] > accuracy["loss"],
        ),
        Claim(
            id="not-below-alpha-req",
            says="RankMe's choice is not worse than that of alpha-ReQ, which is sometimes far lower.",
            source="recalled comparison",
            unit="%",
            confirmed=False,
            holds=lambda accuracy: accuracy["RankMe"] >= accuracy["alpha-ReQ"],
        ),
        Claim(
            id="temperature-tells-nothing",
            says=(
                "Over SimCLR's temperature all runs are within 3 points, so that there is little to choose and rank "
                "need not follow accuracy."
            ),
            source="our runs on digits",
            unit="points",
            kind="finding",
            holds=lambda spread: spread <= 3,
        ),
        Claim(
            id="eps-inflates",
            says="On a flat spectrum of 2048 values the eps of other libraries (1e-5) inflates RankMe by over 10 %.",
            source="exact computation",
            unit="relative",
            kind="finding",
            holds=lambda inflation: inflation["1e-5"] > 0.1 > 0.01 > inflation["1e-7"],
        ),
        Claim(
            id="text-embeddings",
            says=(
                "Keeping k principal components of real sentence embeddings raises RankMe with every k, and their "
                "agreement with human similarity with it."
            ),
            source="our run on all-MiniLM-L6-v2 and STS-B",
            unit="Spearman rho with k",
            kind="finding",
            holds=lambda rho: rho["RankMe"] == 1 and rho["agreement"] >= 0.9,
        ),
    ),
)

_TEMPERATURES = (0.03, 0.07, 0.15, 0.3, 0.7, 2.0)
# (invariance, variance, covariance) weights: one is swept, the others stay at (25, 25, 1).
_WEIGHTS = (
    *((25.0, 25.0, cov) for cov in (0.0, 0.02, 0.2, 1.0, 4.0, 16.0)),
    *((inv, 25.0, 1.0) for inv in (1.0, 5.0, 25.0, 100.0)),
    *((25.0, var, 1.0) for var in (0.0, 1.0, 5.0)),
)
_COLLAPSED = "inv=25 var=0 cov=1"


@PAPER.study
def study(trial: Trial) -> None:
    """Sweeps of VICReg and SimCLR on digits, judged by a linear probe; then real sentence embeddings."""
    import numpy as np

    sweeps = {
        "VICReg": [(f"inv={i:g} var={v:g} cov={c:g}", {"inv": i, "var": v, "cov": c}) for i, v, c in _WEIGHTS],
        "SimCLR": [(f"tau={tau:g}", {"tau": tau}) for tau in _TEMPERATURES],
    }
    steps = trial.pick(smoke=8, quick=400, full=2000)
    seeds = trial.seeds
    plan = [(family, name, weights, seed) for seed in seeds for family in sweeps for name, weights in sweeps[family]]
    runs: dict[tuple[str, int], dict[str, dict[str, float]]] = {(f, s): {} for f in sweeps for s in seeds}
    with trial.one_thread():
        for family, name, weights, seed in trial.track(plan, "training"):
            key = f"{family} {name} seed={seed} steps={steps}"
            runs[family, seed][name] = trial.step(key, partial(_train, family, weights, seed, steps, trial.device))
    chosen = {rule: [] for rule in ("RankMe", "loss", "alpha-ReQ", "oracle")}
    gaps: dict[str, list[float]] = {family: [] for family in sweeps}
    rhos: dict[str, list[float]] = {family: [] for family in sweeps}
    for (family, _), sweep in runs.items():
        picks = {
            "RankMe": max(sweep, key=lambda run: sweep[run]["rankme"]),
            "loss": min(sweep, key=lambda run: sweep[run]["loss"]),
            "alpha-ReQ": min(sweep, key=lambda run: abs(sweep[run]["alpha_req"] - 1)),
            "oracle": max(sweep, key=lambda run: sweep[run]["accuracy"]),
        }
        for rule, run in picks.items():
            chosen[rule].append(sweep[run]["accuracy"])
        gaps[family].append(sweep[picks["oracle"]]["accuracy"] - sweep[picks["RankMe"]]["accuracy"])
        pairs = np.array([(run["rankme"], run["accuracy"]) for run in sweep.values()])
        rhos[family].append(_spearman(pairs[:, 0], pairs[:, 1]))
    _measure_all(trial, runs, chosen, gaps, rhos)
    trial.measure("eps-inflates", {"1e-7": _inflation(1e-7), "1e-5": _inflation(1e-5)})
    _text(trial)
    _figure(trial, runs)


def _measure_all(trial: Trial, runs: Any, chosen: Any, gaps: Any, rhos: Any) -> None:
    import numpy as np

    def mean(values: dict[str, list[float]]) -> dict[str, float]:
        return {name: float(np.mean(numbers)) for name, numbers in values.items()}

    def deviation(values: dict[str, list[float]]) -> dict[str, float]:
        return {name: float(np.std(numbers)) for name, numbers in values.items()}

    sweeps = list(runs.items())
    trial.measure("selection-costs-little", mean(gaps), deviation(gaps))
    trial.measure("rank-follows-accuracy", mean(rhos), deviation(rhos))
    quarter = [run["quarter"] for _, sweep in sweeps for name, run in sweep.items() if name != _COLLAPSED]
    trial.measure("sample-size", float(np.max(quarter)))
    lowest = [
        min(sweep, key=lambda run: sweep[run]["rankme"]) == _COLLAPSED
        for (family, _), sweep in sweeps
        if family == "VICReg"
    ]
    trial.measure("collapse-is-seen", float(np.mean(lowest)))
    accuracies = mean(chosen)
    trial.measure("better-than-the-loss", {rule: accuracies[rule] for rule in ("RankMe", "loss")})
    trial.measure("not-below-alpha-req", {rule: accuracies[rule] for rule in ("RankMe", "alpha-ReQ")})
    spreads = [
        max(run["accuracy"] for run in sweep.values()) - min(run["accuracy"] for run in sweep.values())
        for (family, _), sweep in sweeps
        if family == "SimCLR"
    ]
    trial.measure("temperature-tells-nothing", float(np.mean(spreads)), float(np.std(spreads)))
    trial.table("chosen-runs", [{"rule": rule, "accuracy %": accuracies[rule]} for rule in chosen])
    first = min(trial.seeds)
    rows = [
        {"family": family, "run": name, **{key: run[key] for key in ("rankme", "alpha_req", "loss", "accuracy")}}
        for (family, seed), sweep in sweeps
        if seed == first
        for name, run in sweep.items()
    ]
    trial.table("runs-of-the-first-seed", rows)


def _train(family: str, weights: dict[str, float], seed: int, steps: int, device: str) -> dict[str, float]:
    """One self-supervised run on digits: its RankMe, alpha-ReQ, final loss, and the accuracy of a linear probe."""
    import torch
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from torch import nn

    from fullrank.spectra import Spectrum, power_law_exponent

    pixels, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(pixels[order.numpy()], dtype=torch.float32).div(16).view(-1, 1, 8, 8)
    labels = digits[order.numpy()]
    train, test = images[:1200].to(device), images[1200:].to(device)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(512, 64),
        ).to(device)  # fmt: skip
        projector = nn.Sequential(nn.ReLU(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).to(device)
    optimizer = torch.optim.Adam([*encoder.parameters(), *projector.parameters()], lr=1e-3)
    loss = torch.zeros(())
    for _ in range(steps):
        batch = train[torch.randint(len(train), (128,), generator=generator).to(device)]
        first, second = (projector(encoder(_augmented(batch, generator))) for _ in range(2))
        loss = _simclr(first, second, **weights) if family == "SimCLR" else _vicreg(first, second, **weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        features, unseen = encoder(train), encoder(test)
        embeddings = projector(features)
    probe = LogisticRegression(max_iter=2000).fit(features.cpu().numpy(), labels[:1200])
    value = float(Spectrum.of(embeddings.double()).rankme())
    return {
        "rankme": value,
        "quarter": abs(float(Spectrum.of(embeddings[:300].double()).rankme()) / value - 1),
        "alpha_req": float(power_law_exponent(Spectrum.of(embeddings.double(), center=True).values)),
        "loss": float(loss.detach()),
        "accuracy": 100 * float(probe.score(unseen.cpu().numpy(), labels[1200:])),
    }


def _augmented(images: Any, generator: Any) -> Any:
    """Rotation by 0.35 rad, scale by 15 %, shift by a quarter of the grid, gain and noise, all at random."""
    import torch
    from torch.nn import functional

    count = len(images)

    def uniform(low: float, high: float) -> Any:
        return low + (high - low) * torch.rand(count, generator=generator)

    angle, scale = uniform(-0.35, 0.35), uniform(0.85, 1.15)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2) * scale.view(
        -1, 1, 1
    )
    shift = torch.stack([uniform(-0.25, 0.25), uniform(-0.25, 0.25)], -1).unsqueeze(-1)
    grid = functional.affine_grid(torch.cat([rotation, shift], -1), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid.to(images.device), align_corners=False)
    gain = uniform(0.7, 1.3).view(-1, 1, 1, 1).to(images.device)
    return moved * gain + 0.05 * torch.randn(images.shape, generator=generator).to(images.device)


def _simclr(first: Any, second: Any, tau: float) -> Any:
    """InfoNCE over cosines (NT-Xent)."""
    import torch
    from torch.nn import functional

    both = functional.normalize(torch.cat([first, second]), dim=-1)
    logits = (both @ both.mT / tau).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(both), device=both.device).roll(len(first))
    return functional.cross_entropy(logits, partner)


def _vicreg(first: Any, second: Any, inv: float, var: float, cov: float) -> Any:
    """Invariance, variance and covariance terms of VICReg."""
    from torch.nn import functional

    loss = inv * functional.mse_loss(first, second)
    for Z in (first, second):
        centred = Z - Z.mean(0)
        loss = loss + var * functional.relu(1 - (centred.var(0) + 1e-4).sqrt()).mean() / 2
        covariance = centred.mT @ centred / (len(Z) - 1)
        off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
        loss = loss + cov * off_diagonal / Z.shape[1]
    return loss


def _spearman(first: Any, second: Any) -> float:
    import numpy as np
    from scipy.stats import spearmanr

    return float(np.asarray(spearmanr(first, second))[0])


def _inflation(eps: float) -> float:
    import torch

    from fullrank.spectra import effective_rank

    flat = torch.ones(2048, dtype=torch.float64)
    return float(effective_rank(flat, eps=eps)) / 2048 - 1


def _text(trial: Trial) -> None:
    """Principal components of sentence embeddings: RankMe, and agreement with human similarity."""
    import numpy as np

    pairs = trial.pick(smoke=120, quick=1379, full=1379)
    rows = trial.step(f"text pairs={pairs}", lambda: _text_rows(pairs))
    sizes = [row["components"] for row in rows]
    rho = {key: _spearman(sizes, [row[key] for row in rows]) for key in ("RankMe", "agreement")}
    trial.measure("text-embeddings", {key: round(value, 6) for key, value in rho.items()})
    trial.table("sentence-embeddings", rows)
    best = int(np.argmax([row["agreement"] for row in rows]))
    trial.note(
        f"Sentence embeddings agree best with human similarity at {sizes[best]} of 384 principal components "
        f"(Spearman {rows[best]['agreement']:.3f})."
    )


def _text_rows(pairs: int) -> list[dict[str, int | float]]:
    import numpy as np
    import torch

    from fullrank import data
    from fullrank.search import load_encoder
    from fullrank.spectra import Spectrum

    records = data.load("stsb", "test")[:pairs]
    sentences = [record[side] for side in ("first", "second") for record in records]
    Z = np.asarray(load_encoder().encode(sentences, show_progress_bar=False), dtype=np.float64)
    centred = Z - Z.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    scores = [record["score"] for record in records]
    rows = []
    for k in (2, 4, 8, 16, 32, 64, 128, 256, 384):
        kept = centred @ axes[:k].T
        unit = kept / np.linalg.norm(kept, axis=1, keepdims=True)
        cosines = (unit[: len(records)] * unit[len(records) :]).sum(1)
        value = float(Spectrum.of(torch.from_numpy(kept)).rankme())
        rows.append({"components": k, "RankMe": value, "agreement": _spearman(cosines, scores)})
    return rows


def _figure(trial: Trial, runs: dict[tuple[str, int], dict[str, dict[str, float]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    for axes, family, colour in zip(figure.subplots(1, 2), ("VICReg", "SimCLR"), ("#0f766e", "#b45309"), strict=True):
        for (name, _), sweep in runs.items():
            if name == family:
                points = sweep.values()
                axes.scatter([p["rankme"] for p in points], [p["accuracy"] for p in points], s=18, c=colour, alpha=0.7)
        axes.set(title=family, xlabel="RankMe of the embeddings", ylabel="probe accuracy, %")
        axes.spines[["top", "right"]].set_visible(False)
    trial.figure("rank-and-accuracy", figure)
