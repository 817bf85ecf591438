import numpy as np
import pytest
import torch

from raygap.config import Augment, Prepare
from raygap.data.augment import cut_out, cut_out_all, draw_boxes
from raygap.data.batches import _one_ahead, _read_on_gpu, batches, epoch_order
from raygap.data.readers.manifest import read_manifest
from raygap.data.store import Store, StoreWriter

CPU = torch.device("cpu")
SETTINGS = Prepare(frames=2, frame_size=32, n_mels=8)
STATISTICS = {
    "spectrogram_mean": -3.0,
    "spectrogram_std": 2.0,
    "frame_mean": [100.0, 110.0, 120.0],
    "frame_std": [50.0, 60.0, 70.0],
}


@pytest.fixture(scope="module")
def store(data_set, tmp_path_factory):
    """Twelve clips of smooth random pictures, both frames of a clip alike, and of noise for sound."""
    folder = tmp_path_factory.mktemp("store")
    clip_list, rng = read_manifest(data_set), np.random.default_rng(0)
    writer = StoreWriter(folder, 12, SETTINGS)
    for row in range(12):
        coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 4, 4)))
        picture = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")[0]
        frame = picture.permute(1, 2, 0).numpy().astype(np.uint8)
        writer.write(row, np.stack((frame, frame)), rng.normal(size=(8, 63)).astype(np.float16))
    writer.finish(clip_list, "key", STATISTICS, {})
    return Store.open(folder)


def read(store, *, rows=None, order=None, batch_size=5, augment=None, seed=0, epoch=0):
    rows = store.rows("train") if rows is None else rows
    order = np.arange(len(rows)) if order is None else order
    return list(
        batches(store, rows, batch_size=batch_size, order=order, device=CPU, augment=augment, seed=seed, epoch=epoch)
    )


def visual_by_clip(parts):
    return {int(i): picture for part in parts for i, picture in zip(part.index, part.visual, strict=True)}


def test_batches_hold_the_standardised_clips_in_order(store):
    rows, order = store.rows("train"), np.array([3, 1, 7, 0, 6, 2])
    parts = read(store, order=order, batch_size=4)
    assert [len(part.labels) for part in parts] == [4, 2]
    index = torch.cat([part.index for part in parts])
    assert index.dtype == torch.int64
    assert index.tolist() == order.tolist()
    chosen = rows[order]
    assert torch.cat([part.labels for part in parts]).tolist() == store.labels[chosen].tolist()
    audio, visual = torch.cat([part.audio for part in parts]), torch.cat([part.visual for part in parts])
    assert audio.shape == (6, 1, 8, 63)
    assert visual.shape == (6, 2, 3, 32, 32)
    assert audio.dtype == visual.dtype == torch.float32
    np.testing.assert_allclose(audio[:, 0], (store.spectrograms[chosen].astype("f") + 3) / 2, rtol=1e-5, atol=1e-6)
    frames = (store.frames[chosen] - np.array([100, 110, 120])) / np.array([50, 60, 70])
    np.testing.assert_allclose(visual, frames.transpose(0, 1, 4, 2, 3), rtol=1e-5, atol=1e-6)


def test_no_clips_give_no_batches(store):
    assert read(store, order=np.array([], np.int64), augment=Augment()) == []


def test_what_happens_to_a_clip_depends_on_seed_epoch_and_clip_alone(store):
    whole = visual_by_clip(read(store, batch_size=8, augment=Augment()))
    for parts in (
        read(store, batch_size=1, augment=Augment()),
        read(store, batch_size=3, augment=Augment(), order=epoch_order(8, 0, 0)),
        read(store, batch_size=3, augment=Augment(), order=np.array([5, 2])),  # one worker's share
    ):
        for i, picture in visual_by_clip(parts).items():
            assert torch.equal(picture, whole[i])
    for other in (read(store, augment=Augment(), epoch=1), read(store, augment=Augment(), seed=1)):
        # Another clip-by-clip draw; with boxes of whole pixels, one clip may get the same by chance.
        assert sum(torch.equal(picture, whole[i]) for i, picture in visual_by_clip(other).items()) <= 2


def test_all_frames_of_a_clip_get_the_same_crop_and_clips_get_different_ones(store):
    rows = np.zeros(200, np.int64)  # the same clip 200 times
    visual = torch.cat([part.visual for part in read(store, rows=rows, augment=Augment())])
    assert torch.equal(visual[:, 0], visual[:, 1])
    assert len({picture.numpy().tobytes() for picture in visual}) > 100


def test_without_crop_half_of_the_clips_are_mirrored(store):
    rows = np.zeros(400, np.int64)
    plain = read(store, rows=rows[:1])[0].visual[0]
    visual = torch.cat([part.visual for part in read(store, rows=rows, augment=Augment(crop=1, flip=True))])
    same = (visual - plain).abs().amax(dim=(1, 2, 3, 4)) < 1e-4
    mirrored = (visual - plain.flip(-1)).abs().amax(dim=(1, 2, 3, 4)) < 1e-4
    assert (same ^ mirrored).all()
    assert 150 < int(mirrored.sum()) < 250


