"""Decoding on a cluster that loses tasks, without a cluster; test_prepare.py has one."""

import sys
from types import SimpleNamespace

import pytest
from ray import exceptions

from raygap.config import Prepare
from raygap.data import decoding
from raygap.data.decoding import decode_on_ray
from raygap.errors import UserError


class Task:
    def __init__(self, clip):
        self.clip = clip


class Cluster:
    """Stands for the module ray. Tasks do nothing; `fails` holds the errors of each clip's first attempts."""

    def __init__(self, fails):
        self.fails = fails
        self.at_once = 0

    def remote(self, function):
        task = SimpleNamespace(remote=lambda clip, settings: Task(clip))
        return SimpleNamespace(options=lambda **options: task)

    def cluster_resources(self):
        return {"CPU": 4.0}

    def wait(self, busy, num_returns):
        self.at_once = max(self.at_once, len(busy))
        return busy[:1], busy[1:]

    def get(self, ready):
        errors = self.fails.get(ready.clip, [])
        if errors:
            raise errors.pop(0)
        return "silent"

    def cancel(self, ready):
        pass


def decode(monkeypatch, fails, **options):
    cluster = Cluster(fails)
    monkeypatch.setitem(sys.modules, "ray", cluster)
    clips = ("a", "b", "c", "d")
    return dict(decode_on_ray(clips, range(4), Prepare(), None, **options)), cluster


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (exceptions.WorkerCrashedError(), "the decoder crashed"),
        (exceptions.OutOfMemoryError("killed by the node\nmore"), "OutOfMemoryError: killed by the node"),
        (exceptions.NodeDiedError("the node died"), "NodeDiedError: the node died"),
        (exceptions.ObjectLostError("ab" * 14, None, ""), "ObjectLostError: "),
        (exceptions.RayTaskError("decode", "Traceback: odd", ValueError("odd")), "ValueError: odd"),
    ],
)
def test_a_task_that_fails_is_tried_again_and_then_quarantined(monkeypatch, error, reason):
    fails = {"a": [error] * decoding.ATTEMPTS_ON_RAY, "c": [error] * (decoding.ATTEMPTS_ON_RAY - 1)}
    results, _ = decode(monkeypatch, fails)
    assert results[0].startswith(reason)
    assert [results[row] for row in (1, 2, 3)] == ["silent"] * 3


def test_a_node_without_raygap_is_told(monkeypatch):
    text = (
        "Traceback\nThe remote function failed to import on the worker\n\nModuleNotFoundError: No module named 'raygap'"
    )
    error = exceptions.RayTaskError("decode", text, RuntimeError(text))
    message = r"cannot run raygap \(ModuleNotFoundError: No module named 'raygap'\); install the same packages on every"
    with pytest.raises(UserError, match=message):
        decode(monkeypatch, {"b": [error]})


def test_so_many_tasks_at_a_time(monkeypatch):
    assert decode(monkeypatch, {})[1].at_once == 4
    assert decode(monkeypatch, {}, workers=2)[1].at_once == 2
