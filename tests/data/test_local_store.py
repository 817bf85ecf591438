import os
import shutil

import pytest
from children import CONTEXT

from raygap.data import local_store as module
from raygap.data.local_store import local_store
from raygap.data.store import Store
from raygap.errors import UserError


@pytest.fixture
def local(tmp_path, monkeypatch):
    monkeypatch.setenv("RAYGAP_LOCAL", str(tmp_path / "local"))
    return tmp_path / "local"


def test_a_shared_path_is_used_as_it_is(small_store, monkeypatch):
    monkeypatch.delenv("RAYGAP_LOCAL", raising=False)
    assert local_store(small_store.path) == small_store.path


def test_a_copy_is_made_once(small_store, local, monkeypatch):
    copy = local_store(small_store.path)
    assert copy == local / "store"
    assert (Store.open(copy).frames == small_store.frames).all()
    monkeypatch.setattr(module, "_copy", lambda *arguments: pytest.fail("copied again"))
    assert local_store(small_store.path) == copy


def ask(path, local):
    """In another process, whose environment is that of the one it was forked from."""
    os.environ["RAYGAP_LOCAL"] = str(local)
    return local_store(path)


def test_processes_that_ask_at_once_get_one_copy(small_store, local):
    with CONTEXT.Pool(3) as pool:
        copies = pool.starmap(ask, [(small_store.path, local)] * 3)
    assert set(copies) == {local / "store"}
    assert sorted(path.name for path in local.iterdir()) == [".store.lock", "store"]


def test_what_a_killed_copy_left_is_written_over(small_store, local):
    partial = local / ".store.partial"
    partial.mkdir(parents=True)
    (partial / "frames.npy").write_bytes(b"half")
    assert (Store.open(local_store(small_store.path)).frames == small_store.frames).all()


def test_a_copy_that_differs_is_refused(small_store, local, monkeypatch):
    def spoil(source, target):
        target.write_bytes(source.read_bytes()[:-1] + b"x")

    monkeypatch.setattr(module.shutil, "copyfile", spoil)
    with pytest.raises(UserError, match=r"local/.store.partial/.* differs from .*; check the disk and start again"):
        local_store(small_store.path)
    assert not (local / "store").exists()


def test_faults_of_the_disks(small_store, local, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"nowhere: no such folder on this machine; keep --cache on a file system"):
        local_store(tmp_path / "nowhere")
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"the copy needs 0.0 GB and 0.0 GB are free; make room, or let RAYGAP_LOCAL"):
        local_store(small_store.path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAYGAP_LOCAL", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file.*; name another folder in RAYGAP_LOCAL"):
        local_store(small_store.path)
