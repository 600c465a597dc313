"""Fine-tuning in low rank: PEFT tuners, and the base to write one's own with.

Importing this room makes every method below known to the installed PEFT. Import it before loading a checkpoint of one
of them: `PeftModel.from_pretrained` does not know where a method comes from.
"""

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
from fullrank.adapt.layer import DeltaLayer  # noqa: E402
from fullrank.adapt.loca import (  # noqa: E402
    LocaConfig,
    LocaLayer,
    LocaLinear,
    LocaModel,
    LocaReport,
    loca_delta,
    locate,
)
from fullrank.adapt.loca_schedule import LocaCallback, loca_param_groups, update_schedule  # noqa: E402
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
from fullrank.adapt.registration import register  # noqa: E402
from fullrank.adapt.tuner import DeltaModel  # noqa: E402
from fullrank.adapt.wara import (  # noqa: E402
    WaraConfig,
    WaraLayer,
    WaraLinear,
    WaraModel,
    analysis_matrix,
    expand_to_weight,
    is_degenerate,
)
from fullrank.adapt.wara_grid import dwt2_grid, idwt2_grid  # noqa: E402

__all__ = [
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
    "LoLDUConfig",
    "LoLDUFactors",
    "LoLDULayer",
    "LoLDULinear",
    "LoLDUModel",
    "WaraConfig",
    "WaraLayer",
    "WaraLinear",
    "WaraModel",
    "analysis_matrix",
    "branch_alignment",
    "dwt2_grid",
    "expand_to_weight",
    "hydra_delta",
    "idwt2_grid",
    "is_degenerate",
    "loldu_delta",
    "loldu_factors",
    "loldu_parameter_groups",
    "loca_delta",
    "loca_param_groups",
    "locate",
    "register",
    "update_schedule",
]
