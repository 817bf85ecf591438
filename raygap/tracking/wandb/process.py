"""The process that talks to W&B for a sweep: messages on its standard input, answers on its standard output.

The client stays out of the sweep's own process: it can be slow, it hooks signals and exits, and it can hang. Here it
can be killed. Messages and answers are JSON, one a line; answers begin with ANSWER, for the client prints, too.

    {"mode": null, "folder": ..., "project": ..., "entity": ..., "group": ..., "code": ...}      first of all
    {"do": "start", "run": ID, "name": ..., "job": ..., "tags": [...], "config": {...}}
    {"do": "log", "run": ID, "step": N, "values": {...}, "histograms": {NAME: [EDGES, COUNTS]}, "images": {NAME: FILE},
     "tables": {NAME: [HEADER, ROW, ...]}}
    {"do": "finish", "run": ID, "summary": {...}, "exit_code": N}

    {"online": URL of the group, "entity": ...}    once, when the first run has begun at the server
    {"done": ID}                                   a run is finished: all of it is at the server, or in its file
    {"late": ID}                                   it is finished, but the server has not taken all of it
    {"lost": ID}                                   at the end: the disk has not taken all of this finished run
    {"failed": REASON}                             and this process ends
"""

import json
import os
import shutil
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from typing import Any, NoReturn

from raygap.tracking.wandb.files import logged_steps, run_files

ANSWER = "@raygap "
INIT_S, FINISH_S = 30, 15
"""Seconds to wait for the server when a run begins, and for what is still on its way when it ends."""
STOPPED = 255
"""Exit code of a run that was interrupted."""


def logged_in(server: str | None = None) -> bool:
    """Whether there is a key for the server (None: the client's), in the environment or a netrc file; asks nobody.

    Raises wandb.errors.AuthenticationError for a key that cannot be one.
    """
    import wandb
    from wandb.sdk.lib import wbauth

    host = server or wandb.setup().settings.base_url
    return wbauth.authenticate_session(host=host, source="raygap", prompt=False, update_session=False) is not None


