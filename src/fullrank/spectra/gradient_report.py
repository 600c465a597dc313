"""`SpectraReport`: gradient spectra of many samples, and honest comparisons of two sets of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from fullrank._files import write_bytes
from fullrank._optional import require

Status = Literal["ok", "no_response_tokens", "non_finite_loss", "zero_gradient"]


@dataclass(frozen=True, eq=False)
class SpectraReport:
    """Metrics of every sample, layer and projection.

    Attributes:
        kinds: names of the projections, the last axis of every metric.
        metrics: (samples, layers, kinds) by metric name; NaN where there is no gradient.
        similarities: cosines by name: "same_layer" (samples, layers, pairs Q-O and K-V), "adjacent"
            (samples, layers - 1, kinds), "layers" (samples, kinds, layers, layers).
        n_response_tokens: (samples,) tokens that the loss was taken over.
        loss: (samples,) mean response-token loss in nats.
        status: one word per sample; what is not measured is NaN and in no mean, and samples that are not "ok" are in no
            comparison. "zero_gradient": no gradient reaches at least one projection.
        values: singular values by module name per sample, if they were kept.
        silent: modules that were never called, such as experts without tokens.
    """

    kinds: tuple[str, ...]
    metrics: dict[str, Float[Tensor, "samples layers kinds"]]
    similarities: dict[str, Tensor]
    n_response_tokens: Int[Tensor, "samples"]
    loss: Float[Tensor, "samples"]
    status: tuple[Status, ...]
    values: tuple[dict[str, Tensor], ...] = field(default=(), repr=False)
    silent: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.status)

    @classmethod
    def concatenate(cls, parts: Sequence[SpectraReport]) -> SpectraReport:
        """One report of all samples, in order.

        Raises:
            ValueError: no parts, or parts of different models.
        """
        if not parts:
            raise ValueError("there are no samples to report on")
        first = parts[0]
        if any(part.kinds != first.kinds or set(part.metrics) != set(first.metrics) for part in parts):
            raise ValueError("the reports measure different projections or metrics and cannot be joined")
        return cls(
            kinds=first.kinds,
            metrics={name: torch.cat([part.metrics[name] for part in parts]) for name in first.metrics},
            similarities={name: torch.cat([part.similarities[name] for part in parts]) for name in first.similarities},
            n_response_tokens=torch.cat([part.n_response_tokens for part in parts]),
            loss=torch.cat([part.loss for part in parts]),
            status=tuple(status for part in parts for status in part.status),
            values=tuple(values for part in parts for values in part.values),
            silent=tuple(sorted(set(first.silent).intersection(*(part.silent for part in parts)))),
        )

    def gather(self) -> SpectraReport:
        """The report of all processes of the default process group, each having scored its own shard, in rank order."""
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, {item.name: getattr(self, item.name) for item in fields(self)})
        return SpectraReport.concatenate([SpectraReport(**part) for part in parts])

    def mean(self, by: Literal["layer", "projection"] = "layer") -> dict[str, Tensor]:
        """Plain means over samples: (layers, kinds) by metric; with "projection" also over layers, (kinds,)."""
        means = {name: table.nanmean(0) for name, table in self.metrics.items()}
        return means if by == "layer" else {name: table.nanmean(0) for name, table in means.items()}

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per sample, layer and projection."""
        rows = []
        for sample, status in enumerate(self.status):
            for layer in range(next(iter(self.metrics.values())).shape[1]):
                for column, kind in enumerate(self.kinds):
                    row = {"sample": sample, "layer": layer, "projection": kind, "status": status}
                    row |= {"n_response_tokens": int(self.n_response_tokens[sample]), "loss": float(self.loss[sample])}
                    row |= {name: float(table[sample, layer, column]) for name, table in self.metrics.items()}
                    rows.append(row)
        return rows

    def to_dataframe(self) -> Any:
        """`to_rows` as a pandas DataFrame.

        Raises:
            MissingExtra: pandas is not installed.
        """
        return require("pandas", "dev").DataFrame(self.to_rows())

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, atomically; its header holds everything that is not a tensor."""
        tensors = {f"metric.{name}": table for name, table in self.metrics.items()}
        tensors |= {f"similarity.{name}": table for name, table in self.similarities.items()}
        tensors |= {"n_response_tokens": self.n_response_tokens, "loss": self.loss}
        for sample, values in enumerate(self.values):
            tensors |= {f"values.{sample}.{name}": value for name, value in values.items()}
        about = {"kinds": self.kinds, "status": self.status, "silent": self.silent}
        content = save(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            {"fullrank.spectra_report": json.dumps(about)},
        )
        return write_bytes(Path(path), content)

    @classmethod
    def load(cls, path: str | Path) -> SpectraReport:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is no saved report.
        """
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get("fullrank.spectra_report")
            if header is None:
                raise ValueError(f"{path} is a safetensors file, but not a saved SpectraReport")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        about = json.loads(header)
        values: list[dict[str, Tensor]] = [{} for _ in about["status"]]
        for name, tensor in tensors.items():
            if name.startswith("values."):
                _, sample, module = name.split(".", 2)
                values[int(sample)][module] = tensor
        return cls(
            kinds=tuple(about["kinds"]),
            metrics=_under("metric.", tensors),
            similarities=_under("similarity.", tensors),
            n_response_tokens=tensors["n_response_tokens"],
            loss=tensors["loss"],
            status=tuple(about["status"]),
            values=tuple(values) if any(values) else (),
            silent=tuple(about["silent"]),
        )

    def compare(
        self,
        other: SpectraReport,
        *,
        match: Literal["length"] | None = "length",
        tolerance: float = 0.2,
        permutations: int = 10_000,
        seed: int = 0,
    ) -> SpectraComparison:
        """Difference of two sets of samples, with a permutation test that allows for all layers at once.

        The rank of a gradient is at most the number of tokens and the loss is a token mean, so length alone raises the
        effective rank and lowers the nuclear norm. By default samples are therefore paired by response length.

        Args:
            other: the set to compare with.
            match: "length" pairs each sample with one of `other` whose response length is nearest, within
                `tolerance`, and drops the rest; None takes all samples as they are.
            tolerance: largest accepted difference of the paired lengths, as a share of the longer one.
            permutations: shuffles of the group label; the p-value of a cell is the share of shuffles whose largest
                standardised difference over all layers and projections reaches the cell's (max-T).
            seed: of the shuffles.

        Raises:
            ValueError: different models, fewer than two usable samples, or no pair of similar length.
        """
        if self.kinds != other.kinds or set(self.metrics) != set(other.metrics):
            raise ValueError("the reports measure different projections or metrics and cannot be compared")
        mine, theirs = self._usable(), other._usable()
        if match == "length":
            mine, theirs = _paired_by_length(self, other, mine, theirs, tolerance)
        if min(len(mine), len(theirs)) < 2:
            raise ValueError(
                f"{len(mine)} and {len(theirs)} comparable samples are too few; give more samples"
                + (f", a larger tolerance than {tolerance}, or match=None" if match else "")
            )
        generator = torch.Generator().manual_seed(seed)
        difference, p_value = {}, {}
        for name in self.metrics:
            a, b = self.metrics[name][mine], other.metrics[name][theirs]
            difference[name] = a.nanmean(0) - b.nanmean(0)
            p_value[name] = _max_t(a, b, permutations, generator)
        return SpectraComparison(
            kinds=self.kinds,
            difference=difference,
            p_value=p_value,
            samples=(len(mine), len(theirs)),
            mean_length=tuple(
                float(report.n_response_tokens[index].double().mean())
                for report, index in ((self, mine), (other, theirs))
            ),
            matched=match == "length",
        )

    def _usable(self) -> list[int]:
        return [index for index, status in enumerate(self.status) if status == "ok"]


