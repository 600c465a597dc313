"""The life of OWLoRA's tasks on a model: added, trained, resumed, measured, exported, loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftModel
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from fullrank.adapt._peft import AuxiliaryTrainingWrapper
from fullrank.adapt.layer import DeltaLayer
from fullrank.adapt.owlora import OWLoRAConfig, OWLoRADelta
from fullrank.adapt.owlora_projection import Directions
from fullrank.adapt.owlora_steps import register_hooks
from fullrank.adapt.registration import register
from fullrank.adapt.tuner import DeltaModel

#: Fields that all tasks of a model share with the first.
_OF_THE_MODEL = ("energy", "rank_rule", "basis", "basis_seed", "keep_residual", "earlier")


class OWLoRATuner(DeltaModel):
    """The tuner of OWLoRA: every task is a named adapter, and all of them add up.

        model = get_peft_model(model, OWLoRAConfig(r=8, target_modules=["query", "value"]), adapter_name="breast")
        ...                                   # train it
        model.add_task("colon")               # freezes "breast", adds a branch that stays out of it
        optimizer = AdamW(p for p in model.parameters() if p.requires_grad)
        model.register_step_hooks(optimizer)  # projects at every step
        (loss + model.orthogonal_penalty()).backward()

    An adapter that is added by PEFT's own `add_adapter` follows nobody: it is an alternative, not a task.
    """

    @property
    def tasks(self) -> list[str]:
        """Names of all tasks, in their order."""
        return list(self.peft_config)

    def add_task(self, name: str, **options: Any) -> None:
        """Add the branch of a new task to every targeted layer, freeze all earlier ones, and activate the sum.

        Args:
            name: of the task.
            options: fields of `OWLoRAConfig` that differ from those of the task before, such as `r`.

        Raises:
            ValueError: the name is taken, an option belongs to the model and not to a task, or layers have no room:
                k + sum r > min(in, out). The model is left as it was.
        """
        if name in self.peft_config:
            raise ValueError(
                f"there is a task {name!r} already: choose another name, or call resume_task({name!r}) to train it on"
            )
        fixed = [option for option in _OF_THE_MODEL if option in options]
        if fixed:
            raise ValueError(f"{', '.join(fixed)}: the first task has set this for the whole model; leave it out")
        before = cast(OWLoRAConfig, self.peft_config[self.tasks[-1]])
        self.peft_config[name] = replace(before, earlier=self.tasks, inference_mode=False, **options)
        try:
            self.inject_adapter(self.model, name)
        except Exception:
            self.delete_adapter(name)
            raise
        self._cast_adapter_dtype(name)
        self._train(name)

    def resume_task(self, name: str) -> None:
        """Train a task on, with all the others frozen; it stays out of them, the later ones included.

        Optimisers that were made before have to be made again.

        Raises:
            ValueError: no such task.
        """
        if name not in self.peft_config:
            raise ValueError(f"there is no task {name!r}: the model has {', '.join(map(repr, self.tasks))}")
        for layer in layers_of(self):
            if name in layer.deltas:
                others = [task for task in layer.deltas if task != name]
                cast(OWLoRADelta, layer.deltas[name]).others = tuple(cast(Any, layer._present(others)))
        self._train(name)

    def orthogonal_penalty(self) -> Float[Tensor, ""]:
        """The sum over layers of lambda (||D D^T - I||_F^2 + ||U^T U - I||_F^2) / r^2, to be added to the loss.

        Raises:
            ValueError: no task is trained.
        """
        return torch.stack([branch.penalty() for branch in trained_branches(self)]).sum()

    def project_gradients(self) -> None:
        """Take the directions of other tasks out of the gradients; call it between `backward()` and `step()`.

        Raises:
            ValueError: no task is trained.
        """
        for branch in trained_branches(self):
            branch.project_gradients()

    def project_parameters(self) -> None:
        """Take the directions of other tasks out of the branch (projection "exact"); call it after `step()`.

        Raises:
            ValueError: no task is trained.
        """
        for branch in trained_branches(self):
            branch.project_parameters()

    def register_step_hooks(self, optimizer: torch.optim.Optimizer) -> tuple[RemovableHandle, RemovableHandle]:
        """Let the optimiser project gradients before and parameters after each of its steps.

        Its first step raises RuntimeError if it does not hold the branch that is trained, because it was made before
        `add_task`.

        Returns:
            Handles that remove the two hooks.
        """
        return register_hooks(optimizer, lambda: trained_branches(self))

    def interference(self) -> dict[str, float]:
        """Layer name -> the largest |cos| between directions of two tasks, W0's principal part counted as one."""
        return {
            name: max(delta.interference() for delta in deltas) for name, deltas in self._deltas_of_layers().items()
        }

    def capacity(self) -> dict[str, int]:
        """Layer name -> how many directions are free for tasks to come: min(in, out) - k - sum r."""
        return {name: deltas[-1].free for name, deltas in self._deltas_of_layers().items()}

    @torch.no_grad()
    def to_lora(self) -> tuple[LoraConfig, dict[str, Tensor]]:
        """The active branches side by side as one LoRA adapter of rank sum r, exactly: scale 1.

        Without `keep_residual` its rank also holds what was cut off W0.

        Returns:
            (config, tensors), as `peft.convert_to_lora` returns them: `get_peft_model` takes the config,
            `set_peft_model_state_dict` the tensors.
        """
        ranks, tensors = {}, {}
        for layer in layers_of(self):
            deltas = [cast(OWLoRADelta, delta) for delta in layer._present(self.active_adapters)]
            if not deltas:
                continue
            lora_A, lora_B = Directions.joined(Directions(*delta.factors()) for delta in deltas)
            name = deltas[0].base.name
            ranks[name] = len(lora_A)
            tensors[f"base_model.model.{name}.lora_A.weight"] = lora_A
            tensors[f"base_model.model.{name}.lora_B.weight"] = lora_B
        patterns = {f"^{re.escape(name)}": rank for name, rank in ranks.items()}
        config = LoraConfig(
            target_modules="|".join(re.escape(name) for name in ranks),
            rank_pattern=patterns,
            alpha_pattern=dict(patterns),
            fan_in_fan_out=any(isinstance(layer.get_base_layer(), Conv1D) for layer in layers_of(self)),
        )
        return config, tensors

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Activate tasks; of a module that several of them have a copy of (`modules_to_save`) the last one's is used.

        Raises:
            ValueError: adapters that do not follow one another have copies of one module.
        """
        names = [adapter_name] if isinstance(adapter_name, str) else adapter_name
        if not self._follow(names):
            super().set_adapter(adapter_name, inference_mode)
            return
        super().set_adapter(names[-1:], inference_mode)
        for layer in layers_of(self):
            layer.set_adapter(names, inference_mode)
        for module in self.model.modules():
            if isinstance(module, AuxiliaryTrainingWrapper):
                *_, last = [None, *(name for name in names if name in module._adapters)]
                if last not in (None, names[-1]):
                    module.set_adapter(last, inference_mode=True)  # of a task that is over
        self.active_adapter = adapter_name

    def _follow(self, names: list[str]) -> bool:
        """Whether one of these adapters is a task after another of them."""
        configs = (cast(OWLoRAConfig, self.peft_config[name]) for name in names if name in self.peft_config)
        return any(earlier in names for config in configs for earlier in config.earlier)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete a task that no later one follows.

        Raises:
            ValueError: no such task, or a later one stays out of its directions.
        """
        followers = [task for task, config in self.peft_config.items() if adapter_name in cast(Any, config).earlier]
        if followers:
            raise ValueError(
                f"{', '.join(map(repr, followers))} were trained beside {adapter_name!r}: delete them first, the last "
                "one first, or leave a task out with set_adapter"
            )
        super().delete_adapter(adapter_name)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add a task to the layers, if they have room for it and the tasks that it follows; called by PEFT."""
        config = cast(OWLoRAConfig, self.peft_config[adapter_name])
        missing = [task for task in config.earlier if task not in self.peft_config]
        if missing:
            raise ValueError(
                f"task {adapter_name!r} follows {', '.join(map(repr, missing))}, which the model does not have: load "
                "the tasks in their order, or all of them with load_tasks(model, folder)"
            )
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        if config.projection in ("exact", "gradient"):
            self._require_room(adapter_name, config)

    def _create_and_replace(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, peft_config: OWLoRAConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module,
        current_key: str, **kwargs: Any,
    ) -> None:  # fmt: skip
        super()._create_and_replace(peft_config, adapter_name, target, target_name, parent, current_key, **kwargs)
        layer = cast(DeltaLayer, getattr(parent, target_name))
        earlier = [cast(OWLoRADelta, delta) for delta in layer._present(peft_config.earlier)]
        cast(OWLoRADelta, layer.deltas[adapter_name]).follow(tuple(earlier))

    def _require_room(self, name: str, config: OWLoRAConfig) -> None:
        full = [delta for delta in self.deltas(name) if cast(OWLoRADelta, delta).free < 0]
        if not full:
            return
        layers = ", ".join(
            f"{delta.base.name!r} ({delta.free + delta.config.r} of "
            f"{min(delta.base.out_features, delta.base.in_features)} free, rank {delta.config.r})"
            for delta in cast(list[OWLoRADelta], full)
        )
        raise ValueError(
            f"task {name!r} has no room in {layers}: lower r, set r_pattern for these layers, or start with a lower "
            f"energy than {config.energy}"
        )

    def _train(self, name: str) -> None:
        for layer in layers_of(self):
            for task, delta in layer.deltas.items():
                cast(OWLoRADelta, delta).frozen = task != name
        self.set_adapter([*(task for task in self.tasks if task != name), name])

    def _deltas_of_layers(self) -> dict[str, list[OWLoRADelta]]:
        found: dict[str, list[OWLoRADelta]] = {}
        for delta in self.deltas():
            found.setdefault(delta.base.name, []).append(cast(OWLoRADelta, delta))
        return found


OWLoRAModel = cast(
    type[OWLoRATuner],
    register(OWLoRAConfig, OWLoRADelta, targets=TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, model=OWLoRATuner),
)
OWLoRALayer = OWLoRAModel.tuner_layer_cls
OWLoRALinear = OWLoRAModel.layer_types[nn.Linear]


def layers_of(model: nn.Module) -> Iterator[DeltaLayer]:
    """Every OWLoRA layer of a model."""
    return (cast(DeltaLayer, module) for module in model.modules() if isinstance(module, OWLoRALayer))


def trained_branches(model: nn.Module) -> list[OWLoRADelta]:
    """The branches of the task that is trained, one per layer.

    Raises:
        ValueError: there is none.
    """
    deltas = (cast(OWLoRADelta, delta) for layer in layers_of(model) for delta in layer.deltas.values())
    found = [delta for delta in deltas if delta.D.requires_grad]
    if not found:
        raise ValueError("no task of OWLoRA is trained: call add_task(name), or resume_task(name) for an earlier one")
    return found


def load_tasks(model: nn.Module, folder: str | Path, is_trainable: bool = False) -> PeftModel:
    """All tasks that `save_pretrained(folder)` wrote, in their order, with the sum of them active.

    Args:
        model: the base model.
        folder: the folder.
        is_trainable: train the last task on. Default False.

    Raises:
        FileNotFoundError: there is no task of OWLoRA in the folder.
    """
    root, earlier = Path(folder), {}
    for file in (*root.glob("adapter_config.json"), *root.glob("*/adapter_config.json")):
        saved = json.loads(file.read_text())
        if saved["peft_type"] == OWLoRAConfig.method.upper():
            earlier[file.parent] = saved["earlier"]
    if not earlier:
        raise FileNotFoundError(f"{folder} holds no task of OWLoRA: give the folder that save_pretrained(folder) wrote")
    names = {place: "default" if place == root else place.name for place in earlier}
    first, *rest = sorted(earlier, key=lambda place: len(earlier[place]))
    loaded = PeftModel.from_pretrained(model, first, adapter_name=names[first])
    for place in rest:
        loaded.load_adapter(place, adapter_name=names[place])
    tuner = cast(OWLoRATuner, loaded.base_model)
    tuner.set_adapter(tuner.tasks, inference_mode=True)
    if is_trainable:
        tuner.resume_task(tuner.tasks[-1])
    return loaded
