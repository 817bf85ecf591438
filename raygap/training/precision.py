"""Device and precision of the arithmetic."""

import torch

from raygap.config import TrialConfig


def pick_device() -> torch.device:
    """The GPU that this process was given, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(config: TrialConfig, device: torch.device) -> torch.autocast:
    """bf16 autocast when the configuration asks for it; weights and losses stay in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.compute.precision == "bf16")
