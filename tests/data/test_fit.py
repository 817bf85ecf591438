"""Settings for clips of one's own, chosen by their headers."""

import itertools
from pathlib import Path

import pytest
from matplotlib.image import imsave
from media import BLUE, RED, solid, tone, write_data_set, write_manifest, write_mp4, write_wav

from raygap.data.fit import OPENED, Fit, Seen, choose, fitted, look_at
from raygap.data.readers import read_clips
from raygap.schema import from_mapping
from raygap.search.plan import make_plan, trial_fields
from raygap.search.space import load_space


def chosen(gpu: bool = False, **seen: object) -> Fit:
    common = {"clips": 1000, "trained": 600, "classes": 4, "opened": 64, "half": 2.0, "most": 2.0, "side": 256}
    return choose(Seen(**common | {"frame_rate": 25.0, "rate": 44_100} | seen), gpu)


def test_headers_say_how_long_large_and_quick_clips_are(tmp_path: Path) -> None:
    rows = []
    for i, split in enumerate(("train", "train", "val", "test")):
        write_mp4(tmp_path / f"{i}.mp4", solid(RED, seconds=1.0 + i, height=48, width=64), None)
        write_wav(tmp_path / f"{i}.wav", tone(440, seconds=1.0 + i, rate=8_000), rate=8_000)
        row = {"video": f"{i}.mp4", "audio": f"{i}.wav", "label": "ab"[i % 2], "split": split, "start": "", "end": ""}
        rows += [row, row | {"start": 0.2, "end": 0.7}, row | {"start": 0.5}]
    write_manifest(tmp_path, rows)
    seen = look_at(read_clips("manifest", tmp_path))
    assert (seen.clips, seen.trained, seen.classes, seen.opened) == (12, 6, 2, 12)
    assert (seen.side, seen.still, seen.frame_rate, seen.rate) == (48, False, 25.0, 8_000)
    assert (seen.half, seen.most) == (pytest.approx(1.25, abs=0.3), pytest.approx(3.5, abs=0.05))


def test_still_pictures_and_files_that_cannot_be_read(tmp_path: Path) -> None:
    imsave(tmp_path / "p.png", solid(BLUE, seconds=0.04)[0])
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    write_wav(tmp_path / "s.wav", tone(440, seconds=0.5))
    rows = [
        {"video": "p.png", "audio": "s.wav", "label": "ab"[i % 2], "split": s, "start": i / 100, "end": 0.5}
        for i, s in enumerate(["train"] * 8 + ["val", "test"])
    ]
    write_manifest(tmp_path, [*rows, rows[0] | {"video": "broken.mp4"}])
    seen = look_at(read_clips("manifest", tmp_path))
    assert seen.still
    assert (seen.opened, seen.side, seen.most) == (10, 32, pytest.approx(0.49))
    assert choose(seen, gpu=True).fields["prepare.frames"] == 1
    nothing = Seen(10, 8, 2)
    assert "no file of them could be read" in choose(nothing, gpu=False).lines[0]


def test_a_bounded_sample_is_opened(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", solid(RED), tone(440))
    rows = [
        {"video": "a.mp4", "label": "ab"[i % 2], "split": ("train", "val", "test")[i % 3], "start": i / 1000}
        for i in range(3 * OPENED)
    ]
    write_manifest(tmp_path, rows)
    assert look_at(read_clips("manifest", tmp_path)).opened == OPENED


def test_whatever_the_clips_are_the_settings_can_be_trained_with() -> None:
    for gpu, most, rate, trained in itertools.product(
        (False, True), (0.05, 0.46, 2.003, 9.9, 300.0), (8_000, 48_000, None), (4, 200, 20_000)
    ):
        fit = chosen(gpu, most=most, rate=rate, trained=trained, side=20)
        prepare = from_mapping(load_space("manifest", None, None, fit).fixed).prepare
        assert min(most - 0.005, 10) <= prepare.seconds <= max(most + 0.1, 0.2)
        assert (prepare.frame_size, prepare.sample_rate) == (24, 8_000 if rate == 8_000 else 16_000)
        assert most < 0.2 or prepare.seconds * prepare.sample_rate / prepare.hop_length > 20
        assert len(fit.lines) == 5


def test_spoken_words_are_not_drowned_in_silence() -> None:
    fit = chosen(trained=200, half=0.4, most=0.46, rate=8_000)
    assert fit.fields["prepare.seconds"] == 0.5
    assert fit.fields["prepare.frames"] == 1
    assert fit.fields["prepare.sample_rate"] == 8_000
    assert 200 / fit.fields["optimizer.batch_size"] >= 20


def test_a_gpu_and_many_clips_make_it_larger() -> None:
    few, many, cpu = chosen(gpu=True), chosen(gpu=True, trained=5_000), chosen(trained=5_000)
    assert [fit.fields["model.encoder"] for fit in (few, many, cpu)] == ["small_cnn", "resnet18", "small_cnn"]
    assert cpu.fields["prepare.frame_size"] < many.fields["prepare.frame_size"]
    assert (cpu.trials, many.trials) == (24, None)
    assert [bool(fit.searched) for fit in (few, many, cpu)] == [True, False, False]


def test_what_was_chosen_is_noted_and_holds_elsewhere(tmp_path: Path) -> None:
    clips, cache = read_clips("manifest", write_data_set(tmp_path)), tmp_path / "cache"
    first = fitted(clips, cache, gpu=False)
    assert fitted(clips, cache, gpu=False) == first
    elsewhere = fitted(clips, cache, gpu=True)
    assert elsewhere.fields == first.fields
    assert "on a machine without a GPU, and this one has one: raygap prepare --refresh" in elsewhere.lines[-1]
    anew = fitted(clips, cache, gpu=True, anew=True)
    assert anew.fields != first.fields
    assert fitted(clips, cache, gpu=True) == anew
    # A damaged note is written again.
    (cache / "fit-manifest.json").write_text("{")
    assert fitted(clips, cache, gpu=False) == first


def test_what_is_given_wins_each_for_itself() -> None:
    fit = chosen()
    plan = make_plan("manifest", None, None, {"epochs": 33, "prepare.seconds": 4.0}, fit=fit, root=None, cache="")
    config = plan.check()
    assert (config.epochs, config.prepare.seconds, plan.trials) == (33, 4.0, 24)
    assert config.prepare.frame_size == fit.fields["prepare.frame_size"]
    assert "model.audio.encoder" in plan.space
    assert plan.notes[:5] == fit.lines
    tried = [(known.plain, known.fields.get("model.visual.encoder")) for known in plan.known]
    assert tried == [(True, None), (True, None), (True, "pooled"), (False, None), (False, "pooled")]
    one = make_plan("manifest", None, None, {"model.encoder": "resnet18"}, fit=fit, root=None, cache="")
    assert not {"model.audio.encoder", "model.visual.encoder"} & one.space.keys()
    # The longest warm-up is that of the space, in proportion.
    assert plan.space["warmup.epochs"] == {"randint": [0, 14]}
    fields, notes = trial_fields("manifest", {"model.width": 8}, {"epochs": 7}, fit)
    trial = from_mapping(fields)
    assert (trial.epochs, trial.model.width, trial.prepare) == (
        7,
        8,
        make_plan("manifest", None, None, {}, fit=fit, root=None, cache="").check().prepare,
    )
    assert tuple(notes[:5]) == fit.lines
