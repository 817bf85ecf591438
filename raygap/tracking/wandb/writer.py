"""Hands what happens in a sweep to the process that talks to W&B; a failure there costs a warning, never a trial."""

import json
import os
import queue
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import raygap
from raygap.private import is_secret, without_passwords
from raygap.tracking.wandb.files import run_files
from raygap.tracking.wandb.layout import Mode
from raygap.tracking.wandb.process import ANSWER, FINISH_S

END_S = FINISH_S + 5
"""Seconds that the process may take at the end of a sweep."""
UPLOAD_FAILED = "Fatal error while uploading data"
"""The client's service prints it when it gives up on a run's upload, after a 404 for example; finish() says nothing."""
NOT_OURS = (
    "WANDB_MODE",
    "WANDB_DISABLED",
    "WANDB_SERVICE",
    "WANDB_RUN_ID",
    "WANDB_RESUME",
    "WANDB_SWEEP_ID",
    "WANDB_NAME",
    "WANDB_GIT_REMOTE_URL",
    "WANDB_GIT_REMOTE",
)
"""Variables that are about another run, or decided on already."""
_ITS_OWN = re.compile(r"WANDB_|(HTTPS?|ALL)_PROXY$")
"""Variables that the client goes by: its key, the way to its server."""
_CODE = str(Path(raygap.__file__).parents[1])
_END = object()


class Writer:
    """Never blocks and never raises, but that `close` waits a while.

    Everything told of a run is kept until the process has finished it. Should the process fail, a second one, offline,
    is told all of it again; each skips what the run's files hold already.
    """

    def __init__(
        self,
        folder: Path,
        mode: Mode | None,
        settings: dict[str, Any],
        warn: Callable[[str], None],
        online: Callable[[str, str], None],
    ) -> None:
        """`mode` None: online where there is a key. `settings`: project, entity and group.

        `warn` is called once at most, `online` once with URL and entity; both from another thread.
        """
        self.folder, self.mode, self.warn, self.online = folder, mode, warn, online
        self.settings = {**settings, "folder": str(folder.resolve()), "program": sys.argv[0], "code": _CODE}
        self.messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.kept: dict[str, list[dict[str, Any]]] = {}
        self.warned, self.problem = False, ""
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def start(self, run: str, name: str, job: str, tags: list[str], config: dict[str, Any]) -> None:
        """A run begins, or begins again."""
        self._put({"do": "start", "run": run, "name": name, "job": job, "tags": tags, "config": config})

    def log(
        self,
        run: str,
        step: int,
        values: dict[str, Any],
        histograms: dict[str, tuple[list[float], list[int]]] | None = None,
        images: dict[str, str] | None = None,
        tables: dict[str, list[list[str]]] | None = None,
    ) -> None:
        """Values of a step, left out if the run has the step.

        `histograms`: edges and counts, `images`: files, `tables`: rows, the header first.
        """
        content = {"values": values, "histograms": histograms or {}, "images": images or {}, "tables": tables or {}}
        self._put({"do": "log", "run": run, "step": step, **content})

    def finish(self, run: str, summary: dict[str, Any], exit_code: int) -> None:
        """A run has ended."""
        self._put({"do": "finish", "run": run, "summary": summary, "exit_code": exit_code})

    def close(self) -> None:
        """Wait until everything is written, but no longer than a dead server is worth."""
        self._put(_END)
        self.thread.join(2 * END_S + 5)

    def _put(self, message: Any) -> None:
        if self.thread.is_alive():
            self.messages.put(message)

    def _run(self) -> None:
        with suppress(Exception):  # nothing here is worth a trial
            if not self._talk(self.mode) and self.mode != "offline":
                self._talk("offline")
        self._say_problem()

    def _talk(self, mode: Mode | None) -> bool:
        """Tell a process everything; False if it failed."""
        process = _start_process()
        listener = threading.Thread(target=self._listen, args=(process,), daemon=True)
        listener.start()
        try:
            _tell(process, {**self.settings, "mode": mode})
            for message in [message for of_run in list(self.kept.values()) for message in of_run]:
                _tell(process, message)
            while (message := self._next()) is not _END:
                if message is process:
                    self._warn("The process that talks to W&B has ended")
                    return False
                if isinstance(message, dict):
                    self.kept.setdefault(message["run"], []).append(message)
                    _tell(process, message)
            self.messages.put(_END)  # for a second process, should there have to be one
            process.stdin.close()
            if process.wait(END_S) == 0:
                return True
            listener.join(1)  # it may have said why
            self._warn("The process that talks to W&B has ended")
            return False
        except (OSError, subprocess.TimeoutExpired):
            self._warn("W&B does not answer")
            return False
        finally:
            process.kill()
            process.wait()

    def _listen(self, process: "subprocess.Popen[str]") -> None:
        for line in process.stdout:
            answer = json.loads(line.removeprefix(ANSWER)) if line.startswith(ANSWER) else {}
            if "online" in answer:
                self.online(answer["online"], answer["entity"])
            if "failed" in answer:
                self._warn(f"W&B: {answer['failed']}")
                self.messages.put(process)
            if "late" in answer or UPLOAD_FAILED in line:
                self._warn("W&B has not taken everything")
            if "lost" in answer:
                self._warn("The disk has not taken all of W&B's files; is it full?")
            self.kept.pop(answer.get("done", answer.get("late", "")), None)
        self.messages.put(process)

    def _next(self) -> Any:
        while self.problem:  # told with its mend as soon as the second process has written files
            with suppress(queue.Empty):
                return self.messages.get(timeout=0.5)
            if run_files(self.folder):
                self._say_problem()
        return self.messages.get()

    def _warn(self, what: str) -> None:
        if not self.warned:
            self.warned, self.problem = True, without_passwords(what)
            if run_files(self.folder):
                self._say_problem()

    def _say_problem(self) -> None:
        problem, self.problem = self.problem, ""
        if not problem:
            return
        sync = f"wandb sync --include-online {shlex.quote(str(self.folder))}/wandb/*run-*"
        kept = (
            f"What its files keep can be sent: {sync}" if run_files(self.folder) else "No file keeps what W&B missed."
        )
        self.warn(f"{problem}; the sweep goes on. {kept}")


def _start_process() -> "subprocess.Popen[str]":
    # Other secrets are not the client's: it keeps whatever Slurm says, with the job's token.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in NOT_OURS and (_ITS_OWN.match(name.upper()) or not is_secret(name, value))
    }
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [_CODE, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "raygap.tracking.wandb.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Ctrl-C is the sweep's; this process ends when its input does
        env=environment | {"WANDB_ERROR_REPORTING": "false"},
    )


def _tell(process: "subprocess.Popen[str]", message: dict[str, Any]) -> None:
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()
