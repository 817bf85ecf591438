from pathlib import Path

import pytest

from raygap.config import Prepare
from raygap.data.clips import ReaderOptions
from raygap.data.readers import read_clips
from raygap.data.store import store_key
from raygap.errors import UserError


def excluding(data_set: Path, text: str, folder: Path) -> ReaderOptions:
    file = folder / "out.csv"
    file.write_text(text)
    return ReaderOptions(exclude=str(file))


def test_clips_that_a_file_names_are_left_out_and_make_other_data(data_set: Path, tmp_path: Path) -> None:
    whole = read_clips("manifest", data_set)
    gone = [clip.id for clip in whole.clips if clip.split == "train"][:2]
    # As a diagnosis writes it: with other columns, and a clip that two kinds of damage name.
    text = "id,split,kind\n" + "".join(f"{name},train,sound\n" for name in (*gone, gone[0]))
    kept = read_clips("manifest", data_set, excluding(data_set, text, tmp_path))
    assert {clip.id for clip in whole.clips} - {clip.id for clip in kept.clips} == set(gone)
    assert kept.notes[-1] == "clips left out, as out.csv says: 2 of train"
    assert store_key(kept, Prepare()) != store_key(whole, Prepare())
    same = read_clips("manifest", data_set, excluding(data_set, f"clip\n{gone[1]}\n{gone[0]}\n", tmp_path))
    assert store_key(same, Prepare()) == store_key(kept, Prepare())
    assert ReaderOptions(exclude="out.csv").given() == {"--exclude": "out.csv"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id\nnobody.mp4\n", "manifest has no clip 'nobody.mp4'; give a file that was made of this data set"),
        ("name\nx\n", "no column id; name the clips to leave out in one"),
        ("", "the file is empty"),
        ("all", "what it leaves is no data set: no clips with split train"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(
    data_set: Path, tmp_path: Path, text: str, message: str
) -> None:
    if text == "all":
        train = [clip.id for clip in read_clips("manifest", data_set).clips if clip.split == "train"]
        text = "\n".join(["id", *train])
    with pytest.raises(UserError, match=message) as error:
        read_clips("manifest", data_set, excluding(data_set, text, tmp_path))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"--exclude .*gone.csv: no such file"):
        read_clips("manifest", data_set, ReaderOptions(exclude=str(tmp_path / "gone.csv")))
