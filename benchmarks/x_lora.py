"""X-LoRA: ours, PEFT's XLora and the plain base model, alternating in the same run.

Llama-shaped models with random weights and random experts on the query, value, gate, up and down projections, float32.
Training: one step (forward, backward, optimiser) of the gate with eight experts of rank 8. Generation: 128 tokens after
a prompt of 16, greedy, with four experts; PEFT's XLora has no cache. Targets: a training step in at most 0.75 of PEFT's
time (1.33x), generation at least 5 times faster than PEFT's and in at most 2.2 times the time of the cached base model.

    python benchmarks/x_lora.py
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, XLoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from _timing import Pairs, alternate, show
from fullrank.adapt import XLoraGateConfig, from_experts

PILOT = (96, 256, 3, 4)
SHAPES = {"d = 96, 3 layers": PILOT, "d = 384, 2 layers": (384, 1024, 2, 4)}
TARGETS = ["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]


def llama(hidden: int, intermediate: int, layers: int, heads: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1500, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, use_cache=False, initializer_range=0.1, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def experts(base: LlamaForCausalLM, count: int, folder: Path) -> dict[str, str]:
    """Checkpoints under the only names that PEFT's XLora takes."""
    places = {str(number): str(folder / str(number)) for number in range(count)}
    for place in places.values():
        config = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, init_lora_weights=False)
        get_peft_model(copy.deepcopy(base), config).save_pretrained(place)
    return places


def both(base: LlamaForCausalLM, count: int) -> tuple[Any, PeftModel]:
    """Ours and PEFT's, with the same weights."""
    with tempfile.TemporaryDirectory() as name:
        places = experts(base, count, Path(name))
        ours = from_experts(copy.deepcopy(base), places, XLoraGateConfig(), check_base=False)
        config = XLoraConfig(task_type="CAUSAL_LM", hidden_size=base.config.hidden_size, adapters=places)
        peer = get_peft_model(copy.deepcopy(base), config)
    gate: Any = peer.base_model.internal_xlora_classifier
    gate.layers[0].load_state_dict(ours.gate.output.state_dict())
    return ours, peer


def step(model: Any, optimizer: torch.optim.Optimizer, ids: Tensor) -> None:
    optimizer.zero_grad()
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
    optimizer.step()


def training() -> list[list[str]]:
    rows = []
    for name, shape in SHAPES.items():
        ours, peer = both(llama(*shape), 8)
        ids = torch.randint(1500, (8, 32), generator=torch.Generator().manual_seed(0))
        mine, theirs = (
            partial(step, model.train(), torch.optim.SGD((p for p in model.parameters() if p.requires_grad), 0.0), ids)
            for model in (ours, peer)
        )
        with torch.no_grad():
            error = float((ours(input_ids=ids).logits - peer(input_ids=ids).logits).abs().max())
        rows.append([name, *alternate(mine, theirs, pairs=7).cells(), f"{error:.1e}"])
    return rows


def generate(model: Any, ids: Tensor, use_cache: bool) -> Tensor:
    return model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=128, do_sample=False, use_cache=use_cache,
        pad_token_id=0,
    )  # fmt: skip


def generation() -> tuple[list[str], list[str]]:
    """Against PEFT's XLora, and against the base model."""
    ids = torch.randint(1500, (1, 16), generator=torch.Generator().manual_seed(0))
    base = llama(*PILOT).eval()
    ours, peer = both(base, 4)
    mine, theirs = partial(generate, ours.eval(), ids, True), partial(generate, peer.eval(), ids, False)
    same = f"{int((mine() == theirs()).sum())} of {mine().numel()}"
    against_peer = alternate(mine, theirs, pairs=3)
    return [*against_peer.cells(), same], slower(alternate(mine, partial(generate, base, ids, True), pairs=7))


def slower(pairs: Pairs) -> list[str]:
    shares = [1 / ratio for ratio in pairs.ratios]
    return [*pairs.cells()[:2], f"{statistics.median(shares):.2f}x", f"{min(shares):.2f}-{max(shares):.2f}"]


def main() -> None:
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    threads = torch.get_num_threads()
    columns = ["", "ours", "PEFT", "faster", "min-max"]
    show(f"training step, 8 experts, {threads} threads (target 1.33x)", [*columns, "logits differ by"], training())
    against_peer, against_base = generation()
    title = "d = 96, 3 layers"
    show("128 tokens, 4 experts, PEFT without cache (target 5x)", [*columns, "same tokens"], [[title, *against_peer]])
    show(
        "128 tokens, 4 experts, cached (target 2.2x)",
        ["", "ours", "base", "slower", "min-max"],
        [[title, *against_base]],
    )


if __name__ == "__main__":
    main()
