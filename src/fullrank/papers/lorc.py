"""ZeroQuant-V2: Exploring Post-training Quantization in LLMs from Comprehensive Study to Low Rank Compensation
(ZeroQuant-V2, LoRC).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from fullrank.papers import Claim, Paper, Trial
from fullrank.papers._byte_models import ByteModelSize
from fullrank.papers._repeats import mean_and_spread

_OPT = "OPT weights of 6.7 to 66 B parameters, BLOOM weights up to 176 B, and several GPUs"

PAPER = Paper(
    slug="lorc",
    title=(
        "ZeroQuant-V2: Exploring Post-training Quantization in LLMs from Comprehensive Study to Low Rank Compensation"
    ),
    authors=5,
    published="2023-03-14",
    arxiv="2303.08302",
    position=11,
    repository="https://github.com/microsoft/DeepSpeed",
    venue="NeurIPS 2023 workshop ENLSP",
    topics=(
        "compression",
        "language",
    ),
    summary=(
        "ZeroQuant-V2 measures how weights and activations of models from 125 M to 176 B parameters survive "
        "post-training quantisation with rounding, GPTQ and ZeroQuant. Activations turn out more fragile than "
        "weights and nothing restores full quality at 4 bits. Low-Rank Compensation adds the leading singular "
        "directions of the quantisation error back as two thin matrices."
    ),
    methods=(
        "fullrank.compress.quantize_lorc",
        "fullrank.compress.LoRCConfig",
        "fullrank.compress.lorc_factors",
        "fullrank.compress.QuantizedLinear",
        "fullrank.compress.gptq_quantize",
        "fullrank.compress.zeroquant_local_quantize",
        "fullrank.compress.quantization_sensitivity",
        "fullrank.compress.export_adapter",
    ),
    usage="""\
import torch
from fullrank.compress import LoRCConfig, lorc_factors, quantization_sensitivity, quantize_lorc

model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 64))
x = torch.randn(256, 64)
config = LoRCConfig(bits=3, group_size=32, quantizer="gptq", rank=8)
small = quantize_lorc(model, config, calibration=[x])
print(small[0])                                        # packed codes, with two thin factors beside them
print((small(x) - model(x)).square().mean())
for row in quantization_sensitivity(model, config, [x]).to_rows():
    print(row["name"], row["bits_per_weight"], row["captured"], row["output_error_compensated"])

