"""A sweep as it is written today, from the parts that Ray's documentation shows: what sweep_cost.py compares with.

* Ray Tune with OptunaSearch and ASHA; a trial is a function around a TorchTrainer (Ray Train V2) of one worker, whose
  TuneReportCallback passes the epochs' metrics on; a checkpoint is reported every epoch and the newest is kept.
* The clips lie as JPEGs (quality 95, at the size that the network sees) and wav files (16 bit, at the rate of the
  recipe): what scripts that extract frames and sound leave, in the smallest form. A torch Dataset opens a clip's files,
  crops, flips and scales each frame with torchvision, and computes the log-mel spectrogram; a DataLoader with one
  process, which lives as long as the trial, makes the batches.
* Every trial trains from its first epoch.

Network, losses, mixture, schedule and validation are raygap's own: a trial differs in how it is run and fed, not in
what it learns. Its random crops are torch's, so its numbers agree with raygap's within chance, not to the bit.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import ray
import ray.train
import soundfile
import torch
from PIL import Image
from ray import tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from raygap.config import Augment, Prepare, TrialConfig
from raygap.data.batches import Batch
from raygap.data.clips import Clip, ClipList
from raygap.data.media.files import open_media
from raygap.data.media.pictures import decode_frames
from raygap.data.media.sound import decode_audio, decode_audio_file
from raygap.data.media.spectrogram import Spectrogram
from raygap.data.store import Store
from raygap.schema import from_mapping
from raygap.tracking.wandb.layout import VALUE
from raygap.training import checkpoint, evaluation, trainer
from raygap.training.trainer import Trainer

LOADER_PROCESSES = 1
"""Of a trial's DataLoader. More do not help where trials share the cores; none, and training waits for each clip."""
SLOT = "trial_slot"
"""A resource of our own for the functions that wait for their trainer: they must not take the trainer's CPUs."""


def write_files(clip_list: ClipList, store: Store, settings: Prepare, folder: Path) -> None:
    """JPEGs and sound.wav of every clip of the store, in a folder a clip; what is there is kept."""
    clips = {clip.id: clip for clip in clip_list.clips}
    for clip_id in store.clip_ids:
        if not (folder / clip_id / "sound.wav").exists():
            _write_clip(clips[clip_id], settings, folder / clip_id)


def _write_clip(clip: Clip, settings: Prepare, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open_media(clip.video) as container:
        if clip.audio:
            sound = decode_audio_file(clip.audio, clip.start, clip.end, settings.sample_rate)
        else:
            sound = decode_audio(container, clip.start, clip.end, settings.sample_rate)
        frames, _ = decode_frames(container, clip.start, clip.end, settings)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{i:05d}.jpg", quality=95)
    soundfile.write(folder / "sound.wav", sound.clip(-1, 1), settings.sample_rate, subtype="PCM_16")


class ClipFiles(Dataset):
    """Opens the files of a clip, and makes of them what the network sees."""

    def __init__(self, store: Store, rows: np.ndarray, folder: Path, augment: Augment | None) -> None:
        settings, statistics = Prepare(**store.header["settings"]), store.header["statistics"]
        self.folders = [folder / store.clip_ids[row] for row in rows]
        self.labels = store.labels[rows]
        self.frames = settings.frames
        self.spectrogram = Spectrogram(settings)
        self.sound_scale = statistics["spectrogram_mean"], statistics["spectrogram_std"]
        changes: list[Callable] = []
        if augment:
            area = (augment.crop**2, 1.0)
            changes.append(transforms.RandomResizedCrop(settings.frame_size, scale=area, ratio=(1.0, 1.0)))
            changes += [transforms.RandomHorizontalFlip()] * augment.flip
        scale = [[value / 255 for value in statistics[name]] for name in ("frame_mean", "frame_std")]
        self.picture = transforms.Compose([*changes, transforms.ToTensor(), transforms.Normalize(*scale)])

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, torch.Tensor, int]:
        """Position, spectrogram (1, F, S), frames (T, 3, H, W) and label."""
        folder = self.folders[index]
        waveform, _ = soundfile.read(folder / "sound.wav", dtype="float32")
        mean, deviation = self.sound_scale
        sound = (torch.from_numpy(self.spectrogram(waveform)).float() - mean) / deviation
        pictures = [self.picture(Image.open(folder / f"{i:05d}.jpg").convert("RGB")) for i in range(self.frames)]
        return index, sound[None], torch.stack(pictures), int(self.labels[index])


