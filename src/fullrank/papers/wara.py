"""WaRA: Wavelet Low Rank Adaptation (WaRA)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any, cast

from fullrank.papers import Claim, Paper, Trial
from fullrank.papers._repeats import mean_and_spread, repeat

_NUMBERS = "the paper's image generation and segmentation set-ups, whose numbers are not printed in the abstract"
_SHIFTS = ("noise", "checkerboard", "blur")

PAPER = Paper(
    slug="wara",
    title="WaRA: Wavelet Low Rank Adaptation",
    authors=5,
    published="2025-06-25",
    arxiv="2506.24092",
    position=4,
    repository="https://github.com/moeinheidari7829/WaRA",
    topics=(
        "adapters",
        "vision",
    ),
    summary=(
        "WaRA writes the weight update of a frozen layer in a wavelet domain, factorises each band at low rank "
        "and transforms back. Coarse and fine structure of the update get separate small budgets. It is tested "
        "on image generation, classification and segmentation, and briefly on language."
    ),
    methods=(
        "fullrank.adapt.WaraConfig",
        "fullrank.adapt.WaraModel",
        "fullrank.adapt.is_degenerate",
        "fullrank.adapt.analysis_matrix",
        "fullrank.adapt.expand_to_weight",
    ),
    usage="""\
import torch
from peft import get_peft_model
from transformers import ViTConfig, ViTForImageClassification
from fullrank.adapt import WaraConfig, is_degenerate

vit = ViTForImageClassification(
    ViTConfig(image_size=32, patch_size=4, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
              intermediate_size=128)
)
gated = WaraConfig(r=2, mode="grid")  # wavelets over the grid of patches, a gate for each band
model = get_peft_model(vit, gated)
model.print_trainable_parameters()
print(model(pixel_values=torch.randn(2, 3, 32, 32)).logits.shape)