quantised = (model[0].weight.detach() * 4).round() / 4  # any other quantiser's weight, dequantised
A, B = lorc_factors(model[0].weight.detach(), quantised, rank=8)
""",
    extra="adapt",
    notes=(
        "The authors name DeepSpeed as the code's home, but the low-rank compensation is not in it: the facts come "
        "from their slides (which give OPT-66b at 4 bits twice, 10.52 and 10.78), and the QERA repository declares "
        "its identity scale to be this method. DeepSpeed's grid divides by the number of levels and clips the largest "
        "value; the usual grid is the default. The share that rank 8 recovers depends on how concentrated the error "
        "is and is small without outlier channels. Later scalings (LQER, QERA) recover more at the same rank and are "
        "options."
    ),
    claims=(
        Claim(
            id="lorc-w4",
            says=(
                "With 4-bit weights and GPTQ LoRC lowers every model's mean perplexity, for OPT-6.7b from 12.28 to "
                "12.10 (16 bits: 11.90)."
            ),
            source="authors' slides",
            paper_value={
                "OPT-6.7b": 12.28,
                "OPT-6.7b LoRC": 12.1,
                "OPT-13b": 11.42,
                "OPT-13b LoRC": 11.36,
                "OPT-30b": 10.78,
                "OPT-30b LoRC": 10.76,
                "OPT-66b": 10.78,
                "OPT-66b LoRC": 10.34,
                "BLOOM-176b": 11.02,
                "BLOOM-176b LoRC": 10.98,
            },
            unit="perplexity",
            needs=_OPT,
        ),
        Claim(
            id="lorc-w3",
            says=(
                "With 3-bit weights and GPTQ LoRC lowers every model's mean perplexity, for OPT-6.7b from 14.18 to "
                "13.00, for OPT-66b from 17.77 to 10.63."
            ),
            source="authors' slides",
            paper_value={
                "OPT-6.7b": 14.18,
                "OPT-6.7b LoRC": 13.0,
                "OPT-13b": 12.43,
                "OPT-13b LoRC": 11.9,
                "OPT-30b": 11.28,
                "OPT-30b LoRC": 11.14,
                "OPT-66b": 17.77,
                "OPT-66b LoRC": 10.63,
                "BLOOM-176b": 49.46,
                "BLOOM-176b LoRC": 11.3,
            },
            unit="perplexity",
            needs=_OPT,
        ),
        Claim(
            id="lorc-w2",
            says=(
                "With 2-bit weights and GPTQ LoRC lowers OPT-6.7b from 120.56 to 24.17; BLOOM-176b explodes without it "
                "and has 14.15 with it."
            ),
            source="authors' slides",
            paper_value={
                "OPT-6.7b": 120.56,
                "OPT-6.7b LoRC": 24.17,
                "OPT-13b": 40.17,
                "OPT-13b LoRC": 18.53,
                "OPT-30b": 25.74,
                "OPT-30b LoRC": 14.39,
                "OPT-66b": 225.45,
                "OPT-66b LoRC": 13.01,
                "BLOOM-176b LoRC": 14.15,
            },
            unit="perplexity",
            needs=_OPT,
        ),
        Claim(
            id="w8-is-free",
            says="8-bit weights cost nothing: the perplexities are those of 16 bit.",
            source="authors' slides",
            paper_value={"OPT-6.7b": 11.9, "OPT-13b": 11.22, "OPT-30b": 10.7, "OPT-66b": 10.33, "BLOOM-176b": 10.9},
            unit="perplexity",
            holds=lambda m: m["W8"] < 1.01 * m["W16"],
        ),
        Claim(
            id="recovered-share",
            says=(
                "The share of the lost quality that LoRC recovers at rank 8 grows as bits fall: 47 % at 4, 52 % at 3, "
                "89 % at 2 bits for OPT-6.7b (here, on a model with outlier channels: it grows, from at least 40 %)."
            ),
            source="authors' slides (shares from their perplexities)",
            paper_value={"W4": 47.0, "W3": 52.0, "W2": 89.0},
            unit="%",
            holds=lambda m: 40 <= m["W4"] < m["W3"] < m["W2"],
        ),
        Claim(
            id="quantisers-w4a16",
            says=(
                "With 4-bit weights and no LoRC every quantiser costs perplexity, round-to-nearest the most: OPT-6.7b "
                "has 13.44 with it, 12.28 with GPTQ, 12.46 and 12.38 with ZeroQuant-Local and -Global (11.90 at 16 "
                "bits)."
            ),
            source="authors' slides",
            paper_value={
                "OPT-6.7b 16 bits": 11.90,
                "OPT-13b 16 bits": 11.22,
                "OPT-30b 16 bits": 10.70,
                "OPT-66b 16 bits": 10.33,
                "BLOOM-1.7b 16 bits": 20.43,
                "BLOOM-3b 16 bits": 17.58,
                "BLOOM-7.1b 16 bits": 14.96,
                "BLOOM-176b 16 bits": 10.90,
                "OPT-6.7b RTN": 13.44,
                "OPT-13b RTN": 12.09,
                "OPT-30b RTN": 11.52,
                "OPT-66b RTN": 31.52,
                "BLOOM-1.7b RTN": 22.47,
                "BLOOM-3b RTN": 19.01,
                "BLOOM-7.1b RTN": 15.9,
                "BLOOM-176b RTN": 11.2,
                "OPT-6.7b GPTQ": 12.28,
                "OPT-13b GPTQ": 11.42,
                "OPT-30b GPTQ": 10.78,
                "OPT-66b GPTQ": 10.52,
                "BLOOM-1.7b GPTQ": 21.58,
                "BLOOM-3b GPTQ": 18.33,
                "BLOOM-7.1b GPTQ": 15.5,
                "BLOOM-176b GPTQ": 11.02,
                "OPT-6.7b ZQ-Local": 12.46,
                "OPT-13b ZQ-Local": 11.64,
                "OPT-30b ZQ-Local": 11.05,
                "OPT-66b ZQ-Local": 10.79,
                "BLOOM-1.7b ZQ-Local": 21.7,
                "BLOOM-3b ZQ-Local": 18.5,
                "BLOOM-7.1b ZQ-Local": 15.55,
                "BLOOM-176b ZQ-Local": 11.11,
                "OPT-6.7b ZQ-Global": 12.38,
                "OPT-13b ZQ-Global": 11.62,
                "OPT-30b ZQ-Global": 11.04,
                "OPT-66b ZQ-Global": 10.68,
                "BLOOM-1.7b ZQ-Global": 21.38,
                "BLOOM-3b ZQ-Global": 18.33,
                "BLOOM-7.1b ZQ-Global": 15.52,
                "BLOOM-176b ZQ-Global": 11.05,
            },
            unit="perplexity",
            needs=_OPT,
        ),
        Claim(
            id="quantisers-w4a8",
            says=(
                "With 4-bit weights and 8-bit activations OPT suffers far more than BLOOM, most at 66 B parameters: "
                "perplexity 815 with round-to-nearest, 648.69 with GPTQ, 37.82 and 16.32 with ZeroQuant-Global and "
                "-Local."
            ),
            source="authors' slides",
            paper_value={
                "OPT-6.7b RTN": 14.8,
                "OPT-13b RTN": 26.36,
                "OPT-30b RTN": 86.26,
                "OPT-66b RTN": 815.0,
                "BLOOM-1.7b RTN": 22.75,
                "BLOOM-3b RTN": 19.17,
                "BLOOM-7.1b RTN": 16.19,
                "BLOOM-176b RTN": 12.22,
                "OPT-6.7b GPTQ": 13.88,
                "OPT-13b GPTQ": 17.28,
                "OPT-30b GPTQ": 20.71,
                "OPT-66b GPTQ": 648.69,
                "BLOOM-1.7b GPTQ": 21.71,
                "BLOOM-3b GPTQ": 18.44,
                "BLOOM-7.1b GPTQ": 15.75,
                "BLOOM-176b GPTQ": 11.86,
                "OPT-6.7b ZQ-Local": 13.24,
                "OPT-13b ZQ-Local": 14.23,
                "OPT-30b ZQ-Local": 18.53,
                "OPT-66b ZQ-Local": 16.32,
                "BLOOM-1.7b ZQ-Local": 21.86,
                "BLOOM-3b ZQ-Local": 18.66,
                "BLOOM-7.1b ZQ-Local": 15.75,
                "BLOOM-176b ZQ-Local": 11.19,
                "OPT-6.7b ZQ-Global": 13.17,
                "OPT-13b ZQ-Global": 13.07,
                "OPT-30b ZQ-Global": 14.65,
                "OPT-66b ZQ-Global": 37.82,
                "BLOOM-1.7b ZQ-Global": 21.43,
                "BLOOM-3b ZQ-Global": 18.39,
                "BLOOM-7.1b ZQ-Global": 15.58,
                "BLOOM-176b ZQ-Global": 11.49,
            },
            unit="perplexity",
            needs=_OPT,
        ),
        Claim(
            id="int4-is-not-lossless",
            says="No studied method reaches the original quality with INT4 weights.",
            source="abstract",
            unit="perplexity",
            holds=lambda m: min(m["RTN"], m["GPTQ"]) > m["W16"],
        ),
        Claim(
            id="gptq-beats-rounding",
            says="At 4 bits GPTQ has a lower perplexity than rounding to nearest.",
            source="authors' slides (ordering in every column)",
            unit="perplexity",
            holds=lambda m: m["GPTQ"] < m["RTN"],
        ),
        Claim(
            id="activations-are-more-sensitive",
            says="Quantising activations hurts more than quantising weights, above all in larger models.",
            source="abstract",
            needs=_OPT,
        ),
        Claim(
            id="activations-are-more-sensitive-small-model",
            says="In a small language model too, 8-bit activations cost more perplexity than 8-bit weights.",
            source="abstract, at small scale",
            unit="perplexity",
            holds=lambda m: m["A8"] > m["W8"],
        ),
        Claim(
            id="lorc-helps-at-little-cost",
            says=(
                "LoRC recovers quality at 4, 3 and 2 bits: the embeddings' cosine loss falls with rank 8 and falls "
                "further with rank 32."
            ),
            source="abstract, on a sentence encoder",
            unit="1 - cosine",
            holds=lambda m: all(
                m[f"W{bits}, rank 0"] > m[f"W{bits}, rank 8"] > m[f"W{bits}, rank 32"] for bits in (4, 3, 2)
            ),
        ),
        Claim(
            id="minimal-extra-size",
            says=(
                "The model grows minimally: rank 8 in 8 bits adds less than 1 % to a 4-bit matrix of 4096 x 4096 or "
                "4096 x 16384."
            ),
            source="abstract (minimal increase in size)",
            unit="% of the quantised weight",
            holds=lambda m: max(m["4096 x 4096"], m["4096 x 16384"]) < 1,
        ),
        Claim(
            id="rank-8-is-enough",
            says="Little is gained past rank 8: going to rank 32 recovers less perplexity than the first 8 directions.",
            source="recalled from the rank study",
            unit="perplexity",
            holds=lambda m: m["rank 8"] - m["rank 32"] < m["rank 0"] - m["rank 8"],
            confirmed=False,
        ),
        Claim(
            id="int8-factors",
            says="The two thin factors can be stored in 8 bits without visible loss (at most 0.5 % more perplexity).",
            source="recalled",
            unit="perplexity",
            holds=lambda m: m["int8 factors"] <= 1.005 * m["float factors"],
            confirmed=False,
        ),
        Claim(
            id="errors-fall-in-every-layer",
            says="With LoRC the error of the weight and of the output falls in every layer.",
            source="method (best low-rank approximation of the error)",
            unit="smallest relative decrease over layers",
            holds=lambda m: m["weight"] > 0 and m["output"] > 0,
        ),
        Claim(
            id="gptq-plus-lorc",
            says="At 2 and 3 bits LoRC on top of GPTQ is at least as good as GPTQ.",
            source="authors' slides",
            unit="perplexity",
            holds=lambda m: m["W3, GPTQ + LoRC"] <= m["W3, GPTQ"] and m["W2, GPTQ + LoRC"] <= m["W2, GPTQ"],
        ),
        Claim(
            id="rival-scalings",
            says=(
                "On TinyLlama the identity scale (LoRC) has 13.91, LQER 10.69 to 10.78, QERA 10.66 to 10.70 "
                "perplexity on the same quantiser."
            ),
            source="plotting script of the QERA repository",
            paper_value={
                "LoRC": 13.91,
                "LQER, low": 10.69,
                "LQER, high": 10.78,
                "QERA, low": 10.66,
                "QERA, high": 10.70,
            },
            unit="perplexity",
            needs="TinyLlama weights",
            kind="finding",
        ),
        Claim(
            id="lqer-hardware",
            says="LQER claims near-lossless W4A8 with 1.36x fewer hardware resources than the best method before it.",
            source="README of LQER",
            paper_value=1.36,
            unit="x",
            needs="a model of the hardware's area",
            kind="finding",
        ),
        Claim(
            id="asvd-claim",
            says="ASVD claims 10 to 20 % compression without loss of reasoning.",
            source="README of ASVD",
            paper_value={"low": 10, "high": 20},
            unit="%",
            needs="LLaMA weights",
            kind="finding",
        ),
        Claim(
            id="share-depends-on-outliers",
            says=(
                "Without outlier channels rank 8 recovers little (7 % to 8 % of the cosine loss of MiniLM); a layer "
                "with planted outlier columns recovers far more."
            ),
            source="our pilot on MiniLM",
            unit="% recovered",
            holds=lambda m: m["MiniLM"] < 25 and m["planted outliers"] >= 40,
            kind="finding",
        ),
        Claim(
            id="gptq-leaves-less-to-recover",
            says=(
                "The share that rank 8 recovers is smaller with GPTQ than with rounding to nearest at every bit width, "
                "on a model with outlier channels: GPTQ spreads its errors on purpose, and part of them is good."
            ),
            source="our runs on a small language model",
            unit="%",
            holds=lambda m: all(m[f"W{bits}, GPTQ"] < m[f"W{bits}, RTN"] for bits in (4, 3, 2)),
            kind="finding",
        ),
        Claim(
            id="scaled-error-recovers-more",
            says="Weighting the error by the inputs' magnitude (QERA-approx) recovers more than LoRC at equal rank.",
            source="our pilot on MiniLM and STS-B at 2 bits",
            unit="Spearman x 100",
            holds=lambda m: m["QERA-approx"] > m["LoRC"],
            kind="finding",
        ),
        Claim(
            id="deepspeed-grid-clips",
            says="DeepSpeed's asymmetric grid clips the largest value of a group by about one step.",
            source="code of DeepSpeed",
            unit="steps",
            holds=lambda steps: 0.5 <= steps <= 1.5,
            kind="finding",
        ),
    ),
)


class Size(NamedTuple):
    """How much is measured."""

    model: ByteModelSize
    pieces: int
    calibration: int
    sentences: int
    pairs: int
    targets: str


class Arm(NamedTuple):
    """A way to quantise a model; rows have a scale of their own unless `group` says otherwise."""

    bits: int
    quantizer: str = "rtn"
    rank: int = 0
    scaling: str = "none"
    group: int = -1
    factors: str = "int8"
    iterations: int = 1

    @property
    def label(self) -> str:
        """Short and readable."""
        method = {"rtn": "RTN", "gptq": "GPTQ", "zeroquant-local": "ZQ-Local"}[self.quantizer]
        if self.rank:
            method += {"none": " + LoRC", "lqer": " + LQER", "diag": " + QERA-approx", "exact": " + QERA-exact"}[
                self.scaling
            ]
        parts = [f"W{self.bits}", method, f"rank {self.rank}" if self.rank else ""]
        parts += [f"g={self.group}" if self.group > 0 else "", self.factors if self.factors != "int8" else ""]
        parts.append(f"LoftQ({self.iterations})" if self.iterations > 1 else "")
        return ", ".join(part for part in parts if part)


_SMOKE = Size(ByteModelSize(1, 64, 32, 4, 3), 4, 4, 6, 6, r"encoder\.layer\.5\.(intermediate|output)\.dense")
_QUICK = Size(ByteModelSize(3, 96, 64, 16, 400), 192, 64, 126, 276, "all-linear")
_FULL = Size(ByteModelSize(12, 768, 256, 64, 6000), 1024, 128, 512, 1379, "all-linear")
_BITS = (4, 3, 2)
#: How much larger the planted channels are, and how many of every layer's inputs.
_PLANTED = (20.0, 4)
_LANGUAGE = (
    Arm(8),
    *(Arm(bits, quantizer, rank) for bits in _BITS for quantizer in ("rtn", "gptq") for rank in (0, 8)),
    Arm(3, "gptq", 32),
    Arm(3, "gptq", 8, factors="float32"),
    Arm(3, "gptq", 8, "diag"),
    Arm(4, "zeroquant-local"),
)
_WITH_OUTLIERS = tuple(Arm(bits, quantizer, rank) for bits in _BITS for quantizer in ("rtn", "gptq") for rank in (0, 8))
_RANKS = (0, 8, 32)
#: Scales of the sentence encoder: a row's at 4 and 3 bits, a group's at 2.
_GROUPS = {4: -1, 3: -1, 2: 64}
_SENTENCES = (
    Arm(8),
    Arm(8, rank=8),
    *(Arm(bits, rank=rank, group=_GROUPS[bits]) for bits in _BITS for rank in _RANKS),
    Arm(2, rank=8, group=64, scaling="diag"),
    Arm(2, rank=8, group=64, iterations=5),
)


@PAPER.study
def study(trial: Trial) -> None:
    """A language model of bytes, with and without planted outliers; MiniLM's embeddings; single layers; sizes."""
    size = trial.pick(smoke=_SMOKE, quick=_QUICK, full=_FULL)
    plain = _language(trial, size, _LANGUAGE, outliers=False)
    planted = _language(trial, size, _WITH_OUTLIERS, outliers=True)
    _measure_language(trial, plain, planted)
    _sentences(trial, size)
    _single_layers(trial)
    trial.note(
        f"The language model has {size.model.layers} layers of width {size.model.width}, is trained for "
        f"{size.model.steps} steps of {size.model.batch} x {size.model.context} bytes of WikiText-2 and predicts "
        f"bytes. Weights have one scale a row, factors 8 bits. In its second form {_PLANTED[1]} input channels of "
        f"every attention and feed-forward layer are {_PLANTED[0]:g} times larger and the layer norms before them as "
        "much smaller, which leaves its function as it was. The recovered share is measured with rounding to nearest; "
        "the paper's is with GPTQ, and the table has both."
    )


