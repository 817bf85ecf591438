"""What W&B would refuse once a sweep runs is refused before, by the name of the variable or option."""

import os
from pathlib import Path

import pytest

from raygap.errors import UserError
from raygap.tracking.wandb.callback import asked_mode, check_login, sweep_log


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("WANDB_PROJECT", "my/project", "WANDB_PROJECT 'my/project': Invalid project name"),
        ("WANDB_PROJECT", "x" * 129, "exceeded 128 characters"),
        ("WANDB_PROJECT", "  ", "WANDB_PROJECT '  ': expected a project's name"),
        ("WANDB_ENTITY", "team/project", "WANDB_ENTITY 'team/project': expected the name of a team or user"),
        ("WANDB_BASE_URL", "localhost:8080", "WANDB_BASE_URL 'localhost:8080': URL scheme should be 'http' or 'https'"),
        ("WANDB_BASE_URL", "https://wandb.ai", "did you mean"),
        ("WANDB_MODE", "nowhere", "WANDB_MODE=nowhere: expected online, offline or disabled"),
        ("WANDB_DISABLED", "perhaps", "WANDB_DISABLED=perhaps: expected true or false"),
        ("WANDB_INIT_TIMEOUT", "soon", "WANDB_INIT_TIMEOUT 'soon'"),
        ("WANDB_API_KEY", "secret word", "W&B's key, of WANDB_API_KEY or a netrc file: "),
    ],
)
def test_illegal_variables_are_named(variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError) as refused:
        check_login(None)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)
    check_login("disabled")  # nobody will look at it


def test_illegal_options_are_named() -> None:
    with pytest.raises(UserError, match="--wandb-project 'a:b': Invalid project name"):
        check_login("offline", project="a:b")
    with pytest.raises(UserError, match="--wandb-entity 'a/b': expected the name of a team or user"):
        check_login("offline", entity="a/b")
    check_login("offline", project="Ein Projekt é", entity="team-1")


def test_who_disables_wandb_is_heeded_unless_an_option_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert asked_mode(None) == "offline"
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert asked_mode(None) == "disabled"
    assert asked_mode("offline") == "offline"
    with sweep_log(tmp_path, "demo", None, None, None) as log:
        assert log is None
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("WANDB_DISABLED", "false")
    assert asked_mode(None) == "offline"
