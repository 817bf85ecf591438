"""The real client in its own process: offline, with a server, and with one that fails. Every epoch is kept once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState
from wandb_server import KEY, Failure, WandbServer, wandb_server

from raygap.config import TrialConfig
from raygap.tracking.wandb.callback import WandbCallback
from raygap.tracking.wandb.files import LoggedRun, read_runs, run_files
from raygap.tracking.wandb.writer import Writer

EPOCHS = list(range(1, 7))


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without an account."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server for which there is a key."""
    with wandb_server() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield running


class Sweep:
    """Two trials of a sweep in a folder, logged."""

    def __init__(self, folder: Path, mode: str | None = None) -> None:
        self.said: list[str] = []
        settings = {"project": "p", "entity": None, "group": "g"}
        self.writer = Writer(folder, mode, settings, self.said.append, lambda *where: self.said.append(str(where)))
        for number in range(2):
            config = {"loss": {"focus": number}}
            self.writer.start(f"s-{number}", f"run {number}", "trial", ["demo"], config)

    def log(self, epochs: list[int], stage: str = "warmup") -> None:
        for epoch in epochs:
            for number in range(2):
                values = {"val/accuracy": epoch / 10, "nothing": float("nan"), "stage": stage}
                self.writer.log(f"s-{number}", epoch, values, {"gap/histogram": ([0.0, 0.5, 1.0], [epoch, 2])})

    def close(self) -> None:
        self.writer.finish("s-0", {"trial_state": "complete"}, 0)
        began = time.monotonic()
        self.writer.close()
        assert not self.writer.thread.is_alive(), f"still waiting after {time.monotonic() - began:.0f} s"


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def steps(folder: Path) -> dict[str, list[int]]:
    return {name: [row["_step"] for row in run.history] for name, run in read_runs(folder).items()}


def holds_the_key(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]


def sync(folder: Path, **account: str) -> None:
    """What the documentation says to send files with."""
    runs = [file.parent for file in run_files(folder)]
    command = [Path(sys.executable).with_name("wandb"), "sync", "--include-online", *runs]
    subprocess.run(command, env=os.environ | account, cwd=folder, capture_output=True, timeout=60, check=True)