Runs = dict[str, list[float]]


def _language(trial: Trial, size: Size, arms: Sequence[Arm], outliers: bool) -> Runs:
    """Perplexity by arm and seed; "W16" is the model as it was trained, "A8" has 8-bit activations only."""
    about = f"{'outliers' if outliers else 'plain'} {size}"
    found: Runs = {}
    for seed in trial.track(trial.seeds, f"a language model, {'with outliers' if outliers else 'as trained'}"):
        run = trial.step(f"{about} seed={seed}", partial(_perplexities, trial, size, arms, outliers, seed))
        for name, value in run.items():
            found.setdefault(name, []).append(value)
    return found


def _perplexities(trial: Trial, size: Size, arms: Sequence[Arm], outliers: bool, seed: int) -> dict[str, float]:
    import torch

    from fullrank.papers import _byte_models as language

    state = trial.tensors(
        f"language model {size.model} seed={seed}",
        lambda: _state(language.train_byte_model(size.model, seed, trial.device)),
    )
    model = language.byte_model(size.model, seed).to(trial.device)
    model.load_state_dict(state, strict=False)  # the output layer is the embedding
    if outliers:
        language.plant_outliers(model, *_PLANTED)
    generator = torch.Generator().manual_seed(seed)
    pieces = language.sequences(size.calibration, size.model.context, generator).to(trial.device)
    batches = [{"input_ids": batch} for batch in pieces.split(32)]

    def perplexity(model: Any) -> float:
        return language.byte_perplexity(model, size.pieces, size.model.context)

    found = {"W16": perplexity(model)}
    for arm in arms:
        found[arm.label] = perplexity(_quantised(model, arm, batches))
    if not outliers:
        found["A8"] = _with_rounded_inputs(model, perplexity)
    return found


