"""The training methods by the name a configuration gives."""

import difflib

from raygap.errors import UserError
from raygap.methods.agm import Agm
from raygap.methods.base import Method
from raygap.methods.cml import Cml
from raygap.methods.gmm_adaptive import GmmAdaptive
from raygap.methods.gmm_scores import GmmScores
from raygap.methods.gradient_blending import GradientBlending
from raygap.methods.joint import Joint
from raygap.methods.lfm import Lfm
from raygap.methods.mla import Mla
from raygap.methods.mmcosine import MMCosine
from raygap.methods.mmpareto import MMPareto
from raygap.methods.ogm import Ogm, OgmGe
from raygap.methods.one_modality import AudioOnly, VisualOnly
from raygap.methods.opm import Opm
from raygap.methods.pmr import Pmr
from raygap.methods.reconboost import ReconBoost
from raygap.methods.relearning import Relearning
from raygap.methods.resample import Resample
from raygap.methods.umt import Umt
from raygap.methods.unimodal_losses import UnimodalLosses

METHODS: dict[str, type[Method]] = {
    "joint": Joint,
    "unimodal_losses": UnimodalLosses,
    "audio_only": AudioOnly,
    "visual_only": VisualOnly,
    "ogm": Ogm,
    "ogm_ge": OgmGe,
    "mmpareto": MMPareto,
    "gradient_blending": GradientBlending,
    "mmcosine": MMCosine,
    "opm": Opm,
    "cml": Cml,
    "pmr": Pmr,
    "agm": Agm,
    "mla": Mla,
    "umt": Umt,
    "relearning": Relearning,
    "resample": Resample,
    "reconboost": ReconBoost,
    "lfm": Lfm,
    "gmm_adaptive": GmmAdaptive,
    "gmm_scores": GmmScores,
}


def find_method(name: str) -> type[Method]:
    """The class of a method. Raises UserError with the nearest name."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the methods are {', '.join(METHODS)}"
        raise UserError(f"unknown method {name!r}; {hint}")
    return METHODS[name]
