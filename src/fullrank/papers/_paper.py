"""What a paper file declares: the paper's facts, its claims, and its study."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from importlib import import_module, util
from typing import Any, Literal

from fullrank.papers._trial import Measured, Stated, Trial

Verdict = Literal["reproduced", "not reproduced", "not measured"]
Mode = Literal["hybrid", "keyword", "semantic"]
State = Literal["reproduced", "partly reproduced", "not reproduced", "not run", "not built yet"]

TOPICS = (
    "attention",
    "adapters",
    "compression",
    "optimisation",
    "measurement",
    "explanation",
    "retrieval",
    "learning to rank",
    "vision",
    "language",
    "biosignals",
    "pathology",
    "remote sensing",
    "interfaces",
    "causality",
    "code",
)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One checkable statement of a paper, or a finding of ours that stands beside it.

    Args:
        id: short name in kebab-case, unique within the paper.
        says: the statement, in our words, one sentence.
        source: where the paper says it: "abstract", "Table 2", "official README". For a finding: what showed it.
        paper_value: the number the paper prints; several numbers by name; None where the claim is in words only.
        unit: unit of `paper_value` and of what is measured ("%", "points", "ratio"); empty for plain numbers.
        holds: predicate over what the study measures for this claim. The verdict is always computed with it.
        needs: what a test would need that is not at hand ("ImageNet-1k and 8 GPUs"). The claim stays listed as
            "not measured" with this reason.
        confirmed: False where the number was recalled or read in a secondary source, not in the paper itself.
        kind: "paper" for a statement of the authors; "finding" for one of ours (a confound, a bug behind a gap).

    Raises:
        ValueError: the claim can neither be tested (`holds`) nor says why it cannot (`needs`), or the id is malformed.
    """

    id: str
    says: str
    source: str
    paper_value: Stated | None = None
    unit: str = ""
    holds: Callable[[Any], bool] | None = None
    needs: str | None = None
    confirmed: bool = True
    kind: Literal["paper", "finding"] = "paper"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.id):
            raise ValueError(f"id={self.id!r}: a claim's id is kebab-case, such as 'top1-imagenet'")
        if self.holds is None and not self.needs:
            raise ValueError(f"claim {self.id!r}: give `holds` (a predicate) or `needs` (why it cannot be tested here)")

    def verdict(self, value: Measured | None) -> Verdict:
        """The computed verdict on a measured value; "not measured" where there is none or nothing to test it with."""
        if value is None or self.holds is None:
            return "not measured"
        return "reproduced" if self.holds(value) else "not reproduced"


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One paper of the page: facts, claims, and (once its method is built) a study.

    Args:
        slug: short name, as in `fullrank run SLUG`.
        title: the title as published.
        authors: how many authors, or None where the page does not say.
        published: ISO date of the first version, or None where the page does not say.
        arxiv: arXiv identifier without version.
        position: place in the page's order, from 0.
        repository: the authors' code, or None.
        project_page: the authors' page about the paper, or None.
        venue: where it was published ("ICML 2023"), or None if only on arXiv or unknown.
        comments: comment count shown on the page, or None.
        topics: some of `TOPICS`.
        summary: what it says, in our words, three sentences at most.
        methods: dotted names of what we implement ("fullrank.spectra.rankme"); empty while nothing is built.
        usage: a short runnable example with our implementation; empty while nothing is built.
        notes: how our implementation relates to paper and code where they differ, in a few sentences.
        extra: the optional dependency group its study needs ("search"), or None.
        claims: every claim of the paper, and our findings.
    """

    slug: str
    title: str
    authors: int | None
    published: str | None
    arxiv: str
    position: int
    summary: str
    topics: tuple[str, ...]
    claims: tuple[Claim, ...]
    repository: str | None = None
    project_page: str | None = None
    venue: str | None = None
    comments: int | None = None
    methods: tuple[str, ...] = ()
    usage: str = ""
    notes: str = ""
    extra: str | None = None
    _study: list[Callable[[Trial], None]] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        if unknown := set(self.topics) - set(TOPICS):
            raise ValueError(f"topics={sorted(unknown)} of {self.slug!r} are not known; accepted: {', '.join(TOPICS)}")
        ids = [claim.id for claim in self.claims]
        if twice := sorted({id for id in ids if ids.count(id) > 1}):
            raise ValueError(f"{self.slug!r} has two claims named {twice[0]!r}; a claim's id is unique in its paper")
        if self.published is not None:
            date.fromisoformat(self.published)

    def study(self, function: Callable[[Trial], None]) -> Callable[[Trial], None]:
        """Decorator: the function that measures this paper's claims."""
        if self._study:
            raise ValueError(f"{self.slug!r} has a study already: {self._study[0].__qualname__}")
        self._study.append(function)
        return function

    @property
    def built(self) -> bool:
        """Whether the method is implemented and its study can run."""
        return bool(self._study)

    @property
    def run_study(self) -> Callable[[Trial], None]:
        """The study itself.

        Raises:
            LookupError: the paper's method is not built yet.
        """
        if not self._study:
            raise LookupError(f"{self.slug!r} is not built yet: it has facts and claims, but no study to run")
        return self._study[0]

    @property
    def module(self) -> str:
        """Dotted name of the paper's file."""
        return f"fullrank.papers.{self.slug.replace('-', '_')}"

    def claim(self, id: str) -> Claim:
        """The claim of that id.

        Raises:
            LookupError: the paper has no such claim.
        """
        for claim in self.claims:
            if claim.id == id:
                return claim
        raise LookupError(f"{self.slug!r} has no claim {id!r}; it has {', '.join(claim.id for claim in self.claims)}")

    def state(self, verdicts: Mapping[str, Verdict] | None) -> State:
        """One word for the paper, computed from the verdicts of its latest result (None: it was never run)."""
        if not self.built:
            return "not built yet"
        measured = {verdict for verdict in (verdicts or {}).values() if verdict != "not measured"}
        if not measured:
            return "not run"
        if measured == {"reproduced"}:
            return "reproduced"
        return "partly reproduced" if "reproduced" in measured else "not reproduced"

    def missing_methods(self) -> list[str]:
        """Names in `methods` that do not exist: empty in a sound installation (a test holds every paper to it)."""
        return [name for name in self.methods if not _exists(name)]


def _exists(dotted: str) -> bool:
    module, _, attribute = dotted.rpartition(".")
    if util.find_spec(module) is None:
        return False
    return hasattr(import_module(module), attribute)
