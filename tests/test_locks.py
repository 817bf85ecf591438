"""File systems without locks or symbolic links, as calls of the system that refuse."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import optuna
import pytest

from raygap.data.store import written_once
from raygap.locks import _told
from raygap.patience import patiently
from raygap.search.journal import open_storage
from raygap.search.plan import locked
from raygap.search.study import STUDY
from raygap.training.trunk import _take_turn


def refusing(number: int) -> Any:
    def refuse(*arguments: Any, **more: Any) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def _no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(request.param))


@pytest.mark.usefixtures("_no_locks")
def test_without_locks_all_goes_on_and_it_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _told.clear()
    with locked(tmp_path), (tmp_path / ".lock").open("a") as file:
        assert list(_take_turn(file)) == []
    assert [record.message.startswith(f"{tmp_path}: no locks here") for record in caplog.records] == [True]


@pytest.mark.usefixtures("_no_locks")
def test_without_locks_two_copies_do_not_meet_and_the_first_stays(tmp_path: Path) -> None:
    with written_once(tmp_path / "copy") as one:
        with written_once(tmp_path / "copy") as other:
            assert one != other
            (other / "file").write_text("other")
        (one / "file").write_text("one")
    assert (tmp_path / "copy" / "file").read_text() == "other"
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_study_needs_no_symbolic_links(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "symlink", refusing(number))
    optuna.create_study(study_name=STUDY, storage=open_storage(tmp_path / "journal"))
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.ENAMETOOLONG])
def test_a_refusal_for_good_is_not_waited_for(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits"))
    with pytest.raises(OSError, match=os.strerror(number)):
        patiently(refusing(number))