class _Talk:
    """The runs of a sweep as the client has them open."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import wandb

        self.wandb, self.settings, self.folder = wandb, settings, Path(settings["folder"])
        self.online = (settings["mode"] or ("online" if logged_in() else "offline")) == "online"
        self.runs: dict[str, Any] = {}
        self.first: dict[str, int] = {}
        self.logged: Counter[str] = Counter()
        self.written: dict[str, Path] = {}
        self.told = False
        self.finishing = ThreadPoolExecutor(8)
        self.speaking = threading.Lock()

    def hear(self, message: dict[str, Any]) -> None:
        """Do what a message says."""
        run = message["run"]
        if message["do"] == "start" and run not in self.runs:  # a trial whose process died starts again
            self._start(run, message)
        elif message["do"] == "log" and message["step"] >= self.first[run]:
            histograms = {
                name: self.wandb.Histogram(np_histogram=(counts, edges))
                for name, (edges, counts) in message["histograms"].items()
            }
            images = {name: self.wandb.Image(file) for name, file in message["images"].items()}
            tables = {name: self.wandb.Html(_html(rows)) for name, rows in message["tables"].items()}
            self.runs[run].log(message["values"] | histograms | images | tables, step=message["step"])
            self.first[run] = message["step"] + 1
            self.logged[run] += 1
        elif message["do"] == "finish" and run in self.runs:  # a trial that never ran may have been stopped
            opened = self.runs.pop(run)
            opened.summary.update(message["summary"])
            self.finishing.submit(self._finish, opened, message["exit_code"])

    def end(self) -> None:
        """Finish what is still open, as stopped."""
        for opened in self.runs.values():
            self.finishing.submit(self._finish, opened, STOPPED)
        self.finishing.shutdown()
        self.wandb.teardown()
        for run, file in self.written.items():  # of a full disk the client says nothing
            if len(logged_steps(file)) < self.logged[run]:
                self.say(lost=run)

    def _start(self, run: str, message: dict[str, Any]) -> None:
        settings = self.settings
        before = self._logged_before(run)
        self.runs[run] = opened = self.wandb.init(
            mode="online" if self.online else "offline",
            dir=str(self.folder),
            project=settings["project"],
            entity=settings["entity"],
            group=settings["group"],
            id=run,
            name=message["name"],
            job_type=message["job"],
            tags=message["tags"],
            config=message["config"],
            resume="allow",
            reinit="create_new",
            settings=self.wandb.Settings(
                console="off",
                silent=True,
                symlink=False,
                label_disable=True,
                # It would measure this machine, and call it the trial's.
                x_disable_stats=True,
                x_save_requirements=False,
                git_root=settings["code"],
                git_remote="",  # its address may hold a token
                program=settings["program"],
                init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_S)),
                finish_timeout=float(os.environ.get("WANDB_FINISH_TIMEOUT", FINISH_S)),
                finish_timeout_raises=True,
                stop_fn=lambda: None,  # a run's stop button would interrupt this process
            ),
        )
        self.first[run] = opened.starting_step if self.online else max(before, default=-1) + 1
        if self.online and not self.told:
            self.told = True
            self.say(online=f"{opened.project_url}/groups/{settings['group']}", entity=opened.entity)

    def _logged_before(self, run: str) -> list[int]:
        """Steps in this run's files, from before an interruption."""
        steps = []
        for file in run_files(self.folder, run):
            found = logged_steps(file)
            if not found:  # an attempt that failed; `wandb sync` stops at such a file
                shutil.rmtree(file.parent, ignore_errors=True)
            elif self.online and file.parent.name.startswith("offline-"):
                # The server is told all of it now; so `wandb sync` marks what it need not send.
                file.with_name(f"{file.name}.synced").touch()
            steps += found
        return steps

    def _finish(self, opened: Any, exit_code: int) -> None:
        try:
            opened.finish(exit_code=exit_code)
        except TimeoutError:
            self.say(late=opened.id)
        except BaseException as error:
            _die(error)
        else:
            file = Path(opened.settings.sync_file)
            self.written[opened.id] = file  # whose end the client may still be writing
            if self.online and _is_at_server(Path(opened.settings.log_internal)):
                file.with_name(f"{file.name}.synced").touch()
            self.say(done=opened.id)

    def say(self, **answer: Any) -> None:
        """To the sweep's process; finishing threads answer, too."""
        with self.speaking:
            print(ANSWER + json.dumps(answer), flush=True)


def _html(rows: list[list[str]]) -> str:
    """A table, the header first. The client's own kind of table is an artifact too: one more that can fail."""
    cells = [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f'<table border="1" cellpadding="4" style="border-collapse: collapse">{"".join(cells)}</table>'


def _is_at_server(log: Path) -> bool:
    """Whether the server has taken a run to its end: the client tells only its log.

    Without a mark, `wandb sync --include-online` would send a run again; a mark that is missing does no more harm.
    """
    told = [line for line in log.read_text(encoding="utf-8").splitlines() if '"filestream: ' in line]
    return len(told) > 1 and '"complete":true' in told[-2] and '"status":"200 OK"' in told[-1]


def reason(error: BaseException) -> str:
    """One line on what the client raised, which likes to tell stories."""
    text = str(error).strip()
    if "returned error 401" in text:
        return "the server does not accept the key (HTTP 401)"
    if "returned error 403" in text or "permission denied" in text:
        return "no permission to write to this project"
    if "deadline exceeded" in text or "respond in time" in text:  # or it has answered every try with 429 or 5xx
        _, _, cause = text.partition("while retrying: ")
        return "the server does not answer in time" + (f" ({cause.splitlines()[0]})" if cause else "")
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no reason given'}"


def _main() -> None:
    try:
        talk = _Talk(json.loads(sys.stdin.readline()))
        for line in sys.stdin:
            talk.hear(json.loads(line))
        talk.end()
    except BaseException as error:
        _die(error)
    os._exit(0)  # at an orderly exit the client would wait for its server


def _die(error: BaseException) -> NoReturn:
    print(ANSWER + json.dumps({"failed": reason(error)}), flush=True)
    os._exit(1)


if __name__ == "__main__":
    _main()