@dataclass(frozen=True, eq=False)
class SpectraComparison:
    """Mean differences of two sets of samples.

    Attributes:
        kinds: names of the projections.
        difference: first minus second, (layers, kinds) by metric.
        p_value: family-wise corrected, (layers, kinds) by metric.
        samples: how many were compared of each set.
        mean_length: mean response length of each set in tokens; unequal lengths confound every metric.
        matched: whether samples were paired by length.
    """

    kinds: tuple[str, ...]
    difference: dict[str, Tensor]
    p_value: dict[str, Tensor]
    samples: tuple[int, int]
    mean_length: tuple[float, ...]
    matched: bool


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _paired_by_length(
    first: SpectraReport, second: SpectraReport, mine: list[int], theirs: list[int], tolerance: float
) -> tuple[list[int], list[int]]:
    """Greedy one-to-one pairing in order of length."""
    free = sorted(theirs, key=lambda index: int(second.n_response_tokens[index]))
    pairs = []
    for index in sorted(mine, key=lambda index: int(first.n_response_tokens[index])):
        if not free:
            break
        length = int(first.n_response_tokens[index])
        nearest = min(free, key=lambda candidate: abs(int(second.n_response_tokens[candidate]) - length))
        partner = int(second.n_response_tokens[nearest])
        if abs(partner - length) <= tolerance * max(partner, length):
            pairs.append((index, nearest))
            free.remove(nearest)
    return [index for index, _ in pairs], [index for _, index in pairs]


def _max_t(a: Tensor, b: Tensor, permutations: int, generator: torch.Generator) -> Tensor:
    """Permutation p-values of the mean difference, corrected over all cells by the largest standardised difference."""
    pooled = torch.cat([a, b])
    count = len(pooled)
    centred = torch.nan_to_num(pooled - pooled.nanmean(0))
    deviation = centred.square().mean(0).sqrt()
    flat = (centred / torch.where(deviation > 0, deviation, 1.0)).reshape(count, -1)
    weight = torch.cat([torch.full((len(a),), 1 / len(a)), torch.full((len(b),), -1 / len(b))]).double()
    observed = (weight @ flat).abs()
    shuffles = torch.rand(permutations, count, generator=generator).argsort(-1)
    largest = (weight[shuffles] @ flat).abs().amax(-1)
    exceeding = (largest[:, None] >= observed - 1e-12).sum(0)
    return ((exceeding + 1) / (permutations + 1)).double().reshape(a.shape[1:])
