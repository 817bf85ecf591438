"""What the chosen configuration is compared with, on the same test seeds: what a search was worth."""

from raygap.config import TrialConfig, flatten
from raygap.schema import acting, field_paths, from_mapping, to_mapping
from raygap.tracking.comparison_table import BASELINES
from raygap.tracking.worth import SHUFFLED, control_of


def reference_configs(config: TrialConfig, rival: TrialConfig | None = None) -> dict[str, TrialConfig]:
    """By name: the same with shuffled posteriors, where posteriors act; `rival` by its method, and its own control; and
    the baselines.

    The baselines have the same optimiser, model and loss weights, so that warm-ups are shared where their losses are
    alike; no purification; and joint, whose stages are all alike, no warm-up. No method is a reference of itself.
    """
    fields = flatten(to_mapping(config))
    found = {}
    if control := _shuffled(config):
        found[SHUFFLED] = control
    if rival:
        found[rival.method] = rival
        if control := _shuffled(rival):
            found[control_of(rival.method)] = control
    for method in reversed(BASELINES):
        known = field_paths(method)
        plain = {"method": method, "purify.epochs": 0} | ({"warmup.epochs": 0} if method == "joint" else {})
        found[method] = from_mapping({path: value for path, value in fields.items() if path in known} | plain)
    return {name: reference for name, reference in found.items() if name != config.method}


def _shuffled(config: TrialConfig) -> TrialConfig | None:
    if config.mixture.posterior != "fitted" or not acting(["mixture.posterior"], config):
        return None
    return from_mapping(flatten(to_mapping(config)) | {"mixture.posterior": "shuffled"})
