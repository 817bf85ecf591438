import shutil
from pathlib import Path

import pytest
from media import write_data_set

from raygap.data.clips import ReaderOptions
from raygap.data.prepared import note_source, noted_source
from raygap.data.readers import read_clips
from raygap.errors import UserError
from raygap.tasks.source import find_source

NOTED = ReaderOptions("/lists", "actors")


def test_what_was_prepared_last_is_read_where_no_root_is_given(tmp_path, capsys):
    assert find_source("cremad", None, ReaderOptions(), tmp_path) == (None, ReaderOptions())
    assert capsys.readouterr().out == ""
    note_source(tmp_path, "cremad", tmp_path / "old", ReaderOptions())
    note_source(tmp_path, "cremad", tmp_path / "data", NOTED)
    note_source(tmp_path, "ave", tmp_path / "others", ReaderOptions(keep_overlap=True))
    assert find_source("cremad", None, ReaderOptions(), tmp_path) == (tmp_path / "data", NOTED)
    assert capsys.readouterr().out == f"reading cremad from {tmp_path / 'data'}, as prepared last\n"


def test_what_is_given_wins(tmp_path, capsys):
    note_source(tmp_path, "cremad", tmp_path / "data", NOTED)
    found = find_source("cremad", None, ReaderOptions(val="stratified"), tmp_path)
    assert found == (tmp_path / "data", ReaderOptions("/lists", "stratified"))
    capsys.readouterr()
    # Another folder is another data set: what was noted of the first is no default for it.
    assert find_source("cremad", "/other", ReaderOptions(), tmp_path) == (Path("/other"), ReaderOptions())
    assert capsys.readouterr().out == ""


def test_roots_are_absolute_and_the_default_cache_is_looked_into(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYGAP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    note_source(Path("cache"), "ave", Path("data"), ReaderOptions())
    assert find_source("ave", None, ReaderOptions(), None) == (tmp_path / "data", ReaderOptions())


def test_the_demo_needs_no_root(tmp_path):
    note_source(tmp_path, "demo", tmp_path / "elsewhere", ReaderOptions())
    assert find_source("demo", None, ReaderOptions(), tmp_path) == (None, ReaderOptions())


def test_a_root_that_is_gone_is_named(tmp_path):
    (tmp_path / "data").mkdir()
    folder = write_data_set(tmp_path / "data", train=1)
    note_source(tmp_path, "manifest", folder, ReaderOptions())
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=rf"--root {folder}: no such file or folder; give the one that manifest lies"):
        read_clips("manifest", *find_source("manifest", None, ReaderOptions(), tmp_path))


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"root": "x"}', '{"root": "x", "reader": {"other": 1}}'])
def test_a_damaged_note_is_none(tmp_path, text):
    (tmp_path / "prepared-ave.json").write_text(text)
    assert noted_source(tmp_path, "ave") is None


def test_a_cache_that_cannot_be_written_is_left_alone(tmp_path):
    (tmp_path / "missing").touch()  # no folder, and none can be made
    note_source(tmp_path / "missing", "ave", tmp_path, ReaderOptions())
    assert noted_source(tmp_path / "missing", "ave") is None
