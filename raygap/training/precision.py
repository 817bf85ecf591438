"""Device and precision of the arithmetic."""

import torch

from raygap.config import TrialConfig
from raygap.errors import UserError


def pick_device() -> torch.device:
    """The GPU that this process was given, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(config: TrialConfig, device: torch.device) -> torch.autocast:
    """Autocast to bf16 or fp16 when the configuration asks for it; weights and losses stay in fp32.

    A CPU, on which nothing is trained in fp16, answers in fp32 with what was.
    """
    fp16 = config.compute.precision == "fp16"
    enabled = config.compute.precision == "bf16" or (fp16 and device.type == "cuda")
    return torch.autocast(device.type, torch.float16 if fp16 else torch.bfloat16, enabled=enabled)


def check_device(config: TrialConfig, device: torch.device) -> None:
    """Raise UserError if it cannot be trained there: gradients of fp16 need a scale that CPUs do not keep up with."""
    if config.compute.precision == "fp16" and device.type != "cuda":
        raise UserError("compute.precision = fp16 needs a GPU, and there is none; set compute.precision=bf16")
