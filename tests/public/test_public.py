"""What users call and set is what the lists say."""

import pytest
from listing import FOLDER, LISTS, listed


@pytest.mark.parametrize("name", LISTS)
def test_a_change_of_what_users_call_shows_in_the_diff(name: str) -> None:
    said = "options, fields or functions are not those of the list; if that is meant: python tests/public/listing.py"
    assert listed(name).splitlines() == (FOLDER / name).read_text(encoding="utf-8").splitlines(), said
