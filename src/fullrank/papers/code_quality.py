"""Assessing the Quality and Security of AI-Generated Code: A Quantitative Analysis (static quality of generated
code).
"""

from fullrank.papers import Claim, Paper

_SONAR = "SonarQube Enterprise and the answers of the five models"

PAPER = Paper(
    slug="code-quality",
    title="Assessing the Quality and Security of AI-Generated Code: A Quantitative Analysis",
    authors=3,
    published="2025-08-20",
    arxiv="2508.14727",
    position=14,
    topics=(
        "code",
        "language",
    ),
    summary=(
        "Five language models solve 4,442 Java tasks and everything they write goes through a full static "
        "analysis. Most findings are code smells, a few percent are bugs, about two percent vulnerabilities, "
        "and hard-coded passwords or path traversal appear with every model. The number of findings in "
        "solutions that pass their tests does not follow the pass rate."
    ),
    notes=(
        "The analyser is commercial; ours uses open linters with rules of the same kinds. Two secondary "
        "summaries disagree on several numbers. Five models cannot show the absence of a correlation: with rho "
        "= 0.6 the exact p-value is 0.35."
    ),
    claims=(
        Claim(
            id="pass-at-1",
            says=(
                "Pass@1, weighted: Claude Sonnet 4 77.04, Claude 3.7 Sonnet 72.46, GPT-4o 69.67 (or 70.54), "
                "Llama 3.2 90B 61.47 (or 64.12), OpenCoder-8B 60.43."
            ),
            source="secondary summaries, which differ",
            paper_value={
                "Claude Sonnet 4": 77.04,
                "Claude 3.7 Sonnet": 72.46,
                "GPT-4o": 69.67,
                "Llama 3.2 90B": 61.47,
                "OpenCoder-8B": 60.43,
            },
            unit="%",
            needs=_SONAR,
            confirmed=False,
        ),
        Claim(
            id="issues-per-task",
            says="Issues per passing task lie between 1.45 and 2.11, the best model having most.",
            source="secondary summaries",
            paper_value={
                "Claude Sonnet 4": 2.11,
                "Claude 3.7 Sonnet": 1.6,
                "GPT-4o": 1.77,
                "Llama 3.2 90B": 1.87,
                "OpenCoder-8B": 1.45,
            },
            unit="issues",
            needs=_SONAR,
            confirmed=False,
        ),
        Claim(
            id="blocker-vulnerabilities",
            says="Over half of the vulnerabilities are of the highest severity in every model.",
            source="secondary summaries",
            paper_value={"Claude Sonnet 4": 59.57, "Claude 3.7 Sonnet": 56.03, "GPT-4o": 62.5, "Llama 3.2 90B": 70.0},
            unit="%",
            needs=_SONAR,
            confirmed=False,
        ),
        Claim(
            id="humaneval",
            says="HumanEval: Claude Sonnet 4 95.57 %, Llama 3.2 90B 61.64 %.",
            source="secondary summaries",
            paper_value={"Claude Sonnet 4": 95.57, "Llama 3.2 90B": 61.64},
            unit="%",
            needs=_SONAR,
            confirmed=False,
        ),
        Claim(
            id="lines-of-code",
            says="The models wrote 120,288 to 370,816 lines for the same tasks.",
            source="recalled",
            paper_value={
                "Claude Sonnet 4": 370816,
                "Claude 3.7 Sonnet": 288126,
                "GPT-4o": 209994,
                "Llama 3.2 90B": 196927,
                "OpenCoder-8B": 120288,
            },
            unit="lines",
            needs=_SONAR,
            confirmed=False,
        ),
        Claim(
            id="shares-of-kinds",
            says="Over all models 90 to 93 % of the issues are code smells, 5 to 8 % bugs, about 2 % vulnerabilities.",
            source="secondary summaries",
            paper_value={"code smells": 91.5, "bugs": 6.5, "vulnerabilities": 2.0},
            unit="%",
            holds=lambda m: m["code smells"] > m["bugs"] > m["vulnerabilities"],
            confirmed=False,
        ),
        Claim(
            id="no-direct-correlation",
            says="How often code passes its tests says nothing about how many issues it has.",
            source="abstract",
            unit="Spearman rho",
            holds=lambda rho: abs(rho) < 0.4,
        ),
        Claim(
            id="blocker-bugs-grew",
            says="Blocker bugs grew by 93 % from Claude 3.7 Sonnet to Claude Sonnet 4.",
            source="secondary summary",
            paper_value=93.0,
            unit="%",
            needs=_SONAR,
            confirmed=False,
        ),
        Claim(
            id="five-models-are-too-few",
            says=(
                "The paper's five pairs give rho = 0.6 with exact two-sided p = 0.35: no evidence is not "
                "evidence of none."
            ),
            source="computed from the published pairs",
            unit="p",
            holds=lambda p: p > 0.05,
            kind="finding",
        ),
        Claim(
            id="security-density-rises",
            says=(
                "Findings about security per line do not fall with the pass rate; they rise, because better "
                "models write more code that touches risky interfaces."
            ),
            source="our pilot on ClassEval answers",
            unit="Spearman rho",
            holds=lambda rho: rho >= 0,
            kind="finding",
        ),
    ),
)
