"""`Result`: what one run found: every claim with its measurement and computed verdict, tables, figures, environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fullrank._files import write_json, write_text
from fullrank.papers._paper import Claim, Measured, Paper, Verdict
from fullrank.papers._trial import Scale, Stated, Trial

SCHEMA = 1


class ResultError(ValueError):
    """A result file is damaged, or was made by a newer Fullrank."""


@dataclass(frozen=True)
class ClaimResult:
    """One claim beside its measurement.

    Attributes:
        id, says, source, paper_value, unit, confirmed, kind, needs: as declared by the paper file.
        value: what was measured, or None.
        spread: standard deviation over seeds in the shape of `value`, or None.
        verdict: computed from `value` by the claim's predicate.
    """

    id: str
    says: str
    source: str
    paper_value: Stated | None
    unit: str
    confirmed: bool
    kind: Literal["paper", "finding"]
    needs: str | None
    value: Measured | None
    spread: Measured | None
    verdict: Verdict

    @classmethod
    def of(cls, claim: Claim, value: Measured | None = None, spread: Measured | None = None) -> ClaimResult:
        """The claim with what was measured for it, if anything."""
        declared = {
            name: getattr(claim, name)
            for name in ("id", "says", "source", "paper_value", "unit", "confirmed", "kind", "needs")
        }
        return cls(**declared, value=value, spread=spread, verdict=claim.verdict(value))


@dataclass(frozen=True)
class Result:
    """One finished run.

    Attributes:
        slug: the paper.
        scale: "smoke", "quick" or "full".
        run: name of the run's folder, its start in UTC.
        started, finished: ISO times in UTC.
        seconds: computing time over all sessions of a resumed run.
        peak_memory: bytes, of the last session; of all its processes together.
        device: torch device name.
        seeds: seeds used.
        claims: every claim of the paper.
        tables: rows by table name.
        figures: SVG file name by figure name, relative to the result's folder.
        notes: remarks of the study.
        environment: versions, commit, machine.
        schema: version of this layout.
    """

    slug: str
    scale: Scale
    run: str
    started: str
    finished: str
    seconds: float
    peak_memory: int
    device: str
    seeds: tuple[int, ...]
    claims: tuple[ClaimResult, ...]
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict of every claim by its id."""
        return {claim.id: claim.verdict for claim in self.claims}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in `result.json`."""
        return asdict(self)

    def save(self, folder: Path, figures: Mapping[str, str]) -> None:
        """Write figures, then `result.json` last: a folder with a `result.json` is a whole result."""
        for name, svg in figures.items():
            write_text(folder / self.figures[name], svg)
        write_json(folder / "result.json", self.to_dict())

    @classmethod
    def load(cls, folder: Path) -> Result:
        """Read the result in a folder.

        Raises:
            FileNotFoundError: the folder has no result.
            ResultError: the file is damaged, or was made by a newer Fullrank.
        """
        file = folder / "result.json"
        try:
            data = json.loads(file.read_text())
            schema = int(data["schema"])
        except (ValueError, KeyError, TypeError) as error:
            raise ResultError(
                f"{file} is not a result of Fullrank ({error}); remove the folder and run again"
            ) from error
        if schema > SCHEMA:
            raise ResultError(
                f"{file} was made by a newer Fullrank (layout {schema}; this one reads up to {SCHEMA}): "
                "pip install --upgrade fullrank"
            )
        try:
            claims = tuple(ClaimResult(**claim) for claim in data.pop("claims"))
            return cls(**{**data, "claims": claims, "seeds": tuple(data["seeds"]), "notes": tuple(data["notes"])})
        except (KeyError, TypeError) as error:
            raise ResultError(f"{file} lacks what a result needs ({error}); remove the folder and run again") from error

    def recomputed(self, paper: Paper) -> Result:
        """The same measurements under the claims as they are declared now: verdicts are computed, never stored.

        A claim that asks now for other numbers than were measured then is not measured, and a note says so.
        """
        measured = {claim.id: claim for claim in self.claims}
        claims, notes = [], list(self.notes)
        for claim in paper.claims:
            old = measured.get(claim.id)
            try:
                claims.append(ClaimResult.of(claim) if old is None else ClaimResult.of(claim, old.value, old.spread))
            except (LookupError, TypeError):
                claims.append(ClaimResult.of(claim))
                notes.append(f"{claim.id} was measured ({old and old.value}) when it was declared otherwise; run again")
        return replace(self, claims=tuple(claims), notes=tuple(notes))


def claim_results(paper: Paper, trial: Trial) -> tuple[ClaimResult, ...]:
    """Every claim of the paper, with what the trial measured."""
    return tuple(
        ClaimResult.of(claim, trial.measurements.get(claim.id), trial.spreads.get(claim.id)) for claim in paper.claims
    )
