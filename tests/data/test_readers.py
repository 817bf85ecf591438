import pytest

from raygap.data.readers import read_clips
from raygap.errors import UserError


def test_a_manifest(data_set):
    assert len(read_clips("manifest", data_set).clips) == 12


def test_unknown_data_set():
    with pytest.raises(UserError, match=r"unknown data set; did you mean manifest\?"):
        read_clips("manifets", None)
    with pytest.raises(UserError, match="--dataset xyz: unknown data set; choose from manifest, demo"):
        read_clips("xyz", None)


def test_a_root_is_needed_and_must_exist(tmp_path):
    with pytest.raises(UserError, match="--dataset manifest: give --root, a CSV file or a folder"):
        read_clips("manifest", None)
    with pytest.raises(UserError, match=r"--root .*nowhere: no such file or folder"):
        read_clips("manifest", tmp_path / "nowhere")