def test_a_crop_shows_a_part_of_the_frame_of_the_announced_size(store, monkeypatch):
    # Pictures that say where they come from: red is the column, green the row.
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8) * 4, (32, 32))
    picture = np.stack((ramp, ramp.T, 0 * ramp), axis=-1)
    monkeypatch.setattr(store, "frames", np.broadcast_to(picture, (12, 2, 32, 32, 3)))
    rows = np.zeros(500, np.int64)
    visual = torch.cat([part.visual for part in read(store, rows=rows, augment=Augment(crop=0.5, flip=False))])
    columns = (visual[:, 0, 0] * 50 + 100) / 4
    lines = (visual[:, 0, 1] * 60 + 110) / 4
    # Within the picture the resized ramp is straight: its slope is the share of the side that is shown.
    width = (columns[:, 16, 20] - columns[:, 16, 12]) / 8
    height = (lines[:, 20, 16] - lines[:, 12, 16]) / 8
    torch.testing.assert_close(width, height, rtol=0, atol=1e-3)
    assert abs(float(width.min()) - 0.5) < 0.02
    assert abs(float(width.max()) - 1.0) < 0.02
    # Uniform: the mean of 500 draws from [0.5, 1] lies within four standard errors of 0.75.
    assert abs(float(width.mean()) - 0.75) < 4 * 0.5 / np.sqrt(12 * 500)
    for middle, side in ((columns[:, 16, 15:17].mean(1), width), (lines[:, 15:17, 16].mean(1), height)):
        assert (middle - 16 * side >= -0.9).all()
        assert (middle + 16 * side <= 31.9).all()
        assert float(middle.std()) > 2


@pytest.mark.parametrize("crop", [0.3, 0.6, 1.0])
def test_both_ways_of_cutting_out_agree(store, crop):
    boxes = draw_boxes(12, 32, Augment(crop=crop), seed=0, epoch=0)
    frames = torch.from_numpy(store.frames[:])
    visual = frames.permute(0, 1, 4, 2, 3).float()
    floats = cut_out_all(visual, torch.from_numpy(boxes))
    for picture, box, expected in zip(frames, boxes, floats, strict=True):
        found = cut_out(picture, box).permute(0, 3, 1, 2)
        assert found.dtype == torch.uint8
        # Half a level by rounding, and a little by the fixed-point weights.
        assert float((found - expected).abs().max()) < 1.01


def test_a_box_is_filled_by_its_own_pixels_alone():
    frames = torch.zeros((1, 32, 32, 3), dtype=torch.uint8)
    frames[:, 8:16, 4:12] = 255
    box = np.array([8, 4, 8, 0])
    assert (cut_out(frames, box) == 255).all()
    assert (cut_out_all(frames.permute(0, 3, 1, 2)[None].float(), torch.from_numpy(box)[None]) == 255).all()


@pytest.mark.parametrize("augment", [None, Augment(crop=0.5)])
def test_the_way_over_a_gpu_gives_the_same(store, augment):
    rows, order = store.rows("train"), np.array([3, 1, 7, 0])
    boxes = None if augment is None else draw_boxes(len(rows), 32, augment, 0, 0)
    [part] = read(store, order=order, augment=augment)
    [(index, audio, visual, labels)] = _read_on_gpu(store, rows, boxes, [order], CPU)
    assert torch.equal(index, part.index)
    assert torch.equal(labels, part.labels)
    torch.testing.assert_close(audio, part.audio)
    assert visual.shape == part.visual.shape
    assert float((visual - part.visual).abs().max()) < 1.01 / 50  # a level, by the smallest deviation


def test_memory_is_lent_again_only_when_nobody_looks_at_it(store):
    rows = np.tile(store.rows("train"), 5)
    kept = visual_by_clip(read(store, rows=rows, batch_size=4, augment=Augment()))
    addresses = set()
    reader = batches(store, rows, batch_size=4, order=np.arange(40), device=CPU, augment=Augment(), seed=0, epoch=0)
    for part in reader:
        addresses.add(part.visual.data_ptr())
        for i, picture in zip(part.index.tolist(), part.visual, strict=True):
            assert torch.equal(picture, kept[i])
    assert len(addresses) == 2


def test_threads_change_nothing(store):
    one = read(store, augment=Augment())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        many = read(store, augment=Augment())
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    for part, other in zip(one, many, strict=True):
        assert torch.equal(part.visual, other.visual)
        assert torch.equal(part.audio, other.audio)


def test_epoch_order_is_a_permutation_by_seed_and_epoch():
    order = epoch_order(100, 0, 0)
    assert sorted(order) == list(range(100))
    assert order.dtype == np.int64
    assert (order == epoch_order(100, 0, 0)).all()
    assert (order != epoch_order(100, 0, 1)).any()
    assert (order != epoch_order(100, 1, 0)).any()


def test_gathering_one_part_ahead_keeps_the_order():
    for count in range(4):
        assert list(_one_ahead(lambda part: part + 1, list(range(count)))) == list(range(1, count + 1))
