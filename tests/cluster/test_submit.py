"""What launch/submit.py refuses before it sends anything, what it sends, and what it takes back."""

import base64
import gzip
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import pytest
from called import call, refusal
from ray.job_submission import JobStatus

from raygap import plugins
from raygap.cluster import submission
from raygap.cluster.submission import (
    OWN_CODE,
    RUN,
    SENT,
    load_own_code,
    missing_package,
    pack,
    shell_line,
    unpack,
)
from raygap.errors import UserError


@contextmanager
def answering(text: str) -> Iterator[str]:
    """Address of a server that answers everything with this text."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if text else 404)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; what a call sets in the environment ends with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to send: give the options of sweep after --"),
        (["--", "--dataset", "demo"], "--address: give the address of the cluster's dashboard"),
        (["--address", "HEAD:8265", "--status", "x"], "expected the dashboard's address, for example http://HEAD:8265"),
        (["--address", "http://127.0.0.1:1", "--status", "x"], "nothing answers there"),
        (["--address", "http://me:secret@127.0.0.1:1", "--status", "x"], "http://127.0.0.1:1: nothing answers there"),
        (["--address", "http://h", "--storage", "s3://key:secret@box", "--preflight"], "--storage s3://...: holds a"),
        (
            [
                "--address",
                "http://h",
                "--",
                "--dataset",
                "demo",
                "--resume",
                "--name",
                "n",
                "--storage=s3://k:secret@b",
            ],
            "--storage s3://...: holds a",
        ),
        (["--address", "http://h", "--status", "x", "--stop", "y"], "give one of them"),
        (["--address", "http://h", "--env", "K=secret", "--", "--dataset", "demo"], "give a variable's name only"),
        (["--address", "http://h", "--env", "NOT_SET", "--", "--dataset", "demo"], "NOT_SET: not set here"),
        (["--address", "http://h", "--", "--dataset", "dmo"], "did you mean demo?"),
        (["--address", "http://h", "--", "--dataset", "demo", "--set", "loss.fokus=1"], "did you mean loss.focus?"),
        (
            ["--address", "http://h", "--", "--dataset", "demo", "--trials", "few"],
            "after --: Invalid value for '--trials'",
        ),
        (["--address", "http://h", "--", "--dataset", "ave", "--root", "AVE"], "give its absolute path there"),
        (["--address", "http://h", "--", "--dataset", "demo", "--space", "no.yaml"], "no.yaml: no such file here"),
        (["--address", "http://h", "--", "--dataset", "demo", "--resume"], "name the sweep in the cluster with --name"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(arguments: list[str], message: str, here: Path) -> None:
    line = refusal(call("submit", *arguments))
    assert message in line
    assert "secret@" not in line
    assert "=secret" not in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Version check returned 404"),
        ("<html>", "what answers there is not the dashboard of a Ray cluster"),
        ('{"ray_version": "2.9.0"}', "the cluster runs Ray 2.9.0, raygap needs"),
        ('{"ray_version": "1.8.0"}', "Ray version 1.8.0 is running on the cluster"),
    ],
)
def test_other_servers_are_refused_in_one_line(text: str, message: str, here: Path) -> None:
    with answering(text) as address:
        assert message in refusal(call("submit", "--address", address, "--status", "x"))


def test_a_dry_run_says_what_would_run(here: Path) -> None:
    (here / "mine.yaml").write_text("fixed: {epochs: 9}\nspace: {loss.focus: {uniform: [0, 4]}}")
    sweep = ["--dataset", "demo", "--space", "mine.yaml", "--name", "two words", "--dry-run"]
    result = call("submit", "--address", "http://h", "--", *sweep)
    assert result.exit_code == 0, result.output
    line = result.stdout.splitlines()[-1]
    assert line.endswith("--out ~/'raygap/runs/two words' --cache ~/raygap/stores --space space.yaml")
    words = subprocess.run(["sh", "-c", f"printf '%s\\n' {line.partition(': ')[2]}"], capture_output=True, text=True)
    assert f"{Path.home()}/raygap/runs/two words" in words.stdout.splitlines()


def test_a_package_that_the_cluster_lacks_is_found_in_the_log() -> None:
    log = "Traceback (most recent call last):\n  import optuna\nModuleNotFoundError: No module named 'optuna'\n"
    assert missing_package(log) == "optuna"
    assert missing_package("trial 3 failed: ModuleNotFoundError: No module named 'optuna'") is None


def test_a_job_that_fails_without_a_word_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "_run_aside", lambda *_: (SimpleNamespace(status=JobStatus.FAILED), "\n"))
    info = SimpleNamespace(driver_node_id=None, metadata={submission.RUN: "runs/r"})
    with pytest.raises(UserError, match=r"runs/r: could not be read in the cluster .*FAILED, and its log is empty"):
        submission.fetch(None, info, tmp_path)


def make_repository(folder: Path) -> Path:
    for name in ("raygap/a.py", "launch/submit.py", "search_spaces/ave.yaml", "pyproject.toml", "uv.lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for name in (".env", ".git/config", "raygap/.key", "raygap/__pycache__/a.pyc", "runs/r/best.pt", "clips/1.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("not to be sent")
    return folder


def test_only_the_code_is_packed_and_the_same_code_is_the_same_package(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repository")
    (tmp_path / "mine.yaml").write_text("space: {}")
    pack(repository, tmp_path / "1.zip", tmp_path / "mine.yaml")
    os.utime(repository / "raygap" / "a.py", (0, 10**9))
    pack(repository, tmp_path / "2.zip", tmp_path / "mine.yaml")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    with ZipFile(tmp_path / "1.zip") as archive:
        assert {name.partition("/")[0] for name in archive.namelist()} <= {*SENT, "space.yaml"}
        assert len(archive.namelist()) == 5  # not launch/
        assert all(b"not to be sent" not in archive.read(name) for name in archive.namelist())


def test_code_of_ones_own_goes_along_and_is_found_by_the_same_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    plugins.LOADED.clear()  # of other tests
    (here / "sent_pkg").mkdir()
    (here / "sent_pkg" / "file.py").write_text(
        "import sent_beside\nfrom raygap.methods.joint import Joint\nclass Mine(Joint): pass\n"
    )
    (here / "sent_beside.py").write_text("")
    (here / "not_sent.py").write_text("")
    name = "sent_pkg.file:Mine"
    result = call("submit", "--address", "http://h", "--", "--dataset", "demo", "--method", name, "--dry-run")
    assert result.exit_code == 0, result.output
    assert f"--method {name} " in result.stdout
    assert "--out ~/raygap/runs/demo-" in result.stdout
    pack(make_repository(here / "repository"), here / "1.zip")
    with ZipFile(here / "1.zip") as archive:
        assert {"sent_pkg/file.py", "sent_beside.py", "raygap/a.py"} <= set(archive.namelist())
        assert "not_sent.py" not in archive.namelist()
        job = here / "job"
        archive.extractall(job)
    code = f"from raygap.methods import find_method; print(find_method('{name}').__name__)"
    there = subprocess.run(
        [sys.executable, "-c", code],
        cwd=job,
        env=os.environ | {"PYTHONPATH": str(Path(plugins.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert there.stdout.strip() == "Mine", there.stderr

    # A sweep that is resumed names nothing: what its first job had goes along again.
    plugins.LOADED.clear()
    jobs = [SimpleNamespace(metadata=None), SimpleNamespace(metadata={RUN: "r", OWN_CODE: name})]
    load_own_code(SimpleNamespace(list_jobs=lambda: jobs), "r")
    assert set(plugins.LOADED) == {name}
    plugins.LOADED.clear()


def test_too_much_code_is_named_before_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = make_repository(tmp_path)
    (repository / "search_spaces" / "weights.pt").write_bytes(os.urandom(3 * 2**20))
    monkeypatch.setattr(submission, "LIMIT", 2**20)
    with pytest.raises(UserError, match=r"has 3 MiB, a cluster takes 1; move out search_spaces/weights.pt \(3 MiB\)"):
        pack(repository, tmp_path / "code.zip")


@pytest.mark.parametrize("name", ["/best.yaml", "../best.yaml", "a/../best.yaml", "a/b/best.yaml", ".bashrc", ".."])
def test_a_cluster_cannot_write_where_it_likes(name: str, tmp_path: Path) -> None:
    good = base64.b64encode(gzip.compress(b"epochs: 3")).decode()
    with pytest.raises(UserError, match="not a file that was asked for"):
        unpack({"best.yaml": good, name: good}, tmp_path / "run")
    assert not list(tmp_path.iterdir())
    assert [file.read_text() for file in unpack({"ave/best.yaml": good}, tmp_path / "run")] == ["epochs: 3"]


def test_a_shell_reads_back_what_was_meant() -> None:
    words: list[Any] = ["a b", "~/c d", "$HOME", "it's", "~"]
    read = subprocess.run(["sh", "-c", f"printf '%s\\n' {shell_line(words)}"], capture_output=True, text=True).stdout
    assert read.splitlines() == ["a b", f"{Path.home()}/c d", "$HOME", "it's", "~"]


def test_an_object_store_goes_along_and_the_head_has_a_folder_of_its_own(here: Path) -> None:
    sweep = ["--dataset", "demo", "--name", "r", "--dry-run"]
    result = call("submit", "--address", "http://h", "--storage", "s3://bucket/raygap", "--", *sweep)
    assert result.exit_code == 0, result.output
    assert "--out ~/raygap/runs/r --cache ~/raygap/stores --storage s3://bucket/raygap" in result.stdout
