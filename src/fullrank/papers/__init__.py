"""The page as code: one file per paper, the study machinery, and the catalogue that discovers them."""

from fullrank.papers._paper import TOPICS, Claim, Measured, Paper, State, Verdict

__all__ = ["TOPICS", "Claim", "Measured", "Paper", "State", "Verdict"]
