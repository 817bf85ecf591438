"""Code of one's own by name: what it may be, what is refused, and that configurations know it everywhere."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from media import write_data_set
from stores import SMALL
from test_commands import call, refusal

from raygap import plugins
from raygap.data.clips import ClipList
from raygap.data.readers import read_clips
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.methods import find_method
from raygap.models.network import make_network
from raygap.plugins import is_installed, load_plugin, own_code
from raygap.schema import can_act, field_paths, from_mapping, parse_assignments, trial_schema
from raygap.search.comparison import Comparison, read_comparison, write_comparison
from raygap.search.plan import make_plan
from raygap.testing import check_encoder, check_method, check_reader
from raygap.training.check import check_trial
from raygap.training.trainer import Trainer
from raygap.training.trunk import warmup_key

METHOD = """
from pydantic import Field
from raygap.config import LATER, Section
from raygap.methods.unimodal_losses import UnimodalLosses

class Settings(Section):
    weight: float = Field(0.01, ge=0, le=10, json_schema_extra=LATER)
    '''Weight of the distance.'''

class Mine(UnimodalLosses):
    sections = UnimodalLosses.sections | {"mine": Settings}

    def adaptive_terms(self, outputs, labels, index):
        apart = (outputs.audio - outputs.visual).float().square().mean()
        return super().adaptive_terms(outputs, labels, index) | {"mine": self.config.mine.weight * apart}
"""
ENCODER = """
import torch

class Flat(torch.nn.Module):
    def __init__(self, channels, out_features):
        super().__init__()
        self.out_features = out_features
        self.layer = torch.nn.Linear(channels * 2, out_features)
        self.drop = torch.nn.Dropout(0.2)

    def forward(self, x):
        return self.drop(self.layer(torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)))

def make(model, channels):
    return Flat(channels, model.width)
"""
READER = """
from raygap.data.clips import Clip, ClipList

def read(root, options):
    lines = [line.split(",") for line in (root / "manifest.csv").read_text().splitlines()[1:]]
    clips = [Clip(str(i), root / video, None, label, split) for i, (video, label, split) in enumerate(lines)]
    return ClipList("", tuple(clips), tuple(sorted({clip.label for clip in clips})), root)