def _state(model: Any) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}


def _quantised(model: Any, arm: Arm, batches: Any, targets: str = "all-linear") -> Any:
    from fullrank.compress import LoRCConfig, quantize_lorc

    options: dict[str, Any] = {"quantizer": arm.quantizer, "scaling": arm.scaling, "lowrank_dtype": arm.factors}
    config = LoRCConfig(
        arm.bits, arm.group, rank=arm.rank, iterations=arm.iterations, target_modules=targets, **options
    )
    return quantize_lorc(model, config, batches if config.needs_data else None)


def _with_rounded_inputs(model: Any, perplexity: Any) -> float:
    """Perplexity where every linear layer's input has 8 bits a token, and weights are as they were."""
    from fullrank.compress import select_layers
    from fullrank.compress.quantized_linear import round_tokens

    handles = [
        layer.module.register_forward_pre_hook(lambda module, args: (round_tokens(args[0]), *args[1:]))
        for layer in select_layers(model).layers
    ]
    try:
        return perplexity(model)
    finally:
        for handle in handles:
            handle.remove()


def _measure_language(trial: Trial, plain: Runs, planted: Runs) -> None:
    def label(bits: int, quantizer: str, rank: int = 0, **more: Any) -> str:
        return Arm(bits, quantizer, rank, **more).label

    def measure(claim: str, names: dict[str, str]) -> None:
        trial.measure(claim, *mean_and_spread({name: plain[arm] for name, arm in names.items()}))

    measure("w8-is-free", {"W16": "W16", "W8": label(8, "rtn")})
    measure("int4-is-not-lossless", {"W16": "W16", "RTN": label(4, "rtn"), "GPTQ": label(4, "gptq")})
    measure("gptq-beats-rounding", {"RTN": label(4, "rtn"), "GPTQ": label(4, "gptq")})
    measure("activations-are-more-sensitive-small-model", {"A8": "A8", "W8": label(8, "rtn")})
    measure("rank-8-is-enough", {f"rank {rank}": label(3, "gptq", rank) for rank in _RANKS})
    measure(
        "int8-factors",
        {"int8 factors": label(3, "gptq", 8), "float factors": label(3, "gptq", 8, factors="float32")},
    )
    measure(
        "gptq-plus-lorc",
        {f"W{bits}, GPTQ{' + LoRC' if rank else ''}": label(bits, "gptq", rank) for bits in (3, 2) for rank in (0, 8)},
    )
    rounding, gptq = (_recovered(planted, quantizer) for quantizer in ("rtn", "gptq"))
    trial.measure("recovered-share", *mean_and_spread(rounding))
    both = {
        f"{name}, {quantizer}": values
        for quantizer, shares in (("RTN", rounding), ("GPTQ", gptq))
        for name, values in shares.items()
    }
    trial.measure("gptq-leaves-less-to-recover", *mean_and_spread(both))
    means, spreads = mean_and_spread(plain)
    with_outliers, _ = mean_and_spread(planted)
    trial.table(
        "language-model",
        [
            {
                "model": name,
                "perplexity by byte": value,
                "spread": spreads[name],
                "with planted outliers": with_outliers.get(name),
            }
            for name, value in means.items()
        ],
    )
    _figure(trial, means, with_outliers)


