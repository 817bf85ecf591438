"""raygap export on a network that was trained on media: predict's answers, the docs' own lines, and the card."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import raygap
from raygap.data.clips import ReaderOptions
from raygap.data.prepare import prepare
from raygap.data.readers.manifest import read_manifest
from raygap.data.store import Store
from raygap.errors import UserError
from raygap.schema import from_mapping
from raygap.tasks.diagnose import find_data
from raygap.training.run import train

DOCS = Path(__file__).parents[2] / "docs" / "export.md"
FIELDS = {"method": "unimodal_losses", "epochs": 2, "model.width": 4, "warmup.epochs": 1, "purify.epochs": 0}
FIELDS |= {"prepare.seconds": 0.5, "prepare.frames": 2, "prepare.frame_size": 16, "optimizer.batch_size": 4}


def test_the_lines_of_the_docs_give_what_predict_gives(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = from_mapping(FIELDS)
    store = Store.open(prepare(read_manifest(data_set), config.prepare, tmp_path / "cache", workers=1))
    list(train(config, store, tmp_path / "run"))
    best = tmp_path / "run" / "best.pt"
    file = raygap.export(best, "torch")
    assert file == tmp_path / "run" / "model.pt2"
    videos = [data_set / name for name in store.clips["video"].to_pylist()[:5]]
    predicted = raygap.predict(videos, best, workers=1)

    for name in ("frames.npy", "spectrograms.npy"):
        shutil.copy(store.path / name, file.parent / name)
    monkeypatch.chdir(file.parent)
    [code] = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 20
    told: dict = {}
    exec(code, told)
    for name in ("fused", "audio", "visual"):
        columns = [f"{name}_{label}" for label in store.class_names]
        np.testing.assert_allclose(told["answer"][name], predicted[columns].to_numpy(), atol=1e-5)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == predicted["class"].tolist()

    card = file.with_name("model.pt2.md").read_text(encoding="utf-8")
    for part in (
        "license: unknown",
        "2 classes apart: ",
        "| this network, uncorrected | val |",
        "method: unimodal_",
    ):
        assert part in card
    tensors = raygap.export(best, "safetensors")
    assert raygap.predict(videos, tensors, workers=1).equals(predicted)
    asked = find_data(tensors, "manifest", data_set, ReaderOptions(), None, 0.05)
    assert asked is not None  # diagnose takes it for a network, not for a file of predictions
    assert asked.root == data_set


def test_what_cannot_be_written_is_said_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"nothing")
    for to, out, said in (
        ("torch", tmp_path / "model.onnx", r"out .*model.onnx: to torch writes .pt2; end it so"),
        ("onnx", tmp_path / "gone" / "model.onnx", "there is no folder"),
        ("tflite", None, "to = 'tflite'"),
    ):
        with pytest.raises(UserError, match=said):
            raygap.export(tmp_path / "best.pt", to, out=out)
    with pytest.raises(UserError, match="no such checkpoint"):
        raygap.export(tmp_path / "gone.pt", "torch")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        raygap.export(tmp_path / "best.pt", "torch")