layer = torch.nn.Sequential(torch.nn.Linear(64, 96))
weights = get_peft_model(layer, WaraConfig(r=2, target_modules=["0"]))  # a pair for each band of the update
print(is_degenerate(weights.peft_config["default"]))                    # None: it is not LoRA in disguise
merged = weights.merge_and_unload()
""",
    extra="adapt",
    notes=(
        "The authors' code could not be obtained and neither abstract prints a number; the forms follow the abstracts "
        "and one figure caption. Without gates the grid form is exactly LoRA at equal size, and the shared form with a "
        "one-level Haar wavelet is a bare Kronecker product, so degenerate settings give a warning. The default is the "
        "form with one pair of factors per sub-band, which is never degenerate and can be merged; the gated grid form "
        "is the one for vision transformers. A wavelet helps where an axis has an order (pixels, patches), not on "
        "hidden axes."
    ),
    claims=(
        Claim(
            id="superior-on-vision",
            says=(
                "WaRA is better than LoRA and its kin in image generation, classification and segmentation, "
                "with better images and less complexity."
            ),
            source="abstract of version 1",
            needs=_NUMBERS,
        ),
        Claim(
            id="effective-on-language",
            says=(
                "WaRA also works on language tasks: here at least 3 points above a trained head alone and at most 3 "
                "points below LoRA of equal size."
            ),
            source="abstract of version 1",
            unit="%",
            holds=lambda m: m["WaRA"] - m["head only"] >= 3 and m["LoRA"] - m["WaRA"] <= 3,
        ),
        Claim(
            id="medical-classification",
            says="WaRA is consistently better with fewer parameters on four modalities of medical images.",
            source="abstract of version 2",
            needs="the paper's four medical image sets and backbones",
        ),
        Claim(
            id="half-the-parameters",
            says=(
                "At equal rank one level of the transform needs r (d1 + d2) / 2 parameters where LoRA needs r "
                "(d1 + d2)."
            ),
            source="shapes in the overview figure of version 1",
            unit="ratio",
            holds=lambda ratio: ratio == 0.5,
        ),
        Claim(
            id="local-structure",
            says=(
                "Updates have local structure that wavelet blocks use: with two levels of Haar they err at least 10 % "
                "less on the pixel axis than on the same axis shuffled, approximating the update for inverted "
                "contrast, and never more for blur."
            ),
            source="abstract of version 1",
            unit="relative error",
            holds=lambda m: (
                m["inversion, ordered"] <= 0.9 * m["inversion, shuffled"] and m["blur, ordered"] <= m["blur, shuffled"]
            ),
        ),
        Claim(
            id="beats-lora-at-equal-size",
            says=(
                "In a vision transformer under three image shifts, gated WaRA beats LoRA of equal size by at least one "
                "point on average and is nowhere worse than noise."
            ),
            source="abstract of version 2, at small scale",
            unit="points above LoRA",
            holds=lambda m: sum(m[shift] for shift in _SHIFTS) / 3 >= 1 and min(m[shift] for shift in _SHIFTS) >= -1.5,
        ),
        Claim(
            id="ungated-is-lora",
            says="The ungated grid form computes exactly what LoRA of the same size computes.",
            source="algebra, and our runs on digits",
            unit="largest difference of outputs",
            holds=lambda difference: difference <= 1e-5,
            kind="finding",
        ),
        Claim(
            id="unordered-axes-do-not-gain",
            says="On hidden axes without an order wavelet blocks approximate an update no better than LoRA does.",
            source="our runs on photographs",
            unit="relative error",
            holds=lambda m: m["WaRA"] >= m["LoRA"],
            kind="finding",
        ),
        Claim(
            id="two-levels-beat-lora-when-ordered",
            says=(
                "With a small budget, two levels of the Haar wavelet approximate the update of pixel layers for "
                "inverted contrast better than the best low-rank matrix of equal size."
            ),
            source="our runs on photographs",
            unit="relative error",
            holds=lambda m: m["WaRA"] < m["LoRA"],
            kind="finding",
        ),
        Claim(
            id="shared-haar-is-kronecker",
            says="With one level of Haar the shared form is the product of its factors, Kronecker the 2 x 2 identity.",
            source="algebra, checked numerically",
            unit="largest difference of weights",
            holds=lambda difference: difference <= 1e-6,
            kind="finding",
        ),
        Claim(
            id="shared-form-doubles-rank",
            says="The shared form's update has rank 2 r, four times the rank of LoRA at equal parameters.",
            source="algebra, checked numerically",
            unit="matrix rank",
            holds=lambda m: m["WaRA, equal r"] == 2 * m["LoRA"] and m["WaRA, equal parameters"] == 4 * m["LoRA"],
            kind="finding",
        ),
        Claim(
            id="longer-filters-no-worse",
            says=(
                "In the shared form a longer filter (db4) classifies sentences at least as well as Haar, whose update "
                "holds no wavelet any more."
            ),
            source="our runs on TREC with MiniLM",
            unit="%",
            holds=lambda m: m["db4"] >= m["Haar"],
            kind="finding",
        ),
    ),
)


@PAPER.study
def study(trial: Trial) -> None:
    """Algebra; updates of a denoiser of photographs; a vision transformer under shifts of its images; questions."""
    _algebra(trial)
    _locality(trial)
    _images(trial)
    _language(trial)
    trial.note(
        "Images are small here: digits of 8 x 8 pixels, and photographs in patches of 16 x 16. The wavelet, its level "
        "and the scale that the authors used are not known."
    )


# --- algebra ----------------------------------------------------------------------------------------------------------


def _algebra(trial: Trial) -> None:
    import torch
    from peft import LoraConfig

    from fullrank.adapt import trainable_parameters

    base = torch.nn.Sequential(torch.nn.Linear(768, 3072))
    sizes = [
        trainable_parameters(base, config)
        for config in (_wara(r=8, mode="shared", target_modules=["0"]), LoraConfig(r=8, target_modules=["0"]))
    ]
    trial.measure("half-the-parameters", sizes[0] / sizes[1])
    layer = _random(_wara(r=4, mode="shared"))
    delta = layer.deltas["default"]
    with torch.no_grad():
        product = delta.B.view(-1, 4) @ delta.A.view(4, -1)
        difference = (torch.kron(product, torch.eye(2)) - layer.get_delta_weight("default")).abs().max()
    trial.measure("shared-haar-is-kronecker", float(difference))
    layers = {
        "LoRA": _random(LoraConfig(r=4)),
        "WaRA, equal r": _random(_wara(r=4, mode="shared", wavelet="db4")),
        "WaRA, equal parameters": _random(_wara(r=8, mode="shared", wavelet="db4")),
    }
    ranks = {
        name: int(torch.linalg.matrix_rank(layer.get_delta_weight("default"), rtol=1e-5))
        for name, layer in layers.items()
    }
    trial.measure("shared-form-doubles-rank", ranks)


def _wara(**fields: Any) -> Any:
    """A configuration; a degenerate one is studied on purpose."""
    import warnings

    from fullrank.adapt import WaraConfig

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="this WaRA is")
        return WaraConfig(**fields)


def _random(config: Any) -> Any:
    """A layer of 96 x 64 whose adapter starts at random."""
    import torch
    from peft import get_peft_model

    config.target_modules = {"0"}
    config.init_lora_weights = config.init_weights = False
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return get_peft_model(torch.nn.Sequential(torch.nn.Linear(64, 96)), config).base_model.model[0]


# --- updates of a denoiser --------------------------------------------------------------------------------------------

_SIDE, _HIDDEN = 16, 512
_INVERSION, _BLURS = "inversion", ("horizontal blur", "vertical blur")
_NOISE = {None: 0.1, _INVERSION: 0.1} | dict.fromkeys(_BLURS, 0.02)
_ORDERED, _SHUFFLED = "Haar, 2 levels", "Haar, 2 levels, shuffled"


def _locality(trial: Trial) -> None:
    """How well low-rank blocks approximate the update of a layer that reads or writes pixels."""
    import numpy as np

    steps, tuning = trial.pick(smoke=(5, 5), quick=(2500, 600), full=(2500, 600))
    with trial.one_thread():
        plan = {
            f"denoiser seed={seed} steps={steps},{tuning}": partial(_updates, seed, steps, tuning, trial.device)
            for seed in trial.seeds
        }
        found = dict(zip(trial.seeds, trial.steps(plan, "updates of a denoiser"), strict=True))

    def errors(shift: str, way: str) -> list[float]:
        """The mean over the layers, for every seed."""
        return [float(np.mean([row[way] for row in rows if row["shift"] == shift])) for rows in found.values()]

    # Of both blurs, the one where order helps less.
    blur = max(_BLURS, key=lambda shift: np.mean(errors(shift, _ORDERED)) / np.mean(errors(shift, _SHUFFLED)))
    local = {
        f"{name}, {order}": errors(shift, way)
        for name, shift in (("inversion", _INVERSION), ("blur", blur))
        for order, way in (("ordered", _ORDERED), ("shuffled", _SHUFFLED))
    }
    trial.measure("local-structure", *mean_and_spread(local))
    ways = {"WaRA": "Haar, hidden axis", "LoRA": "LoRA"}
    trial.measure(
        "unordered-axes-do-not-gain", *mean_and_spread({name: errors(_INVERSION, way) for name, way in ways.items()})
    )
    ways = {"WaRA": _ORDERED, "LoRA": "LoRA"}
    trial.measure(
        "two-levels-beat-lora-when-ordered",
        *mean_and_spread({name: errors(_INVERSION, way) for name, way in ways.items()}),
    )
    layers = [(row["shift"], row["layer"]) for row in found[trial.seeds[0]]]
    ways = [name for name in found[trial.seeds[0]][0] if name not in ("shift", "layer")]
    rows = [
        {
            "way": way,
            **{
                f"{shift}, {layer}": float(np.mean([updates[index][way] for updates in found.values()]))
                for index, (shift, layer) in enumerate(layers)
            },
        }
        for way in ways
    ]
    trial.table("relative-error-of-updates", rows)
    one = [errors(_INVERSION, way) for way in ("Haar", "Haar, shuffled")]
    two = [errors(_INVERSION, way) for way in ("Haar, rows and columns", "Haar, rows and columns, shuffled")]
    trial.note(
        f"For inverted contrast one level of Haar errs {_less(*one):.0f} % less on ordered pixels than on shuffled "
        f"ones; along rows and columns of the patch, which a linear layer does not know, {_less(*two):.0f} % less."
    )
    _figure_of_updates(trial, rows)


def _less(ordered: Sequence[float], shuffled: Sequence[float]) -> float:
    return 100 * (1 - sum(ordered) / sum(shuffled))


def _updates(seed: int, steps: int, tuning: int, device: str) -> list[dict[str, Any]]:
    """The denoiser 256-512-256 is trained on photographs, then in full on every shift."""
    import torch
    from torch import nn

    patches = _patches(seed).to(device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first, last = nn.Linear(_SIDE**2, _HIDDEN).to(device), nn.Linear(_HIDDEN, _SIDE**2).to(device)

    def fit(shift: str | None, steps: int, rate: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.Adam([*first.parameters(), *last.parameters()], rate)
        for _ in range(steps):
            clean = patches[torch.randint(len(patches), (64,), generator=generator).to(device)]
            seen = _photographed(clean, shift, generator).flatten(1)
            restored = seen + last(torch.relu(first(seen)))
            optimizer.zero_grad()
            (restored - clean.flatten(1)).square().mean().backward()
            optimizer.step()

    fit(None, steps, 1e-3)
    start = [{name: value.clone() for name, value in layer.state_dict().items()} for layer in (first, last)]
    rows = []
    for shift in (_INVERSION, *_BLURS):
        first.load_state_dict(start[0])
        last.load_state_dict(start[1])
        fit(shift, tuning, 5e-4)
        changes = {
            "pixel input": first.weight.detach() - start[0]["weight"],
            "pixel output": (last.weight.detach() - start[1]["weight"]).mT,
        }
        rows += [{"shift": shift, "layer": layer, **_errors(dW)} for layer, dW in changes.items()]
    return rows


@cache
def _patches(seed: int) -> Any:
    """20,000 grey patches of the left halves of two photographs."""
    import torch
    from sklearn.datasets import load_sample_images

    generator = torch.Generator().manual_seed(seed)
    found = []
    for photograph in load_sample_images().images:
        grey = torch.tensor(photograph, dtype=torch.float32).mean(-1) / 255
        windows = grey[:, : grey.shape[1] // 2].unfold(0, _SIDE, 1).unfold(1, _SIDE, 1)
        rows, columns = (torch.randint(size, (10_000,), generator=generator) for size in windows.shape[:2])
        found.append(windows[rows, columns])
    return torch.cat(found)


def _photographed(clean: Any, shift: str | None, generator: Any) -> Any:
    """What the denoiser sees of a patch: inverted or blurred over five pixels, and noisy."""
    import torch
    from torch.nn import functional

    if shift == _INVERSION:
        clean = 1 - clean
    elif shift is not None:
        height, width = (1, 5) if shift == "horizontal blur" else (5, 1)
        margins = (width // 2, width // 2, height // 2, height // 2)
        clean = functional.avg_pool2d(functional.pad(clean[:, None], margins, "replicate"), (height, width), 1)[:, 0]
    return clean + _NOISE[shift] * torch.randn(clean.shape, generator=generator).to(clean.device)


def _errors(dW: Any) -> dict[str, float]:
    """Relative errors of an update, hidden x pixels, with as many parameters as LoRA of rank 4 has."""
    import torch

    from fullrank.adapt import dwt2_grid
    from fullrank.linalg import band_sizes, dwt

    def blocks(dW: Any, wavelet: str = "haar", levels: int = 1) -> Sequence[Any]:
        return dwt(dW, wavelet, levels).split(band_sizes(dW.shape[1], levels), 1)

    def images(dW: Any) -> Sequence[Any]:
        return [band.flatten(1) for band in dwt2_grid(dW.unflatten(1, (_SIDE, _SIDE)))]

    shuffled = dW[:, torch.randperm(dW.shape[1], generator=torch.Generator().manual_seed(0)).to(dW.device)]
    ways = {
        "LoRA": [dW],
        "Haar": blocks(dW),
        "Haar, shuffled": blocks(shuffled),
        _ORDERED: blocks(dW, levels=2),
        _SHUFFLED: blocks(shuffled, levels=2),
        "db2": blocks(dW, "db2"),
        "Haar, hidden axis": blocks(dW.mT),
        "Haar, rows and columns": images(dW),
        "Haar, rows and columns, shuffled": images(shuffled),
    }
    return {name: _error(parts, 4 * sum(dW.shape)) for name, parts in ways.items()}


def _error(blocks: Sequence[Any], budget: int) -> float:
    """Singular directions of all blocks, chosen by energy per parameter while the budget lasts."""
    import torch

    energies = [(float(s) ** 2, sum(block.shape)) for block in blocks for s in torch.linalg.svdvals(block)]
    lost = 0.0
    for energy, parameters in sorted(energies, key=lambda found: found[0] / found[1], reverse=True):
        if parameters <= budget:
            budget -= parameters
        else:
            lost += energy
    return (lost / sum(energy for energy, _ in energies)) ** 0.5


# --- a vision transformer under shifts --------------------------------------------------------------------------------

_LAYERS = ["qkv", "projection", "up", "down"]
#: Way -> fields of the adapter: 768 trainable parameters, 800 with gates.
_WAYS: dict[str, dict[str, Any]] = {
    "LoRA": {"r": 1, "lora_alpha": 1},
    "gated WaRA": {"r": 1, "mode": "grid", "grid_size": (8, 8), "num_prefix_tokens": 0},
    "gated WaRA with ReLU": {"r": 1, "mode": "grid", "grid_size": (8, 8), "num_prefix_tokens": 0, "activation": "relu"},
    "LoRA of rank 2": {"r": 2, "lora_alpha": 2},
    "full fine-tuning": {},
}


def _images(trial: Trial) -> None:
    """A transformer over single pixels of digits, trained on clean ones, adapted to each shift with others."""
    import numpy as np

    base_steps, steps, draws = trial.pick(smoke=(4, 3, 1), quick=(500, 200, 2), full=(600, 400, 2))
    ways = trial.pick(smoke=tuple(_WAYS)[:2], quick=tuple(_WAYS)[:2], full=tuple(_WAYS))
    starts = [(seed, draw) for seed in trial.seeds for draw in range(draws)]
    plan = [(shift, seed, draw) for seed, draw in starts for shift in _SHIFTS]
    with trial.one_thread():
        training = {
            f"transformer seed={seed} steps={base_steps}": partial(_clean, seed, base_steps, trial.device)
            for seed in trial.seeds
        }
        bases = dict(zip(trial.seeds, trial.all_tensors(training, "transformers of clean digits"), strict=True))
        all_runs = trial.steps(
            {
                f"digits {shift} seed={seed} draw={draw} steps={base_steps},{steps} {ways}": partial(
                    _adapted, bases[seed], shift, 100 * seed + draw, steps, ways, trial.device
                )
                for shift, seed, draw in plan
            },
            "digits under shifts",
        )
    found: dict[str, list[dict[str, Any]]] = {shift: [] for shift in _SHIFTS}
    for (shift, _, _), run in zip(plan, all_runs, strict=True):
        found[shift].append(run)
    gains = {shift: [run["gated WaRA"] - run["LoRA"] for run in runs] for shift, runs in found.items()}
    trial.measure("beats-lora-at-equal-size", *mean_and_spread(gains))
    trial.measure("ungated-is-lora", max(run["difference"] for runs in found.values() for run in runs))
    rows = []
    for way in ("before", *ways):
        row: dict[str, Any] = {"way": way}
        for shift, runs in found.items():
            values = [run[way] for run in runs]
            row |= {f"{shift} %": float(np.mean(values)), f"{shift} spread": float(np.std(values))}
        rows.append(row)
    trial.table("digits-under-shifts", rows)


def _transformer() -> Any:
    """Two blocks of width 32 over 64 tokens, one for each pixel; the mean of the tokens is classified."""
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(self.before(x)).chunk(3, -1))
            x = x + self.projection(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            return x + self.down(functional.gelu(self.up(self.between(x))))

    class Transformer(nn.Module):
        def __init__(self, width: int = 32) -> None:
            super().__init__()
            self.pixel, self.position = nn.Linear(1, width), nn.Parameter(0.02 * torch.randn(64, width))
            self.blocks = nn.Sequential(Block(width), Block(width))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.pixel(images.flatten(1).unsqueeze(-1)) + self.position
            return self.head(self.norm(self.blocks(tokens)).mean(1))

    return Transformer()


@cache
def _digits() -> tuple[Any, Any]:
    """Images with values from 0 to 1, and labels: 900 to train on, 400 to adapt with, the rest for tests."""
    import torch
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(pixels, dtype=torch.float32)[order].div(16).view(-1, 8, 8), torch.tensor(labels)[order]


_TRAIN, _ADAPT, _TEST = slice(900), slice(900, 1300), slice(1300, None)


def _shifted(images: Any, shift: str | None, generator: Any) -> Any:
    import torch
    from torch.nn import functional

    normal = partial(torch.randn, generator=generator)
    if shift == "noise":
        return images + 0.5 * normal(images.shape)
    if shift == "checkerboard":
        place = torch.arange(8)
        board = 1.0 - 2 * ((place[:, None] + place) % 2)
        return images + 0.7 * normal((len(images), 1, 1)) * board
    if shift == "blur":
        blurred = functional.avg_pool2d(functional.pad(images[:, None], (1, 1, 1, 1), "replicate"), 3, 1)[:, 0]
        return blurred + 0.1 * normal(images.shape)
    return images


def _fit_digits(model: Any, part: slice, shift: str | None, seed: int, steps: int, rate: float, device: str) -> None:
    import torch
    from torch.nn import functional

    images, labels = (whole[part] for whole in _digits())
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], rate)
    for _ in range(steps):
        batch = torch.randint(len(images), (32,), generator=generator)
        logits = model(_shifted(images[batch], shift, generator).to(device))
        optimizer.zero_grad()
        functional.cross_entropy(logits, labels[batch].to(device)).backward()
        optimizer.step()


def _clean(seed: int, steps: int, device: str) -> dict[str, Any]:
    """Trained on clean digits."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _transformer().to(device)
    _fit_digits(model, _TRAIN, None, seed, steps, 3e-3, device)
    return model.state_dict()


