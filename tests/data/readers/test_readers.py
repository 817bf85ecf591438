import pytest

from raygap.data.clips import ReaderOptions
from raygap.data.readers import read_clips
from raygap.errors import UserError
from raygap.search.plan import Plan, make_folder, read_plan, write_plan


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


def test_options_that_a_data_set_has_no_use_for_are_refused(data_set):
    with pytest.raises(UserError, match="--val: --dataset manifest has no use for it; leave it out"):
        read_clips("manifest", data_set, ReaderOptions(val="actors"))
    with pytest.raises(UserError, match="--keep-overlap: --dataset cremad has no use for it"):
        read_clips("cremad", data_set, ReaderOptions(keep_overlap=True))


def test_given_options_as_the_commands_take_them():
    assert ReaderOptions().given() == {}
    assert ReaderOptions("lists", "actors", True).given() == {
        "--splits": "lists",
        "--val": "actors",
        "--keep-overlap": "",
    }


@pytest.mark.parametrize("given", [ReaderOptions(), ReaderOptions("/lists", "actors", True)])
def test_a_sweeps_plan_keeps_the_options(tmp_path, given):
    plan = Plan("demo", None, 2, {}, {}, "", reader=given)
    make_folder(tmp_path / "run", new=True)
    write_plan(plan, tmp_path / "run")
    assert read_plan(tmp_path / "run") == plan
