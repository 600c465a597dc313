"""The configuration that every adapter shares: which layers, which biases, what is saved beside them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, ClassVar

from peft import PeftConfig

from fullrank._model_hub import know_compressed_layers
from fullrank.adapt._peft import add_peft_type, get_pattern_key


@dataclass
class DeltaConfig(PeftConfig):
    """Configuration of an adapter that changes weights by a `Delta`; the names are those of PEFT's LoRA.

    A method derives a dataclass from it, sets `method`, adds its own fields (each with a default), and validates them
    in `__post_init__` after calling this one.

    Args:
        target_modules: names or name endings of the layers to change, one regular expression for the full name, or
            "all-linear"; None takes the method's default for the model's architecture.
        exclude_modules: names, name endings or one regular expression of layers to leave alone.
        bias: which biases of the model are trained: "none" (default), "all", or "<method>_only" for those of the
            changed layers.
        modules_to_save: other modules to train in full and to save, such as a new head.
        layers_to_transform: indices of the blocks to change; default all.
        layers_pattern: name of the list of blocks that these indices count in.
        fan_in_fan_out: accepted for compatibility; how a layer stores its weight is known from its type.
        init_weights: False starts from a random change instead of none, for tests.

    Raises:
        ValueError: naming the field, the value and what is accepted.
        TypeError: the same, where a number or a dictionary is needed.
    """

    #: Name of the method in PEFT: lower case, the prefix of its tensors is `<method>_`.
    method: ClassVar[str]
    #: Fields that override another field for some layers: name of the pattern field -> the field that it overrides.
    patterns: ClassVar[dict[str, str]] = {}

    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    bias: str = "none"
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    fan_in_fan_out: bool = False
    init_weights: bool | str = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = add_peft_type(self.method.upper())
        if self.base_model_name_or_path:  # read from a checkpoint: AutoPeftModel loads the base next
            know_compressed_layers(self.base_model_name_or_path)
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        self._check_layers()
        self._check_patterns()

    def at(self, name: str) -> DeltaConfig:
        """The configuration of the layer `name`: the pattern fields that match it are applied."""
        changes: dict[str, Any] = {}
        for pattern in self.patterns:
            values = getattr(self, pattern)
            key = get_pattern_key(values, name)
            if key in values:
                changes |= self.override(pattern, values[key])
        return self._with(changes) if changes else self

    @property
    def keyed(self) -> tuple[str, ...]:
        """Names of the fields whose keys are names of layers."""
        return tuple(self.patterns)

    def override(self, pattern: str, value: Any) -> dict[str, Any]:
        """The fields that a value of the pattern field `pattern` sets, with their values."""
        return {self.patterns[pattern]: value}

    def _with(self, changes: dict[str, Any]) -> DeltaConfig:
        return replace(self, **{pattern: {} for pattern in self.patterns}, **changes)

    def _check_layers(self) -> None:
        biases = ("none", "all", f"{self.method}_only")
        if self.bias not in biases:
            raise ValueError(f"bias={self.bias!r}: use one of {', '.join(map(repr, biases))}")
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError(
                f"layers_to_transform={self.layers_to_transform} needs a list as target_modules, got the string "
                f"{self.target_modules!r}: pass a list, or write the indices into the expression"
            )
        if isinstance(self.target_modules, str) and self.layers_pattern:
            raise ValueError(
                f"layers_pattern={self.layers_pattern!r} needs a list as target_modules, got the string "
                f"{self.target_modules!r}: pass a list, or write the indices into the expression"
            )
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError(f"layers_pattern={self.layers_pattern!r} needs layers_to_transform: pass it as well")

    def _check_numbers(self) -> None:
        for field in fields(self):
            kinds, value = set(str(field.type).split(" | ")), getattr(self, field.name)
            if not {"float"} <= kinds <= {"int", "float", "None"} or (value is None and "None" in kinds):
                continue
            if not isinstance(value, Real):
                raise TypeError(f"{field.name}={value!r}: use a number{' or None' if 'None' in kinds else ''}")

    def _check_patterns(self) -> None:
        for pattern in self.patterns:
            values = getattr(self, pattern)
            if values is None:
                setattr(self, pattern, {})
            elif not isinstance(values, dict):
                raise TypeError(f"{pattern}={values!r}: use a dictionary, layer name -> {self.patterns[pattern]}")
        for pattern in self.patterns:
            for key, value in getattr(self, pattern).items():
                try:
                    self._with(self.override(pattern, value))
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{pattern}[{key!r}]={value!r}: {error}") from error
