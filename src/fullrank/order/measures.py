"""Measures of rankings by name: in the notation of ir-measures, `nDCG@10` or `AP(rel=2)@100`, or of trec_eval."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from fullrank.order import measure_formulas as formulas
from fullrank.order.judged_rankings import JudgedRankings

_NOTATION = re.compile(r"([A-Za-z_]+)(?:\(([^()]*)\))?(?:@([0-9.]+))?")
_TREC_CUT = re.compile(r"(\w+?)[_.]([0-9.]+)")
_PARAMETER = re.compile(r"\s*(\w+)\s*=\s*(?:'([^']*)'|\"([^\"]*)\"|([^\s,'\"]+))\s*")
Formula = Callable[..., Float[np.ndarray, " queries"]]


@dataclass(frozen=True)
class Kind:
    """A kind of measure.

    Attributes:
        formula: value of every query, from rankings, and by keyword from the parameters and `cutoff`.
        cutoff: "may", "must" or "never" be given; "recall" is a must between 0 and 1.
        parameters: name -> what reads it.
        total: whether queries are summed rather than averaged.
    """

    formula: Formula
    cutoff: str = "may"
    parameters: Mapping[str, Callable[[str], Any]] | None = None
    total: bool = False


def _level(text: str) -> int:
    return int(text)


def _gains(text: str) -> str:
    if text not in ("linear", "exp2"):
        raise ValueError(f"gains={text!r} is not known; accepted: linear (as trec_eval), exp2 (2^grade - 1)")
    return text


def _dcg(text: str) -> str:
    if text not in _IR_MEASURES_DCG:
        raise ValueError(f"dcg={text!r} is not known; accepted: {', '.join(_IR_MEASURES_DCG)}")
    return _IR_MEASURES_DCG[text]


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise ValueError(f"p={text} is not accepted; it lies between 0 and 1")
    return value


_IR_MEASURES_DCG = {"log2": "linear", "exp-log2": "exp2"}
# A parameter that ir-measures names otherwise -> ours.
_KEYWORDS = {"dcg": "gains"}
_REL = {"rel": _level}
_GAINS = {"gains": _gains, "dcg": _dcg}
KINDS: dict[str, Kind] = {
    "nDCG": Kind(formulas.ndcg, parameters=_GAINS),
    "DCG": Kind(formulas.dcg, parameters=_GAINS),
    "AP": Kind(formulas.average_precision, parameters=_REL),
    "RR": Kind(formulas.reciprocal_rank, parameters=_REL),
    "P": Kind(formulas.precision, "must", _REL),
    "R": Kind(formulas.recall, "must", _REL),
    "Success": Kind(formulas.success, "must", _REL),
    "Rprec": Kind(formulas.r_precision, "never", _REL),
    "Bpref": Kind(formulas.bpref, "never", _REL),
    "infAP": Kind(formulas.inferred_average_precision, "never", _REL),
    "IPrec": Kind(formulas.interpolated_precision, "recall", _REL),
    "SetP": Kind(formulas.set_precision, "never", _REL),
    "SetR": Kind(formulas.set_recall, "never", _REL),
    "SetF": Kind(formulas.set_f, "never", _REL | {"beta": float}),
    "ERR": Kind(formulas.expected_reciprocal_rank),
    "RBP": Kind(formulas.rank_biased_precision, parameters=_REL | {"p": _share}),
    "Judged": Kind(formulas.judged_share),
    "NumRet": Kind(formulas.retrieved_count, "never", total=True),
    "NumRel": Kind(formulas.relevant_count, "never", _REL, total=True),
    "NumRelRet": Kind(formulas.relevant_retrieved_count, "never", _REL, total=True),
    "NumQ": Kind(formulas.query_count, "never", total=True),
}
_SYNONYMS = {"NDCG": "nDCG", "MAP": "AP", "MRR": "RR", "Precision": "P", "Recall": "R", "BPref": "Bpref"}
_TREC_NAMES = {
    "map": "AP",
    "ndcg": "nDCG",
    "recip_rank": "RR",
    "bpref": "Bpref",
    "infAP": "infAP",
    "Rprec": "Rprec",
    "set_P": "SetP",
    "set_recall": "SetR",
    "set_F": "SetF",
    "num_ret": "NumRet",
    "num_rel": "NumRel",
    "num_rel_ret": "NumRelRet",
    "num_q": "NumQ",
}
_TREC_CUTS = {
    "map_cut": "AP",
    "ndcg_cut": "nDCG",
    "P": "P",
    "recall": "R",
    "success": "Success",
    "iprec_at_recall": "IPrec",
}


@dataclass(frozen=True)
class Measure:
    """A measure of rankings.

    Attributes:
        name: as it was written.
        kind: what is measured.
        cutoff: rank down to which, or level of recall; None for all.
        options: parameters by name.
    """

    name: str
    kind: Kind
    cutoff: int | float | None
    options: tuple[tuple[str, Any], ...]

    def values(self, rankings: JudgedRankings) -> Float[np.ndarray, " queries"]:
        """The measure of every query."""
        cut = {} if self.cutoff is None else {"cutoff": self.cutoff}
        return np.asarray(self.kind.formula(rankings, **cut, **dict(self.options)), dtype=np.float64)


def parse_measure(name: str) -> Measure:
    """A measure by its name.

    Args:
        name: `nDCG@10`, `nDCG(gains='exp2')@10` (or `nDCG(dcg='exp-log2')@10`, as ir-measures writes it),
            `AP(rel=2)`, `RR@10`, `P@5`, `R@100`, `Success@1`, `Rprec`, `Bpref`, `infAP`, `IPrec@0.1`, `ERR@20`,
            `RBP(p=0.8)` (of relevance by the threshold rel=1, not of grades), `Judged@10`, `NumRet`, ...; or
            trec_eval's `map`, `ndcg_cut_10` (or `ndcg_cut.10`), `recip_rank`, `P_10`, `recall_100`.

    Raises:
        ValueError: an unknown name; a parameter that is unknown or given twice; or a cut-off that is missing, out of
            place or out of range.
    """
    written = name if name in KINDS else _from_trec(name)
    matched = _NOTATION.fullmatch(written.strip())
    if matched is None:
        raise ValueError(f"measure {name!r} cannot be read; write it like nDCG@10, AP(rel=2)@100 or ndcg_cut_10")
    base, given, cut = matched.groups()
    base = _SYNONYMS.get(base, base)
    if base not in KINDS:
        near = difflib.get_close_matches(base, [*KINDS, *_TREC_NAMES], 3, 0.5)
        said = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(KINDS)}"
        raise ValueError(f"measure {name!r} is not known; {said}")
    kind = KINDS[base]
    try:
        return Measure(name, kind, _cutoff(kind, cut), _options(kind, given or ""))
    except ValueError as error:
        raise ValueError(f"measure {name!r}: {error}") from error


def _from_trec(name: str) -> str:
    """A name of trec_eval in the other notation; any other as it is."""
    if name in _TREC_NAMES:
        return _TREC_NAMES[name]
    matched = _TREC_CUT.fullmatch(name)
    return f"{_TREC_CUTS[matched[1]]}@{matched[2]}" if matched and matched[1] in _TREC_CUTS else name


def _cutoff(kind: Kind, text: str | None) -> int | float | None:
    if text is None:
        if kind.cutoff in ("must", "recall"):
            raise ValueError("a cut-off is needed, such as " + ("@0.1" if kind.cutoff == "recall" else "@10"))
        return None
    if kind.cutoff == "never":
        raise ValueError(f"it has no cut-off, @{text} was given")
    if kind.cutoff == "recall":
        level = float(text)
        if not 0 <= level <= 1:
            raise ValueError(f"@{text} is no level of recall; it lies between 0 and 1")
        return level
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"@{text} is no cut-off; a whole number of at least 1 is needed")
    return int(text)


def _options(kind: Kind, text: str) -> tuple[tuple[str, Any], ...]:
    known = kind.parameters or {}
    found: dict[str, Any] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        matched = _PARAMETER.fullmatch(part)
        if matched is None or matched[1] not in known:
            raise ValueError(f"parameter {part!r} is not known; accepted: {', '.join(known) or 'none'}")
        keyword = _KEYWORDS.get(matched[1], matched[1])
        if keyword in found:
            raise ValueError(f"{part} is given twice")
        value = next(group for group in matched.groups()[1:] if group is not None)
        try:
            found[keyword] = known[matched[1]](value)
        except ValueError as error:
            raise ValueError(f"{part}: {error}") from error
    return tuple(found.items())