def _adapted(
    base: dict[str, Any], shift: str, seed: int, steps: int, ways: Sequence[str], device: str
) -> dict[str, float]:
    """Accuracy on shifted digits before and after adapting, the head frozen, and how far ungated WaRA is from LoRA."""
    import torch
    from peft import LoraConfig, get_peft_model

    def start() -> Any:
        model = _transformer().to(device)
        model.load_state_dict(base)
        return model

    scores = {"before": _accuracy(start(), shift, device)}
    for way in ways:
        model, fields = start(), _WAYS[way]
        if fields:
            config = LoraConfig(target_modules=_LAYERS, **fields) if "lora_alpha" in fields else _wara(
                target_modules=_LAYERS, **fields
            )  # fmt: skip
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                model = get_peft_model(model, config)
        else:
            model.head.requires_grad_(False)
        _fit_digits(model, _ADAPT, shift, seed, steps, 1e-2 if fields else 1e-3, device)
        scores[way] = _accuracy(model, shift, device)
        if way == "LoRA":
            scores["difference"] = _difference_without_gates(model, start(), device)
    return scores


def _accuracy(model: Any, shift: str, device: str) -> float:
    """Percent of the test digits, three draws of the shift."""
    import torch

    images, labels = (whole[_TEST] for whole in _digits())
    model.eval()
    with torch.no_grad():
        right = [
            (model(_shifted(images, shift, torch.Generator().manual_seed(draw)).to(device)).argmax(-1).cpu() == labels)
            for draw in range(3)
        ]
    return 100 * float(torch.cat(right).float().mean())