def _recovered(runs: Runs, quantizer: str) -> Runs:
    """Percent of the lost perplexity that rank 8 brings back, by bits and seed."""
    return {
        f"W{bits}": [
            100 * (bare - compensated) / (bare - dense)
            for dense, bare, compensated in zip(
                runs["W16"], runs[Arm(bits, quantizer).label], runs[Arm(bits, quantizer, 8).label], strict=True
            )
        ]
        for bits in _BITS
    }


def _sentences(trial: Trial, size: Size) -> None:
    """Embeddings of MiniLM: cosine to those of the original, rank correlation with people's scores, layer by layer."""
    found: dict[str, dict[str, float]] = {}
    for name, arm in trial.track(
        [("original", None), *((arm.label, arm) for arm in _SENTENCES)], "MiniLM's embeddings"
    ):
        found[name] = trial.step(f"MiniLM {name} {size}", partial(_embedded, size, arm))
    losses = {
        f"W{bits}, rank {rank}": found[Arm(bits, rank=rank, group=_GROUPS[bits]).label]["cosine loss"]
        for bits in _BITS
        for rank in _RANKS
    }
    trial.measure("lorc-helps-at-little-cost", losses)
    diag = found[Arm(2, rank=8, group=64, scaling="diag").label]
    lorc = found[Arm(2, rank=8, group=64).label]
    trial.measure("scaled-error-recovers-more", {"LoRC": lorc["spearman"], "QERA-approx": diag["spearman"]})
    recovered = max(100 * (1 - losses[f"W{bits}, rank 8"] / losses[f"W{bits}, rank 0"]) for bits in _BITS)
    trial.measure(
        "share-depends-on-outliers", {"MiniLM": recovered, "planted outliers": 100 * _recovered_with_outliers()}
    )
    trial.table(
        "sentence-encoder",
        [
            {"model": name, "cosine loss": run["cosine loss"], "Spearman x 100": run["spearman"], "bits": run["bits"]}
            for name, run in found.items()
        ],
    )
    layers = trial.step(f"layers of MiniLM {size}", partial(_layers, size))
    trial.measure(
        "errors-fall-in-every-layer",
        {kind: min(float(row[f"{kind} decrease"]) for row in layers) for kind in ("weight", "output")},
    )
    trial.table("layers-at-3-bits", [row for row in layers if row["bits"] == 3])


