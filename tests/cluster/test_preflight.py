"""What the checks say of a real cluster, of clusters that differ, and of W&B."""

import os
from pathlib import Path

import pytest
from wandb_server import ENTITY, KEY, wandb_server

from raygap.cluster.preflight import _ask, _resources, _shared, _state_api, _versions, check_cluster, weights_and_biases
from raygap.storage import Storage


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, storage: Storage, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "file").write_text("")
    folders = {"storage": tmp_path / "storage", "cache": tmp_path / "file" / "cache"}
    nowhere = Storage(storage.uri.replace("//tests/", "//nowhere/"))
    checks = list(check_cluster(folders, nowhere, [tmp_path / "nowhere"]))
    failed = [check.about for check in checks if not check.passed]
    [refused] = [about for about in failed if nowhere.uri in about]
    assert "cannot be written" in refused
    assert [about for about in failed if about != refused] == [
        f"cache {tmp_path}/file/cache: cannot be written (Not a directory) on {os.uname().nodename}",
        f"root {tmp_path}/nowhere: no such file or folder on the head",
    ]
    passed = [check.about for check in checks if check.passed]
    for text in ("State API: answers on 1 nodes", "storage", "versions: Python", "nothing is sent"):
        assert any(text in about for about in passed), passed
    assert not list((tmp_path / "storage").iterdir()), "nothing is left behind"
    checks = list(check_cluster({}, storage, []))
    assert f"storage {storage.uri}: written on 1 nodes" in [check.about for check in checks if check.passed]
    assert not storage.files()


def test_a_node_that_is_gone_is_named(ray_cluster: None) -> None:
    gone = "ab" * 28
    answers = _ask({gone: {}}, [], None)
    assert isinstance(answers[gone], str)
    assert not _resources("node1", {"CPU": 4}, answers[gone]).passed


def test_gpus_that_torch_does_not_see_fail() -> None:
    seen = {"devices": ["NVIDIA A100", "NVIDIA A100"]}
    assert _resources("node1", {"CPU": 8, "GPU": 2}, seen).passed
    assert _resources("node1", {"CPU": 8, "GPU": 1}, seen).passed
    short = _resources("node1", {"CPU": 8, "GPU": 3}, seen)
    assert not short.passed
    assert "3 GPUs for Ray, 2 x NVIDIA A100 for torch" in short.about


def test_nodes_that_differ_are_told_apart() -> None:
    same = {"Python": "3.12.1", "torch": "2.14.1"}
    assert _versions({"a": same, "b": dict(same)}).passed
    other = _versions({"a": same, "b": same | {"torch": "2.13.0"}})
    assert not other.passed
    assert other.about == "versions differ: torch 2.14.1 on a, 2.13.0 on b"
    assert not _versions({}).passed


def test_folders_that_are_not_shared_fail() -> None:
    assert _shared("storage", Path("/s"), {"a": "", "b": ""}, 2).passed
    apart = _shared("storage", Path("/s"), {"a": "", "b": "is another folder there than on the head"}, 1)
    assert not apart.passed
    assert "on b is another folder there than on the head" in apart.about
    assert not _shared("storage", Path("/s"), {"a": "", "b": ""}, 1).passed
    assert not _state_api({"a": "", "b": "no answer (refused)"}).passed


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key but the one a test gives."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_weights_and_biases_is_asked_only_with_a_key(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert "no key here" in weights_and_biases().about
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        assert weights_and_biases().about == f"W&B: {server.url} takes the key of {ENTITY}"
        server.failure = lambda operation: 401
        refused = weights_and_biases()
        assert not refused.passed
        assert "does not take the key" in refused.about
        asked = len(server.asked)
        monkeypatch.setenv("WANDB_MODE", "offline")
        assert weights_and_biases().passed
        assert len(server.asked) == asked
    monkeypatch.delenv("WANDB_MODE")
    unreachable = weights_and_biases()
    assert not unreachable.passed
    assert "cannot be reached" in unreachable.about
    assert KEY not in refused.about + unreachable.about
