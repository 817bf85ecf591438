"""Sweep over clips of your own: here a film and a sound file each, made on the spot, and the manifest that lists them.

`python own_clips.py` in any folder. With your own media only the second half is needed.
"""

import csv
from pathlib import Path

import av
import numpy as np
import soundfile

import raygap

folder, random = Path("my_clips"), np.random.default_rng(0)
folder.mkdir(exist_ok=True)
with (folder / "manifest.csv").open("w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["video", "audio", "label", "split"])
    for number in range(36):
        label, split = ("low", "high")[number % 2], ("train", "train", "train", "train", "val", "test")[number // 2 % 6]
        with av.open(str(folder / f"{number}.mp4"), "w") as film:
            stream = film.add_stream("libx264", rate=10, options={"crf": "30"})
            stream.width = stream.height = 32
            for _ in range(10):
                picture = random.integers(0, 100, (32, 32, 3)) + (100 if label == "high" else 0)
                film.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8))))
            film.mux(stream.encode())
        hertz = random.normal(800 if label == "high" else 300, 100)
        soundfile.write(folder / f"{number}.wav", 0.3 * np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000), 16_000)
        rows.writerow([f"{number}.mp4", f"{number}.wav", label, split])

settings = {"prepare.seconds": 1.0, "prepare.frame_size": 16, "model.encoder": "small_cnn", "model.width": 4}
settings |= {"warmup.epochs": 1, "purify.epochs": 0, "optimizer.batch_size": 8}
run = raygap.sweep("manifest", root=folder, trials=2, epochs=3, seeds=1, set=settings, wandb="disabled")
print(run.trials[["state", "best_val_accuracy"]], *run.notes, sep="\n")
print(raygap.predict([folder / "0.mp4", folder / "1.wav"], checkpoint=run.folder))