def _difference_without_gates(lora: Any, base: Any, device: str) -> float:
    """The largest difference of outputs between a trained LoRA and ungated WaRA with the same factors."""
    import torch
    from peft import get_peft_model

    from fullrank.adapt import WaraLayer

    fields = _WAYS["gated WaRA"] | {"band_gates": False, "target_modules": _LAYERS}
    wara: Any = get_peft_model(base, _wara(**fields)).eval()
    layers = dict(lora.named_modules())
    for name, layer in wara.named_modules():
        if isinstance(layer, WaraLayer):
            delta, trained = cast(Any, layer).deltas["default"], layers[name]
            delta.A.data = trained.lora_A["default"].weight.data.flatten()
            delta.B.data = trained.lora_B["default"].weight.data.flatten()
    images = _digits()[0][_TEST].to(device).double()  # far from where rounding tells
    with torch.no_grad():
        return float((lora.double()(images) - wara.double()(images)).abs().max())


# --- questions --------------------------------------------------------------------------------------------------------

#: Method -> fields of its configuration on query and value of two layers; the adapters train 6,144 parameters.
_METHODS: dict[str, dict[str, Any]] = {
    "head only": {},
    "LoRA": {"r": 2, "lora_alpha": 2},
    "WaRA": {"r": 1},
    "WaRA per band": {"r": 2, "mode": "per_band"},
    "WaRA shared, Haar": {"r": 4, "mode": "shared"},
    "WaRA shared, db4": {"r": 4, "mode": "shared", "wavelet": "db4"},
    "PEFT WaveFT": {"n_frequency": 1536},
    "full fine-tuning": {},
}


