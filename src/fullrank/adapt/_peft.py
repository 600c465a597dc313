"""What the room takes from PEFT beyond its public interface, in one place."""

from __future__ import annotations

import peft
from peft.tuners.tuners_utils import (
    BaseTuner,
    BaseTunerLayer,
    _get_in_out_features,
    check_adapters_to_merge,
    check_target_module_exists,
)
from peft.utils.other import AuxiliaryTrainingWrapper, get_pattern_key
from peft.utils.peft_types import PeftType

try:
    from peft.utils.quantization_utils import QuantizationBackend, resolve_quantization_backend
except ImportError as error:
    raise ImportError(f'peft {peft.__version__} is too old: pip install "peft>=0.21.2"') from error

__all__ = [
    "AuxiliaryTrainingWrapper",
    "BaseTuner",
    "BaseTunerLayer",
    "PeftType",
    "QuantizationBackend",
    "add_peft_type",
    "check_adapters_to_merge",
    "check_target_module_exists",
    "get_pattern_key",
    "in_out_features",
    "resolve_quantization_backend",
]

in_out_features = _get_in_out_features


def add_peft_type(name: str) -> PeftType:
    """The member `name` of PEFT's closed enumeration of methods, added where it is missing.

    PEFT, and transformers with it, look methods up by this member; a plain string fails where they ask for `.value`.

    Raises:
        ImportError: this Python's enumerations are built in another way than the known ones.
    """
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    known = {"_name_": name, "_value_": name, "__objclass__": PeftType, "_sort_order_": len(PeftType._member_names_)}
    for attribute, value in known.items():
        setattr(member, attribute, value)
    type.__setattr__(PeftType, name, member)
    PeftType._member_map_[name] = member
    PeftType._member_names_.append(name)
    PeftType._value2member_map_[name] = member
    getattr(PeftType, "_hashable_values_", []).append(name)  # newer Pythons
    if not (PeftType(name) is PeftType[name] is getattr(PeftType, name) is member and member.value == name):
        raise ImportError(f"PeftType of peft {peft.__version__} cannot be extended on this Python; please report it")
    return member
