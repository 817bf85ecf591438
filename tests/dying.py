"""A trial that kills its own process, in a module that processes of Ray can import."""

import os
import signal
from typing import Any

from raygap.search.study import TRIAL_NUMBER
from raygap.search.trial import SweepTrial

HOPELESS, UNLUCKY, FAULTY = range(3)


class DyingTrial(SweepTrial):
    """Trial 0 dies before each result; trial 1 after its first and its second epoch; 2 does not start."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """As SweepTrial."""
        self.number = new_config[TRIAL_NUMBER]
        if self.number == FAULTY:
            raise ValueError("no such device\nand more about it")
        return super().reset_config(new_config)

    def step(self) -> dict[str, Any]:
        """As SweepTrial, if it lives."""
        marker = self.folder / "trials" / f"{self.number:04d}" / "deaths"
        deaths = len(marker.read_bytes()) if marker.exists() else 0
        result = super().step()
        if self.number == HOPELESS or (self.number == UNLUCKY and result["epoch"] == deaths + 2 <= 3):
            with marker.open("ab") as file:
                file.write(b"x")
            os.kill(os.getpid(), signal.SIGKILL)
        return result