def _language(trial: Trial) -> None:
    """TREC's questions, classified by MiniLM's last two layers."""
    import numpy as np

    sizes = trial.pick(smoke=(16, 16, 8, 1), quick=(600, 500, 16, 3), full=(4000, 500, 32, 4))
    runs = repeat(trial, _METHODS, partial(_classify, sizes=sizes, device=trial.device), f"questions {sizes}").runs
    accuracy = {method: [run["accuracy"] for run in found] for method, found in runs.items()}
    named = {name: accuracy[name] for name in ("WaRA", "LoRA", "head only")}
    trial.measure("effective-on-language", *mean_and_spread(named))
    filters = {"db4": accuracy["WaRA shared, db4"], "Haar": accuracy["WaRA shared, Haar"]}
    trial.measure("longer-filters-no-worse", *mean_and_spread(filters))
    trial.table(
        "questions",
        [
            {
                "method": method,
                "parameters": runs[method][0]["parameters"],
                "accuracy %": float(np.mean(values)),
                "spread": float(np.std(values)),
            }
            for method, values in accuracy.items()
        ],
    )


def _classify(method: str, seed: int, sizes: Sequence[int], device: str) -> dict[str, Any]:
    from peft import LoraConfig, WaveFTConfig

    from fullrank.adapt import TrainingSettings
    from fullrank.papers._sentences import sentence_task, train_sentences

    training, testing, tokens, epochs = sizes
    build = {"LoRA": LoraConfig, "PEFT WaveFT": WaveFTConfig}.get(method, _wara)
    fields = _METHODS[method]
    config = build(target_modules=["query", "value"], **fields) if fields else None
    full = method == "full fine-tuning"
    settings = TrainingSettings(
        epochs=epochs, learning_rate=3e-3, head_learning_rate=3e-4 if full else 1e-2, seed=seed, device=device
    )
    task = sentence_task("trec-questions", training, testing, tokens)
    outcome = train_sentences(task, config, settings, everything=full)
    return {"accuracy": 100 * outcome.accuracy, "parameters": outcome.parameters}


def _figure_of_updates(trial: Trial, rows: Sequence[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    ways = [row["way"] for row in rows]
    colours = ["#b45309" if way == "LoRA" else "#94a3b8" if "shuffled" in way else "#0f766e" for way in ways]
    columns = [name for name in rows[0] if name.startswith(_INVERSION)]
    panels = figure.subplots(1, len(columns), sharey=True)
    for axes, column in zip(panels, columns, strict=True):
        axes.barh(ways, [row[column] for row in rows], color=colours)
        axes.axvline(rows[0][column], c="#b45309", lw=1, ls="--")
        axes.set(title=column, xlabel="relative error of the update")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    trial.figure("approximating-updates", figure)