def _embedded(size: Size, arm: Arm | None) -> dict[str, float]:
    import torch

    from fullrank import data
    from fullrank.tasks import load_as_is, load_examples, quality_of

    model, tokenizer = load_as_is(data.bundled_encoder())
    examples = load_examples("stsb")
    step = max(1, len(examples.test) // size.pairs)
    examples = _part(examples, 2, examples.test[::step][: size.pairs])
    quality = quality_of(model, tokenizer, examples, max_length=64)
    sentences = [str(record["first"]) for record in data.load("stsb", "test")[: size.sentences]]
    small: Any = model
    bits = 32.0
    if arm is not None:
        small = _quantised(model, arm, _calibration(tokenizer), size.targets)
        bits = _bits_per_weight(small)
    with torch.no_grad():
        before, after = (_embeddings(one, tokenizer, sentences) for one in (model, small))
    cosine = torch.nn.functional.cosine_similarity(before.double(), after.double()).mean()
    score = quality.measure(small)[quality.metric]
    return {"cosine loss": float(1 - cosine), "spearman": score, "bits": bits}


def _part(examples: Any, train: int, test: Any) -> Any:
    from dataclasses import replace

    return replace(examples, train=examples.train[:train], test=test)


def _bits_per_weight(model: Any) -> float:
    from fullrank.compress import QuantizedLinear

    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    weights = [layer.in_features * layer.out_features for layer in layers]
    bits = sum(layer.bits_per_weight * count for layer, count in zip(layers, weights, strict=True))
    return bits / sum(weights)


def _calibration(tokenizer: Any) -> list[Any]:
    """Both sentences of the first 64 training pairs."""
    from fullrank import data

    pairs = data.load("stsb", "train")[:64]
    sentences = [record[side] for side in ("first", "second") for record in pairs]
    return [_tokens(tokenizer, sentences[start : start + 64]) for start in (0, 64)]


def _tokens(tokenizer: Any, sentences: Sequence[str]) -> Any:
    return tokenizer(list(sentences), padding=True, truncation=True, max_length=64, return_tensors="pt")


def _embeddings(model: Any, tokenizer: Any, sentences: Sequence[str]) -> Any:
    """Means over a sentence's tokens."""
    import torch

    found = []
    for start in range(0, len(sentences), 64):
        batch = _tokens(tokenizer, sentences[start : start + 64])
        states = model(**batch).last_hidden_state
        weights = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
        found.append((states * weights).sum(1) / weights.sum(1))
    return torch.cat(found)


def _layers(size: Size) -> list[dict[str, Any]]:
    """How much the errors of every layer fall with rank 8."""
    from fullrank import data
    from fullrank.compress import LoRCConfig, quantization_sensitivity
    from fullrank.tasks import load_as_is

    model, tokenizer = load_as_is(data.bundled_encoder())
    rows = []
    for bits in _BITS:
        config = LoRCConfig(bits, _GROUPS[bits], rank=8, target_modules=size.targets)
        for layer in quantization_sensitivity(model, config, _calibration(tokenizer)[:1]).layers:
            assert layer.output_error is not None
            assert layer.output_error_compensated is not None
            rows.append(
                {
                    "layer": layer.name,
                    "bits": bits,
                    "bits per weight": layer.bits_per_weight,
                    "captured %": 100 * layer.captured,
                    "effective rank": layer.effective_rank,
                    "weight decrease": 1 - layer.weight_error_compensated / layer.weight_error,
                    "output decrease": 1 - layer.output_error_compensated / layer.output_error,
                }
            )
    return rows


def _single_layers(trial: Trial) -> None:
    """Sizes of the factors, and where DeepSpeed's grid ends."""
    import torch

    from fullrank.compress import Grid, QuantizedLinear

    shares = {}
    for outputs in (4096, 16384):
        bare, full = (QuantizedLinear(4096, outputs, 4, rank=rank, device="meta", bias=False) for rank in (0, 8))
        shares[f"4096 x {outputs}"] = 100 * (full.bits_per_weight / bare.bits_per_weight - 1)
    trial.measure("minimal-extra-size", shares)
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    quantized = Grid(4, grid="deepspeed", scale_dtype="float32").quantize(weight)
    largest = weight.argmax(1, keepdim=True)
    missing = (weight - quantized.dequantize()).gather(1, largest) / quantized.scales
    trial.measure("deepspeed-grid-clips", float(missing.mean()))


def _recovered_with_outliers() -> float:
    """The share of a layer's output error that rank 8 takes away where rows and columns are planted."""
    import torch

    from fullrank.compress import Grid, lorc_factors

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 256, generator=generator)
    weight[:, :5] *= 4
    weight[:4] *= 8
    x = torch.randn(1024, 256, generator=generator)
    quantised = Grid(3).quantize(weight).dequantize()
    A, B = lorc_factors(weight, quantised, 8)
    bare, full = (float((x @ error.mT).square().mean()) for error in (weight - quantised, weight - quantised - B @ A))
    return 1 - full / bare


def _figure(trial: Trial, plain: dict[str, float], planted: dict[str, float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    for axes, title, means in zip(
        figure.subplots(1, 2), ("as trained", "with outlier channels"), (plain, planted), strict=True
    ):
        for quantizer, name, colour in (("rtn", "RTN", "#b45309"), ("gptq", "GPTQ", "#0f766e")):
            for rank, style in ((0, "--"), (8, "-")):
                values = [means[Arm(bits, quantizer, rank).label] for bits in _BITS]
                label = f"{name} + LoRC" if rank else name
                axes.plot(_BITS, values, marker="o", linestyle=style, color=colour, label=label)
        axes.axhline(means["W16"], color="#57534e", linewidth=1, linestyle=":", label="not quantised")
        axes.set(title=title, xlabel="bits of a weight", yscale="log", xticks=_BITS)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("perplexity by byte")
    figure.axes[1].legend(frameon=False)
    trial.figure("perplexity-by-bits", figure)