"""

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module into an empty working directory; returns its name. All is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def to(name: str, text: str) -> str:
        file = (tmp_path / Path(*name.split("."))).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return name

    yield to
    for name in set(sys.modules) - before:
        places = (getattr(sys.modules[name], "__file__", None), *getattr(sys.modules[name], "__path__", ()))
        if any(str(place).startswith(str(tmp_path)) for place in places):
            del sys.modules[name]
    plugins.LOADED.clear()
    trial_schema.cache_clear()


def test_a_method_of_ones_own_has_its_settings_and_does_what_is_asked_of_all(write: Write, small_store: Store) -> None:
    name = write("my_pkg.losses", METHOD) + ":Mine"
    check_method(name, store=small_store)
    assert from_mapping({"method": name, "mine.weight": 0.5}).mine.weight == 0.5
    assert parse_assignments(["mine.weight=0.5"], [name]) == {"mine.weight": 0.5}
    with pytest.raises(UserError, match=r"unknown field 'mine\.wieght'; did you mean mine\.weight\?"):
        parse_assignments(["mine.wieght=0.5"], [name])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no module 'faulty'; the working directory"),
        ("import no_such_package", "no module 'no_such_package'"),
        ("class Mine(:", "cannot be imported (SyntaxError: invalid syntax (faulty.py, line 1))"),
        ("x = 1\n1 / 0", "cannot be imported (ZeroDivisionError: division by zero, in "),
        ("raise SystemExit(3)", "cannot be imported (SystemExit: 3"),
        ("", "faulty.py has no 'Mine'"),
        ("Mine = 3", "not a subclass of raygap.methods.base.Method"),
        ("from raygap.methods.base import Method\nclass Mine(Method): pass", "has no adaptive_terms"),
    ],
)
def test_a_method_that_is_none_is_refused_in_one_line(text: str | None, message: str, write: Write) -> None:
    if text is not None:
        write("faulty", text)
    assert message in refusal(call("sweep", "--dataset", "demo", "--method", "faulty:Mine"))


ONLY = "def make(model, channels): return "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "model.encoder faulty:make: no module 'faulty'"),
        ("", "has no 'make'"),
        ("make = 3", "fails for 1 channels (TypeError: 'int' object is not callable"),
        (ONLY + "undefined", "fails for 1 channels (NameError: name 'undefined' is not defined, in "),
        (ONLY + "lambda x: x", "gives no torch.nn.Module"),
        (f"import torch\n{ONLY}torch.nn.Conv2d(channels, 8, 3)", "its module needs out_features"),
        (f"import torch\n{ONLY}torch.nn.Linear(5, 8)", "fails on (2, 1, 64, "),
        (ENCODER.replace(", out_features)\n", ", 3)\n"), "makes (2, 3) of (2, 1, 64, "),
    ],
)
def test_an_encoder_that_is_none_is_refused_in_one_line(text: str | None, message: str, write: Write) -> None:
    if text is not None:
        write("faulty", text)
    for command in ("sweep", "train"):
        assert message in refusal(call(command, "--dataset", "demo", "--set", "model.encoder=faulty:make"))


def test_a_misspelt_encoder_is_told_its_name() -> None:
    with pytest.raises(UserError) as error:
        from_mapping({"model.encoder": "resnet_18"})
    assert str(error.value) == (
        "configuration: model.encoder = 'resnet_18': not the name of an encoder, package.module:function or timm:NAME; "
        "did you mean resnet18?"
    )


def test_an_encoder_of_ones_own_trains_and_keeps_the_weights_it_comes_with(write: Write) -> None:
    name = write("enc", ENCODER) + ":make"
    check_encoder(name)
    make_sevens = write("sevens", f"{ENCODER}\ndef sevens(model, channels):\n    e = Flat(channels, 8)\n"
                        "    torch.nn.init.constant_(e.layer.weight, 7.0)\n    return e\n") + ":sevens"  # fmt: skip
    network = make_network(from_mapping({"model.encoder": make_sevens}).model, 3, 0)
    assert torch.all(network.audio_encoder.layer.weight == 7)
    config = from_mapping({"model.encoder": name})
    check_trial(config)
    assert can_act("model.width", {"model.encoder": [name], "method": ["joint"]}.__getitem__)


FIRST_CLIP = 'Clip("0", root / "a.mp4", None, "x", "train")'
LISTED = "from raygap.data.clips import Clip, ClipList\n"
LISTED += "def read(root, options): return ClipList('', ({},), ('x', 'y'), root)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "--dataset faulty:read: no module 'faulty'"),
        ("read = 3", "not a function of (root, options)"),
        ("def read(root): pass", "fails on "),
        ("def read(root, options): return root / 1", "(TypeError: unsupported operand"),
        ("def read(root, options): return []", "gives no raygap.data.clips.ClipList"),
        (LISTED.format("3"), "clips holds 3"),
        (LISTED.format(FIRST_CLIP), "no clips with split val"),
        (LISTED.format(FIRST_CLIP + ", " + FIRST_CLIP), "id '0' of a clip is taken"),
        (LISTED.format(FIRST_CLIP.replace('"x"', '"z"')), "clip 0: label = 'z': not one of class_names"),
        (
            LISTED.format(FIRST_CLIP.replace("train", "training")),
            "split = 'training': expected one of train, val, test",
        ),
        (LISTED.format(FIRST_CLIP.replace('root / "a.mp4"', '"a.mp4"')), "video = 'a.mp4': expected a pathlib.Path"),
        (LISTED.format(FIRST_CLIP.replace('"train"', '"train", 2.0, 1.0')), "start = 2.0, end = 1.0"),
    ],
)
def test_a_reader_that_is_none_is_refused_in_one_line(text: str | None, message: str, write: Write) -> None:
    if text is not None:
        write("faulty", text)
    assert message in refusal(call("prepare", "--dataset", "faulty:read", "--root", "."))


def test_a_reader_of_ones_own_is_a_data_set_like_others(write: Write, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = write_data_set(tmp_path / "data")
    name = write("lists", READER) + ":read"
    clip_list = check_reader(name, data)
    assert isinstance(clip_list, ClipList)
    assert clip_list.name == name
    with pytest.raises(UserError, match="give --root"):
        read_clips(name, None)
    cache = ("--cache", tmp_path / "cache")
    small = ("--set", "prepare.frame_size=8", "--set", "prepare.frames=1")
    assert call("prepare", "--dataset", name, "--root", data, *cache, *small).exit_code == 0
    again = call("prepare", "--dataset", name, *cache, *small)
    assert f"reading {name} from {data}, as prepared last" in again.output
    assert not list((tmp_path / "cache").glob("*:*"))  # which other systems would misread
    assert make_plan(name, None, None, {}, root=None, cache="").space.keys() >= {"warmup.epochs"}


def test_what_a_data_set_fixes_and_searches_is_left_out_where_a_method_lacks_it(write: Write, tmp_path: Path) -> None:
    lean = "from raygap.methods.joint import Joint\nclass Lean(Joint): pass\n"
    name = write("lean", lean) + ":Lean"
    plan = make_plan("demo", name, None, {}, root=None, cache="")
    assert plan.check().method == name
    assert set(plan.space) <= set(field_paths(name))
    assert "not searched, as it cannot act here: " in plan.notes[-1]
    assert f"loss.align_weight ({name} has no such field)" in plan.notes[-1]


def test_a_comparison_fixes_for_each_method_what_it_has(write: Write, tmp_path: Path) -> None:
    name = write("mine", METHOD) + ":Mine"
    others: dict[str, Any] = {"root": None, "trials": 1, "budget": None, "seeds": 1, "paper": False, "cache": ""}
    comparison = Comparison("demo", methods=("joint", name), fixed={"mine.weight": 0.5, "epochs": 9}, **others)
    write_comparison(comparison, tmp_path / "c")
    plans = read_comparison(tmp_path / "c").plans()
    assert [plan.fixed.get("mine.weight") for plan in plans.values()] == [None, 0.5]
    assert list(plans) == ["joint", "mine.Mine"]  # folders
    with pytest.raises(UserError, match=r"--set ogm\.alpha: none of joint has such a field"):
        Comparison("demo", methods=("joint",), fixed={"ogm.alpha": 1}, **others).plans()


def test_code_counts_with_all_that_lies_beside_it_and_is_used(write: Write) -> None:
    write("pkg.a", "from . import b\nimport helper\nimport torch\ndef f():\n    from other.deep import x\n")
    write("pkg.b", "")
    write("helper", "import second")
    write("second", "import pkg")
    write("other.deep", "x = 1")
    write("unused", "")
    load_plugin("pkg.a:f", "--method")
    assert set(own_code("pkg.a")) == {"pkg/a.py", "pkg/b.py", "helper.py", "second.py", "other/deep.py"}
    assert not is_installed("pkg.a")
    assert is_installed("yaml")
    assert all(inside.startswith("yaml/") for inside in own_code("yaml"))


def test_the_code_of_an_encoder_is_in_the_key_of_a_shared_warmup(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    from raygap.training import trunk

    def key() -> str:
        trunk._digest.cache_clear()
        config = from_mapping({"method": "joint", "model.encoder": "enc.net:make"})
        return warmup_key(config, "store", find_method("joint"))

    monkeypatch.setattr(trunk, "_sources", lambda: "")
    write("enc.net", "import parts\n" + ENCODER)
    write("enc.beside", "")
    write("parts", "")
    load_plugin("enc.net:make", "model.encoder")
    keys = [key()]
    for name in ("parts", "enc.beside", "enc.net"):
        write(name, "# edited\n")
        keys.append(key())
    write("unused", "# not imported\n")
    assert len(set(keys)) == 4
    assert key() == keys[-1]


def test_checks_find_what_is_wrong(write: Write, small_store: Store) -> None:
    forgets = METHOD.replace("        apart =", "        self.n = getattr(self, 'n', 0) + 1\n        apart = self.n *")
    with pytest.raises(AssertionError, match="of a resumed training: state_dict lacks something"):
        check_method(write("forgets", forgets) + ":Mine", store=small_store)
    leaks = (
        METHOD
        + "\n    def plain_terms(self, outputs, labels):\n        terms = super().plain_terms(outputs, labels)\n"
        + ("        return terms | {'audio': terms['audio'] * self.config.mine.weight}\n")
    )
    with pytest.raises(AssertionError, match="on a shared warm-up: a setting marked LATER"):
        check_method(write("leaks", leaks) + ":Mine", store=small_store)
    bare = METHOD.replace("'''Weight of the distance.'''", "")
    with pytest.raises(AssertionError, match=r"mine\.weight: say in a docstring"):
        check_method(write("bare", bare) + ":Mine", store=small_store)
    unbounded = METHOD.replace("ge=0, le=10, ", "")
    with pytest.raises(AssertionError, match=r"mine\.weight: needs bounds"):
        check_method(write("unbounded", unbounded) + ":Mine", store=small_store)


def test_a_trial_learns_with_code_of_ones_own(write: Write, small_store: Store) -> None:
    fields = {"method": write("mine", METHOD) + ":Mine", "model.encoder": write("enc", ENCODER) + ":make"}
    trainer = Trainer(from_mapping(SMALL | fields), small_store)
    trainer.train_epoch()
    assert trainer.method.__module__ == "mine"
