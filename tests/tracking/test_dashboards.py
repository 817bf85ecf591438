"""The study opens in optuna-dashboard and the trials in TensorBoard, as they are."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from raygap.tracking.report.run import Run

COMMANDS = Path(sys.executable).parent


@contextmanager
def served(*command: object) -> Iterator[Callable[[str], Any]]:
    """Start a server with --port; yields what gets JSON from a path of it, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [*map(str, command), "--port", str(port)]
    server = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def get(path: str) -> Any:
        while True:
            try:
                with urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                    return json.load(answer)
            except URLError:
                assert server.poll() is None, server.stderr.read()
                assert time.monotonic() < end, f"{arguments[0]} does not answer"
                time.sleep(0.2)

    end = time.monotonic() + 120
    try:
        yield get
    finally:
        server.terminate()
        server.communicate()


def test_optuna_dashboard_shows_the_study(finished_run: Path) -> None:
    run = Run(finished_run)
    with served(COMMANDS / "optuna-dashboard", finished_run / "study.journal", "--server", "wsgiref") as get:
        [study] = get("/api/studies")["study_summaries"]
        trials = get(f"/api/studies/{study['study_id']}")["trials"]
    assert study["directions"] == ["maximize"]
    assert [trial.get("values") for trial in trials] == [trial.values for trial in run.trials]
    shown = trials[run.best.number]
    assert {p["name"]: float(p["param_external_value"]) for p in shown["params"]} == run.best.params
    assert {p["step"]: p["value"] for p in shown["intermediate_values"]} == run.best.intermediate_values


def test_tensorboard_shows_the_trials(finished_run: Path) -> None:
    run = Run(finished_run)
    with served(COMMANDS / "tensorboard", "--logdir", finished_run / "tune") as get:
        end = time.monotonic() + 60
        # It answers before it has read all files.
        while len(tags := get("/data/plugin/scalars/tags")) < len(run.trials) and time.monotonic() < end:
            time.sleep(0.2)
        curves = [
            [
                round(value, 5)
                for _, _, value in get(f"/data/plugin/scalars/scalars?run={name}&tag=ray/tune/val_accuracy")
            ]
            for name in tags
        ]
        histograms = get("/data/plugin/histograms/tags")
    assert len(curves) == len(run.trials)
    assert [round(value, 5) for value in run.metrics["val_accuracy"]] in curves
    assert not any(histograms.values())  # a histogram of the gap's counts would be of nothing