class FileBatches:
    """Stands in for raygap.data.batches.batches: a DataLoader for training and one for validation, made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaders: dict[tuple[bool, int], tuple[DataLoader, list[list[int]]]] = {}

    def __call__(
        self,
        store: Store,
        rows: np.ndarray,
        *,
        batch_size: int,
        order: np.ndarray,
        device: torch.device,
        augment: Augment | None,
        **others: Any,
    ) -> Iterator[Batch]:
        """As batches; the seed and the epoch are not used, torch's own generator draws."""
        key = augment is not None, len(rows)
        if key not in self.loaders:
            self.loaders[key] = self._loader(ClipFiles(store, rows, self.folder, augment))
        loader, parts = self.loaders[key]
        parts[:] = [order[first : first + batch_size].tolist() for first in range(0, len(order), batch_size)]
        if len(parts) > 1 and len(parts[-1]) == 1:  # batch normalisation cannot train on a lone clip
            parts[-2:] = [parts[-2] + parts[-1]]
        places = iter(np.split(np.arange(len(order)), np.cumsum([len(part) for part in parts])[:-1]))
        for tensors in loader:
            index, audio, visual, labels = (tensor.to(device, non_blocking=True) for tensor in tensors)
            yield Batch(index, audio, visual, labels, len(labels), len(labels), next(places))

    @staticmethod
    def _loader(files: ClipFiles) -> tuple[DataLoader, list[list[int]]]:
        parts: list[list[int]] = []
        loader = DataLoader(
            files,
            batch_sampler=parts,
            num_workers=LOADER_PROCESSES,
            persistent_workers=LOADER_PROCESSES > 0,
            pin_memory=torch.cuda.is_available(),
        )
        return loader, parts


def read_files(folder: Path) -> None:
    """From here on, this process trains and validates on the files in this folder."""
    trainer.batches = evaluation.batches = FileBatches(folder)


def train_loop(settings: dict[str, Any]) -> None:
    """What the TorchTrainer's worker does: a trial from its first epoch, or from its own last checkpoint."""
    config = from_mapping(settings["config"])
    torch.manual_seed(config.seed)
    read_files(Path(settings["files"]))
    training = Trainer(config, Store.open(Path(settings["store"])))
    if earlier := ray.train.get_checkpoint():
        with earlier.as_directory() as folder:
            training.load_state_dict(checkpoint.load(Path(folder) / "checkpoint.pt", training.device))
    while not training.finished:
        metrics = training.train_epoch()
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "checkpoint.pt").write_bytes(checkpoint.dumps(training.state_dict()))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def train_nested(loop: Callable[[dict[str, Any]], None], settings: dict[str, Any], folder: Path) -> None:
    """Run a training function in the one worker of a TorchTrainer, from inside a Tune trial."""
    worker: dict[str, float] = {"CPU": settings["cpus"]} | ({"GPU": settings["gpus"]} if settings["gpus"] else {})
    TorchTrainer(
        loop,
        train_loop_config=settings,
        scaling_config=ray.train.ScalingConfig(
            num_workers=1, use_gpu=settings["gpus"] > 0, resources_per_worker=worker
        ),
        run_config=ray.train.RunConfig(
            name=f"train-{tune.get_context().get_trial_id()}",
            storage_path=str(folder),
            callbacks=[TuneReportCallback()],
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    ).fit()


def run_trial(params: dict[str, Any], fixed: dict[str, Any], settings: dict[str, Any], folder: str) -> None:
    """A trial, as Ray Tune calls it."""
    train_nested(train_loop, settings | {"config": fixed | params}, Path(folder))


@dataclass(frozen=True)
class Sweep:
    """What the sweep is to do."""

    fixed: dict[str, Any]
    domains: dict[str, Any]
    points: list[dict[str, Any]]
    """The configurations, in their order."""
    store: Path
    files: Path
    folder: Path
    concurrency: int
    cpus: float
    gpus: float
    """What each trial's worker gets."""
    early_stopping: bool


def run(sweep: Sweep, config: TrialConfig) -> tune.ResultGrid:
    """Run it; Ray must be up, with `concurrency` of the resource SLOT. `config` has the stages at their longest."""
    # The same verdicts as raygap's: not before the first adaptive epoch of the trial with the longest warm-up.
    asha = ASHAScheduler(
        time_attr="training_iteration",
        max_t=config.epochs,
        grace_period=min(config.warmup.epochs + 1, config.epochs),
        reduction_factor=3,
    )
    settings = {"store": str(sweep.store), "files": str(sweep.files), "cpus": sweep.cpus, "gpus": sweep.gpus}
    folder = str(sweep.folder.resolve())
    trial = tune.with_parameters(run_trial, fixed=sweep.fixed, settings=settings, folder=folder)
    tuner = tune.Tuner(
        tune.with_resources(trial, {SLOT: 1}),
        param_space=sweep.domains,
        tune_config=tune.TuneConfig(
            metric=VALUE,
            mode="max",
            search_alg=OptunaSearch(
                sampler=optuna.samplers.TPESampler(seed=config.seed), points_to_evaluate=sweep.points
            ),
            scheduler=asha if sweep.early_stopping else None,
            num_samples=len(sweep.points),
            max_concurrent_trials=sweep.concurrency,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=folder, verbose=0),
    )
    return tuner.fit()
