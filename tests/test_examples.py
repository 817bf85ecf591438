"""The scripts in examples/ do what they say."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("own_*.py")), ids=lambda file: file.stem)
def test_an_example_of_ones_own_code_passes_its_checks_and_trains(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runpy.run_path(str(file), run_name="__main__")
    assert "epoch 6, purification: val_accuracy" in capsys.readouterr().out
