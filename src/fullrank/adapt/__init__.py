"""Fine-tuning in low rank: PEFT tuners, and the base to write one's own with.

Importing this room makes every method below known to the installed PEFT. Import it before loading a checkpoint of one
of them: `PeftModel.from_pretrained` does not know where a method comes from.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fullrank._optional import require

require("peft", "adapt")

from fullrank.adapt.config import DeltaConfig  # noqa: E402
from fullrank.adapt.delta import Delta, FrozenLayer  # noqa: E402
from fullrank.adapt.hydra import (  # noqa: E402
    BranchAlignment,
    HydraConfig,
    HydraLayer,
    HydraLinear,
    HydraModel,
    branch_alignment,
    hydra_delta,
)
from fullrank.adapt.lamda import LamdaConfig, LamdaLayer, LamdaLinear, LamdaModel, freeze_step  # noqa: E402
from fullrank.adapt.lamda_freezing import frozen_columns  # noqa: E402
from fullrank.adapt.lamda_ranks import allocate_ranks, captured_energy, default_candidates  # noqa: E402
from fullrank.adapt.lamda_report import (  # noqa: E402
    LayerParameters,
    LayerRank,
    lamda_parameter_groups,
    lamda_parameter_table,
    lamda_rank_report,
)
from fullrank.adapt.layer import DeltaLayer  # noqa: E402
from fullrank.adapt.loca import LocaConfig, LocaLayer, LocaLinear, LocaModel, LocaReport  # noqa: E402
from fullrank.adapt.loca_schedule import LocaCallback, loca_param_groups, update_schedule  # noqa: E402
from fullrank.adapt.loca_series import loca_delta, locate  # noqa: E402
from fullrank.adapt.loldu import (  # noqa: E402
    LoLDUConfig,
    LoLDUFactors,
    LoLDULayer,
    LoLDULinear,
    LoLDUModel,
    loldu_delta,
    loldu_factors,
    loldu_parameter_groups,
)
from fullrank.adapt.owlora import OWLoRAConfig, OWLoraConfig, OwloraConfig  # noqa: E402
from fullrank.adapt.owlora_tasks import OWLoRALayer, OWLoRALinear, OWLoRAModel, load_tasks  # noqa: E402
from fullrank.adapt.registration import register  # noqa: E402
from fullrank.adapt.tuner import DeltaModel  # noqa: E402
from fullrank.adapt.wara import (  # noqa: E402
    WaraConfig,
    WaraLayer,
    WaraLinear,
    WaraModel,
    is_degenerate,
)
from fullrank.adapt.wara_grid import analysis_matrix, dwt2_grid, expand_to_weight, idwt2_grid  # noqa: E402
from fullrank.adapt.x_lora import XLoraModel, add_xlora, from_experts  # noqa: E402
from fullrank.adapt.x_lora_cache import XLoraCache  # noqa: E402
from fullrank.adapt.x_lora_gate import XLoraGate, XLoraGateConfig  # noqa: E402
from fullrank.tasks import Examples, load_examples  # noqa: E402

if TYPE_CHECKING:
    from fullrank.adapt.adapter_comparison import AdapterComparison, compare_adapters
    from fullrank.adapt.fine_tuning import AdaptReport, FineTuned, fine_tune
    from fullrank.adapt.lamda_callback import LamdaCallback
    from fullrank.adapt.memory import TrainingMemory, training_memory
    from fullrank.adapt.methods import METHODS, AdapterMethod, adapter_method, size_for_budget, trainable_parameters
    from fullrank.adapt.owlora_callback import OWLoRACallback, OWLoraCallback
    from fullrank.adapt.training import TrainingRecord, TrainingSettings, train

__all__ = [
    "AdaptReport",
    "AdapterComparison",
    "AdapterMethod",
    "Examples",
    "FineTuned",
    "METHODS",
    "TrainingMemory",
    "TrainingRecord",
    "TrainingSettings",
    "adapter_method",
    "compare_adapters",
    "fine_tune",
    "load_examples",
    "size_for_budget",
    "train",
    "trainable_parameters",
    "training_memory",
    "BranchAlignment",
    "Delta",
    "DeltaConfig",
    "DeltaLayer",
    "DeltaModel",
    "FrozenLayer",
    "HydraConfig",
    "HydraLayer",
    "HydraLinear",
    "HydraModel",
    "LocaCallback",
    "LocaConfig",
    "LocaLayer",
    "LocaLinear",
    "LocaModel",
    "LocaReport",
    "LamdaCallback",
    "LamdaConfig",
    "LamdaLayer",
    "LamdaLinear",
    "LamdaModel",
    "LayerParameters",
    "LayerRank",
    "WaraConfig",
    "WaraLayer",
    "WaraLinear",
    "WaraModel",
    "XLoraCache",
    "XLoraGate",
    "XLoraGateConfig",
    "XLoraModel",
    "add_xlora",
    "analysis_matrix",
    "LoLDUConfig",
    "LoLDUFactors",
    "LoLDULayer",
    "LoLDULinear",
    "LoLDUModel",
    "OWLoRACallback",
    "OWLoRAConfig",
    "OWLoRALayer",
    "OWLoRALinear",
    "OWLoRAModel",
    "OWLoraCallback",
    "OWLoraConfig",
    "OwloraConfig",
    "branch_alignment",
    "dwt2_grid",
    "expand_to_weight",
    "from_experts",
    "hydra_delta",
    "idwt2_grid",
    "is_degenerate",
    "loldu_delta",
    "loldu_factors",
    "loldu_parameter_groups",
    "loca_delta",
    "loca_param_groups",
    "locate",
    "allocate_ranks",
    "captured_energy",
    "default_candidates",
    "freeze_step",
    "frozen_columns",
    "lamda_parameter_groups",
    "lamda_parameter_table",
    "lamda_rank_report",
    "load_tasks",
    "register",
    "update_schedule",
]


#: Names that load with their first use: transformers' trainer is not needed to adapt a model.
_LATER = {
    "LamdaCallback": "lamda_callback",
    "OWLoRACallback": "owlora_callback",
    "OWLoraCallback": "owlora_callback",
    "METHODS": "methods",
    "AdapterMethod": "methods",
    "adapter_method": "methods",
    "size_for_budget": "methods",
    "trainable_parameters": "methods",
    "TrainingMemory": "memory",
    "training_memory": "memory",
    "TrainingRecord": "training",
    "TrainingSettings": "training",
    "train": "training",
    "AdaptReport": "fine_tuning",
    "FineTuned": "fine_tuning",
    "fine_tune": "fine_tuning",
    "AdapterComparison": "adapter_comparison",
    "compare_adapters": "adapter_comparison",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"fullrank.adapt.{_LATER[name]}"), name)
