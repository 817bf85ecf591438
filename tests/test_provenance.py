import getpass
import platform
import subprocess
from pathlib import Path

import pytest

from raygap import provenance
from raygap.provenance import FACTS, in_words, made_by


def test_what_made_a_result_names_no_person_no_host_and_no_folder() -> None:
    facts = made_by()
    assert {"python", "torch", "ray", "optuna", "cpu", "date"} <= facts.keys() <= set(FACTS)
    private = {platform.node(), str(Path.home()), str(Path(__file__).parents[1]), "/"}
    assert not [value for value in facts.values() for secret in private if secret in value]
    assert getpass.getuser() not in facts.values()
    line = in_words(facts)
    assert all(value in line for value in facts.values())
    assert "\n" not in line


def test_the_commit_is_that_of_the_code_and_changed_code_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit() -> str:
        provenance._commit.cache_clear()
        return made_by().get("commit", "")

    code = tmp_path / "raygap" / "provenance.py"
    code.parent.mkdir()
    code.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(code))
    assert commit() == ""  # installed, not checked out
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD")
    (tmp_path / "note.txt").write_text("beside the code")
    assert commit() == head[:12]
    code.write_text("changed")
    assert commit() == f"{head[:12]}-dirty"
    monkeypatch.undo()
    provenance._commit.cache_clear()
