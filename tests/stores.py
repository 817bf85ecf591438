"""Small stores made without media: training tests need clips that can be learnt, not files that can be decoded."""

from pathlib import Path

import numpy as np

from raygap.config import Prepare
from raygap.data.clips import Clip, ClipList
from raygap.data.media.pictures import frames_shape
from raygap.data.media.spectrogram import spectrogram_shape
from raygap.data.store import Store, StoreWriter

SETTINGS = Prepare(frame_size=8, seconds=0.5, n_mels=8, n_fft=512, hop_length=1000)
SMALL = {
    "prepare.frame_size": 8,
    "model.width": 4,
    "epochs": 6,
    "warmup.epochs": 2,
    "purify.epochs": 1,
    "optimizer.batch_size": 16,
    "mixture.n_init": 1,
}
"""Fields of a configuration that trains in about a second on `write_store`."""


def write_store(folder: Path, *, clips: int = 72, classes: int = 3, seed: int = 0, test_seed: int = 0) -> Store:
    """Two thirds train, the rest val and test. Sound tells the class clearly, the picture less so.

    `test_seed` changes the content of the test clips alone.
    """
    names = tuple(f"class{i}" for i in range(classes))
    splits = ["train"] * (2 * clips // 3) + ["val"] * (clips // 6)
    splits += ["test"] * (clips - len(splits))
    listed = [Clip(f"clip{i}", Path(f"{i}.mp4"), None, names[i % classes], split) for i, split in enumerate(splits)]
    clip_list = ClipList("small", tuple(listed), names, Path())
    folder.mkdir(parents=True)
    writer = StoreWriter(folder, clips, SETTINGS)
    patterns = np.random.default_rng(0)
    sounds = patterns.normal(0, 1, (classes, *spectrogram_shape(SETTINGS)))
    pictures = patterns.integers(40, 215, (classes, *frames_shape(SETTINGS)))
    for row, clip in enumerate(listed):
        noise = np.random.default_rng([seed, row, test_seed if clip.split == "test" else 0])
        sound = sounds[row % classes] + noise.normal(0, 1.0, sounds.shape[1:])
        picture = pictures[row % classes] + noise.normal(0, 90, pictures.shape[1:])
        writer.write(row, picture.clip(0, 255).astype(np.uint8), sound.astype(np.float16))
    statistics = {"spectrogram_mean": 0.0, "spectrogram_std": 1.0, "frame_mean": [128.0] * 3, "frame_std": [64.0] * 3}
    writer.finish(clip_list, f"key-{seed}", statistics, {})
    return Store.open(folder)
