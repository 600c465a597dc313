"""Evolution Strategies at the Hyperscale (EGGROLL)."""

from fullrank.papers import Claim, Paper

_SCALE = "an H100-class GPU"
_RWKV = "RWKV-7 weights and a cluster"

PAPER = Paper(
    slug="eggroll",
    title="Evolution Strategies at the Hyperscale",
    authors=16,
    published="2025-11-20",
    arxiv="2511.16652",
    position=19,
    repository="https://github.com/ESHyperscale/HyperscaleES",
    topics=("optimisation",),
    summary=(
        "Evolution strategies need a full noise matrix per member of the population; EGGROLL uses a product of "
        "two thin random matrices instead, so a forward pass costs little more than inference. The averaged "
        "update is still high-rank and approaches the full one at rate one over r. It trains agents, tunes "
        "language models against GRPO and pretrains an integer-only recurrent model without back-propagation."
    ),
    notes=(
        "Noise can be stored or regenerated from a counter; the published throughput is for stored noise. The "
        "update's bias falls as 1/r, not its variance."
    ),
    claims=(
        Claim(
            id="throughput",
            says="An 8192-wide bf16 layer runs at 91 % of pure batched inference, OpenES at 0.41 %, PPO at 34 %.",
            source="authors' posts and abstract of version 2",
            paper_value={"OpenES": 0.41, "PPO": 34.0, "EGGROLL": 91.0},
            unit="%",
            needs=_SCALE,
        ),
        Claim(
            id="throughput-regenerated",
            says="With regenerated noise about 69 %.",
            source="recalled",
            paper_value={"EGGROLL": 69.0, "OpenES": 0.05},
            unit="%",
            needs=_SCALE,
            confirmed=False,
        ),
        Claim(
            id="speed-up",
            says="Evolution strategies for models of a billion parameters run about 100 times faster than naively.",
            source="abstract of version 2",
            paper_value=100.0,
            unit="x",
            holds=lambda ratio: ratio >= 50,
        ),
        Claim(
            id="rl-tasks",
            says="On 16 reinforcement learning tasks: 7 ties, 7 better, 2 worse than OpenES.",
            source="authors' post",
            paper_value={"ties": 7, "better": 7, "worse": 2},
            unit="tasks",
            needs="the 16 JAX environments and a GPU",
        ),
        Claim(
            id="countdown",
            says="RWKV-7 1.5B on Countdown: 35 % validation accuracy, GRPO 23 %.",
            source="authors' post",
            paper_value={"GRPO": 23.0, "EGGROLL": 35.0},
            unit="%",
            needs=_RWKV,
        ),
        Claim(
            id="reasoning-14b",
            says="RWKV-7 14B after 12 hours on 32 GPUs: AIME24 13 to 30 %, AIME25 7 to 33 %, HMMT25 11 to 13 %.",
            source="secondary source",
            paper_value={
                "AIME24": 30.0,
                "AIME25": 33.0,
                "HMMT25": 13.0,
                "AIME24 before": 13.0,
                "AIME25 before": 7.0,
                "HMMT25 before": 11.0,
            },
            unit="%",
            needs=_RWKV,
            confirmed=False,
        ),
        Claim(
            id="convergence-in-rank",
            says="The low-rank update approaches the full-rank one at rate 1/r.",
            source="abstract",
            holds=lambda m: abs(m["bias x r"] - 2) <= 3 * m["standard error"],
        ),
        Claim(
            id="int8-pretraining",
            says="A language model trains in int8 with populations up to 262,144.",
            source="authors' post",
            paper_value=262144,
            unit="members",
            needs=_SCALE,
        ),
        Claim(
            id="int8-learns",
            says=(
                "Integer-only training lowers validation bits below the unigram entropy, further with larger "
                "populations."
            ),
            source="the int8 experiment, at small scale",
            unit="bits per byte",
            holds=lambda m: m["512 members"] < m["unigram"] and m["4096 members"] < m["512 members"] < m["64 members"],
        ),
        Claim(
            id="rank-1-is-enough",
            says="On a small network rank 1 and rank 4 end within 2 points of full-rank evolution strategies.",
            source="premise of the method",
            unit="points",
            holds=lambda m: m["full rank"] - min(m["rank 1"], m["rank 4"]) <= 2 and min(m.values()) > 90,
        ),
    ),
)
