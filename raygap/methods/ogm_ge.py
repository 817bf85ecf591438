"""ogm_ge: OGM with the noise that makes up for smaller steps (eq. 12 of the paper that ogm.py names)."""

from raygap.methods.ogm import Ogm


class OgmGe(Ogm):
    """OGM, with noise."""

    noise = True
