"""The benchmark of a GPU: all its parts run, on little, without one, and no part ends the others."""

import sys
from pathlib import Path

import pytest

# The benchmarks are scripts beside the package, not a part of it.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import gpu


@pytest.mark.parametrize("name", gpu.PARTS)
def test_each_part_runs_on_a_cpu(name: str) -> None:
    said = "\n".join(gpu.PARTS[name]("cpu", True))
    if name == "trunk":  # what is claimed of the CPU everywhere
        assert said.count("equal to the last bit in all metrics of 6 epochs") == 2
        assert "with 2 epochs of warm-up taken over" in said
        return
    header, rule, *rows = said.splitlines()
    assert rows
    assert {line.count("|") for line in (rule, *rows)} == {header.count("|")}
    if name == "parity":
        assert all(row.endswith("| 0.0e+00 |") for row in rows)


def test_a_part_that_fails_or_lasts_too_long_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    cases = "trunk) exec sleep 60;; steps) echo Traceback >&2; echo Oops: no >&2; exit 1;;"
    python.write_text(f"#!/bin/sh\necho a line\ncase $3 in {cases} esac\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(gpu, "LIMITS", gpu.LIMITS | {"trunk": 0.5})
    gpu.main("cpu", True, tmp_path / "gpu.md", None)
    said = capsys.readouterr().out
    assert said.count("a line") == len(gpu.PARTS)
    assert "Steps failed: Oops: no." in said
    assert "Trunk ran into its limit of 0 s." in said or "Trunk ran into its limit of 1 s." in said
    assert said.count("Took ") == len(gpu.PARTS) - 2
    assert not (tmp_path / "gpu.md").exists()


def test_all_limits_together_are_eight_minutes() -> None:
    assert sum(gpu.LIMITS.values()) <= 8 * 60