def test_without_an_account_files_are_written_and_a_resumed_sweep_goes_on(tmp_path: Path) -> None:
    for epochs in (EPOCHS[:4], EPOCHS):  # a resumed trial tells its first epochs again
        sweep = Sweep(tmp_path)
        sweep.log(epochs)
        sweep.close()
        assert sweep.said == []
    runs = read_runs(tmp_path)
    assert steps(tmp_path) == {"s-0": EPOCHS, "s-1": EPOCHS}
    first: LoggedRun = runs["s-0"]
    assert (first.project, first.group, first.job, first.tags) == ("p", "g", "trial", ["demo"])
    assert first.config["loss"] == {"focus": 0}
    assert first.summary["trial_state"] == "complete"
    assert (first.exit_code, runs["s-1"].exit_code) == (0, 255)  # the second was interrupted
    assert first.history[2]["gap/histogram"]["values"] == [3, 2]
    with wandb_server() as server:
        sync(tmp_path, WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
        assert {name: run.steps() for name, run in server.runs.items()} == {"s-0": EPOCHS, "s-1": EPOCHS}


def test_a_trial_that_died_before_it_started_is_logged_and_one_that_never_ran_harms_nobody(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    log = SimpleNamespace(
        start=lambda number, config, noted: told.append(("start", number)),
        end=lambda trial, epochs: told.append(("end", trial.number)),
    )
    study = optuna.create_study()
    study.tell(study.ask(), state=TrialState.FAIL)
    callback = WandbCallback(log, study, lambda config: (config["trial_number"], TrialConfig()))
    callback.on_trial_error(1, [], SimpleNamespace(config={"trial_number": 0}))
    assert told == [("start", 0), ("end", 0)]
    sweep = Sweep(tmp_path)
    sweep.writer.finish("s-7", {"trial_state": "fail"}, 1)  # without a start
    sweep.log(EPOCHS)
    sweep.close()
    assert sweep.said == []
    assert steps(tmp_path) == {"s-0": EPOCHS, "s-1": EPOCHS}


def test_with_a_key_the_server_gets_everything_once(tmp_path: Path, server: WandbServer) -> None:
    for epochs in (EPOCHS[:4], EPOCHS):
        sweep = Sweep(tmp_path)
        sweep.log(epochs)
        sweep.close()
        assert sweep.said == [str((f"{server.url}/team/p/groups/g", "team"))]
    assert {name: run.steps() for name, run in server.runs.items()} == {"s-0": EPOCHS, "s-1": EPOCHS}
    run = server.runs["s-0"]
    assert (run.fields["groupName"], run.fields["jobType"], run.fields["tags"]) == ("g", "trial", ["demo"])
    assert run.config["loss"] == {"value": {"focus": 0}}
    assert run.summary["trial_state"] == "complete"
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert run.fields.get("commit") == (head.stdout.strip() or None)
    assert not holds_the_key(tmp_path)


def test_what_was_begun_offline_goes_on_online_and_is_not_sent_twice(tmp_path: Path, server: WandbServer) -> None:
    for mode, epochs in (("offline", EPOCHS[:4]), ("online", EPOCHS)):
        sweep = Sweep(tmp_path, mode)
        sweep.log(epochs)
        sweep.close()
    assert {name: run.steps() for name, run in server.runs.items()} == {"s-0": EPOCHS, "s-1": EPOCHS}
    sync(tmp_path)  # as the documentation says, of everything
    assert {name: run.steps() for name, run in server.runs.items()} == {"s-0": EPOCHS, "s-1": EPOCHS}


def test_a_key_in_a_netrc_file_counts(tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    host = server.url.removeprefix("http://")
    (tmp_path / "netrc").write_text(f"machine {host} login user password {KEY}\n")
    (tmp_path / "run").mkdir()
    sweep = Sweep(tmp_path / "run")
    sweep.log(EPOCHS)
    sweep.close()
    assert server.runs["s-0"].steps() == EPOCHS
    assert not holds_the_key(tmp_path / "run")


def later(what: int | str) -> Failure:
    """The server takes the beginning of each run, and fails from then on."""
    parts = iter(range(10_000))
    return lambda operation: what if operation == "file_stream" and next(parts) >= 2 else None


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (lambda operation: 401, "the server does not accept the key (HTTP 401)"),
        (lambda operation: 403 if operation == "UpsertBucket" else None, "no permission to write to this project"),
        (lambda operation: 429, "the server does not answer in time (HTTP 429: spoiled)"),
        (lambda operation: "hang", "the server does not answer in time"),
        (later(404), "W&B has not taken everything"),
        (later("reset"), "W&B has not taken everything"),
        (later("hang"), "W&B has not taken everything"),
    ],
    ids=["401", "403", "429", "hang", "404 later", "reset later", "hang later"],
)
def test_a_server_that_fails_costs_one_warning(
    failure: Failure, said: str, tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "0.2")  # seconds; 15, if nobody says otherwise
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    if "in time" in said:  # nobody waits for a server that answers
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    server.failure = failure
    sweep = Sweep(tmp_path)
    sweep.log(EPOCHS[:3])
    wait_for(lambda: server.asked.count("file_stream") > 2 or sweep.said)
    sweep.log(EPOCHS[3:])
    sweep.close()
    [warning] = [line for line in sweep.said if not line.startswith("(")]
    assert said in warning
    assert f"wandb sync --include-online {tmp_path}/wandb/*run-*" in warning
    assert steps(tmp_path) == {"s-0": EPOCHS, "s-1": EPOCHS}
    assert not holds_the_key(tmp_path)


@pytest.mark.parametrize("whole", [True, False], ids=["the process", "the client's service"])
def test_a_process_that_dies_costs_one_warning(whole: bool, tmp_path: Path, server: WandbServer) -> None:
    sweep = Sweep(tmp_path)
    sweep.log(EPOCHS[:3])
    wait_for(lambda: len(server.runs) == 2)
    victims = processes(tmp_path, "raygap.tracking.wandb.process" if whole else "wandb-core")
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    sweep.log(EPOCHS[3:])
    sweep.close()
    [warning] = [line for line in sweep.said if not line.startswith("(")]
    assert "the sweep goes on" in warning
    assert steps(tmp_path) == {"s-0": EPOCHS, "s-1": EPOCHS}
    wait_for(lambda: not processes(tmp_path, "wandb"))


def processes(home: Path, name: str) -> list[int]:
    """Of this name, whose HOME is below the folder."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line, environment = (folder / "cmdline").read_text(), (folder / "environ").read_text()
        except OSError:  # gone, or somebody else's
            continue
        if name in line and f"HOME={home}/" in environment:
            found.append(int(folder.name))
    return found


def test_what_cannot_be_written_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "wandb").write_text("not a folder")
    sweep = Sweep(tmp_path)
    sweep.log(EPOCHS)
    sweep.close()
    assert len(sweep.said) == 1
    assert "Not a directory" in sweep.said[0]
    assert "wandb sync" not in sweep.said[0]  # of files that are not there


OWN_NAMESPACES = ("--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Its own disk, and what it starts ends with it."""
ON_A_SMALL_DISK = 'mount -t tmpfs -o size=300k tmpfs "$1" || exit 77; exec python -c "$2" "$1"'
LOG_MUCH = """
import json, pathlib, sys, test_wandb_writer as test
folder = pathlib.Path(sys.argv[1])
sweep = test.Sweep(folder)
sweep.log(test.EPOCHS, 100_000 * "x")
sweep.close()
print(json.dumps([sweep.said, test.steps(folder)]))
"""


@pytest.mark.parametrize("online", [True, False], ids=["online", "offline"])
def test_a_full_disk_costs_one_warning(
    online: bool, tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not online:
        monkeypatch.delenv("WANDB_API_KEY")
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (here, *here.parents[:3]))))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    disk = tmp_path / "disk"
    disk.mkdir()
    # Mounted for this command alone.
    command = ["unshare", *OWN_NAMESPACES, "sh", "-c", ON_A_SMALL_DISK, "sh", disk, LOG_MUCH]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "unshare failed" in told.stderr or told.returncode == 77:
        pytest.skip(f"no disk can be mounted here: {told.stderr}")
    assert told.returncode == 0, told.stderr
    said, found = json.loads(told.stdout)
    [warning] = [line for line in said if not line.startswith("(")]
    assert "The disk has not taken all of W&B's files; is it full?" in warning
    assert any(steps != EPOCHS for steps in found.values())
    if online:
        assert {name: run.steps() for name, run in server.runs.items()} == {"s-0": EPOCHS, "s-1": EPOCHS}


def test_a_damaged_file_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "offline")
    sweep.log(list(range(1, 400)))  # several blocks of the format
    sweep.close()
    [file] = run_files(tmp_path, "s-0")
    content = file.read_bytes()
    assert len(content) > 3 * 32 * 1024
    assert steps(file) == {"s-0": list(range(1, 400))}
    for spoiled in (content[: len(content) // 2], content[:50_000] + b"\0" + content[50_001:]):
        file.write_bytes(spoiled)
        found = steps(file)["s-0"]
        assert found == list(range(1, len(found) + 1))
        assert 0 < len(found) < 399
    file.write_bytes(b"")
    assert steps(file) == {}
