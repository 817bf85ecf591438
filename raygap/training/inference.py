"""A trained network in use: its answers to clips in media files, and what it says of a store, for a closer look."""

import functools
import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor

from raygap.called import command
from raygap.config import Prepare, TrialConfig
from raygap.data.clips import Split
from raygap.data.decoding import Media, Parts, decode_parts, in_processes
from raygap.data.features import numbers, scaled
from raygap.data.media.pictures import frames_shape
from raygap.data.media.sound import SOUND_FILES
from raygap.data.media.spectrogram import spectrogram_shape
from raygap.data.predictions import MODALITIES, READOUTS, Predictions
from raygap.data.readers.features import read_unlabelled
from raygap.data.readers.folders import FileFinder
from raygap.data.readers.lists import BadLine, read_table
from raygap.data.store import Store
from raygap.data.tables import Row
from raygap.errors import UserError
from raygap.imbalance.correction import Correction
from raygap.imbalance.correction import from_mapping as correction_from_mapping
from raygap.imbalance.decision_layer import adds_up
from raygap.imbalance.estimate import Estimate
from raygap.methods import find_method
from raygap.models.encoders import MEDIA
from raygap.models.network import Network
from raygap.schema import from_mapping as config_from_mapping
from raygap.training import checkpoint
from raygap.training.ensemble import SOUP, mixed
from raygap.training.evaluation import EVALUATION_BATCH, predict
from raygap.training.final import kept_correction
from raygap.training.precision import autocast, pick_device
from raygap.training.run import load_network
from raygap.training.trainer import training_rows

SOUND_ONLY = (*SOUND_FILES, ".mp3", ".m4a", ".aac", ".opus", ".wma")
"""Files that are taken for sound alone: some carry a cover picture."""
BATCH = 64
"""Clips that are held decoded at a time, beside one a worker."""


@dataclass(frozen=True)
class Classifier:
    """A trained network with what it takes to prepare media for it as its training clips were."""

    config: TrialConfig
    network: Network
    class_names: tuple[str, ...]
    statistics: dict[str, Any]
    """As in a store's header."""
    device: torch.device
    fingerprint: str
    """Of the network (see fingerprint)."""
    path: Path
    """Of its best.pt."""
    correction: Correction | None = None
    """Of its decision layer, kept beside its weights, if it helped on validation beyond its interval."""
    gain: Estimate | None = None
    """Of accuracy there, cross-fitted."""
    members: tuple["Classifier", ...] = ()
    """Of an ensemble: its answer is the mean of their probabilities, by `weights`; all else here is the first one's."""
    weights: tuple[float, ...] = ()
    """They add up to 1."""

    @classmethod
    def load(cls, path: Path) -> "Classifier":
        """From a best.pt. Raises UserError if it is damaged, or from before such files held class names."""
        saved = _load(path)
        if "class_names" not in saved:
            raise UserError(
                f"{path}: written by an older raygap, without class names and statistics; train again with "
                f"{command('train')} and the config.yaml beside it"
            )
        config, network = load_network(path, len(saved["class_names"]))
        device = pick_device()
        names, statistics = tuple(saved["class_names"]), saved["statistics"]
        correction, gain = _helpful(saved.get("correction", {}))
        network = network.to(device).eval()
        return cls(config, network, names, statistics, device, _fingerprint(saved), path, correction, gain)

    @classmethod
    def of(cls, members: Sequence["Classifier"], weights: Sequence[float], kept: Mapping[str, Any]) -> "Classifier":
        """An ensemble of classifiers that were trained on one store; `kept` is its correction, as combine gives it."""
        said = " ".join(f"{one.fingerprint} {weight!r}" for one, weight in zip(members, weights, strict=True))
        correction, gain = _helpful(kept)
        return replace(
            members[0],
            fingerprint=hashlib.sha256(said.encode()).hexdigest()[:16],
            correction=correction,
            gain=gain,
            members=tuple(members),
            weights=tuple(weights),
        )

    @torch.no_grad()
    def logits(self, frames: np.ndarray, spectrograms: np.ndarray) -> dict[str, np.ndarray]:
        """Fused, audio and visual logits, (B, C) float32, of uint8 (B, T, H, W, 3) and float16 (B, F, S), or of
        features."""
        if self.members:
            return mixed([member.logits(frames, spectrograms) for member in self.members], self.weights)
        given = self.statistics
        if self.config.prepare.input == "features":
            arrays = (("audio", spectrograms), ("visual", frames))
            return self._read(*(torch.from_numpy(scaled(array, given, name)).to(self.device) for name, array in arrays))
        mean, deviation = (torch.tensor(given[name], device=self.device) for name in ("frame_mean", "frame_std"))
        visual = (torch.from_numpy(frames).to(self.device).float() - mean) / deviation
        audio = torch.from_numpy(spectrograms).to(self.device).float()
        audio = (audio - given["spectrogram_mean"]) / given["spectrogram_std"]
        return self._read(audio[:, None], visual.permute(0, 1, 4, 2, 3))

    def _read(self, audio: Tensor, visual: Tensor) -> dict[str, np.ndarray]:
        with autocast(self.config, self.device):
            outputs = find_method(self.config.method).predict(self.network, audio, visual)
        return {name: getattr(outputs, name).float().cpu().numpy() for name in READOUTS}


def _helpful(kept: Mapping[str, Any]) -> tuple[Correction | None, Estimate | None]:
    """The correction that is kept, with its gain, if it helped on validation."""
    if not kept.get("helps"):
        return None, None
    return kept_correction(dict(kept)), Estimate(kept["gain"], kept["half_width"])


@dataclass(frozen=True)
class Answer:
    """What a classifier says of a clip."""

    media: Media
    probabilities: dict[str, np.ndarray]
    """(C,) by read-out: fused, and those of the modalities that are there. Of one modality, fused is its read-out;
    empty if neither is there."""
    reasons: dict[str, str]
    """Why a modality is missing."""

    @property
    def used(self) -> str:
        """audio+visual, audio, visual, or none."""
        return "+".join(name for name in MODALITIES if name in self.probabilities) or "none"


def answers(
    classifier: Classifier,
    media: Sequence[Media],
    *,
    workers: int,
    correction: Correction | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Answer]:
    """Answers in the order of `media`, decoded by so many processes, in memory that does not grow with their pictures.

    A modality that cannot be decoded is left out; a clip without either has an answer that says why. `progress` is
    called with the clips done and the clips in all.
    """
    settings = classifier.config.prepare
    ready: dict[int, Answer] = {}
    batch: list[tuple[int, Parts]] = []
    done = 0
    decoded: Iterator[tuple[int, Parts | str]] = ((row, one.features) for row, one in enumerate(media))
    if settings.input == "media":
        decoded = in_processes(functools.partial(_decoder, settings), media, range(len(media)), workers)
    for row, result in decoded:
        # The decoder crashed on it: which modality is at fault is not known.
        parts = Parts(None, None, dict.fromkeys(MODALITIES, result)) if isinstance(result, str) else result
        batch.append((row, parts))
        if len(batch) < BATCH and done + len(ready) + len(batch) < len(media):
            continue
        for place, answer in _answer(classifier, media, batch, correction):
            ready[place] = answer
        batch = []
        while done in ready:
            yield ready.pop(done)
            done += 1
        if progress:
            progress(done + len(ready), len(media))


def combined_in_words(classifier: Classifier) -> list[str]:
    """That several networks answer, or their mean; empty for a single one of a training."""
    if classifier.members:
        return [f"answers are the mean over {len(classifier.members)} networks of the sweep, chosen on validation"]
    return ["answers are those of the mean of several trials' weights"] if classifier.path.name == SOUP else []


def answer_columns(class_names: Sequence[str]) -> dict[str, type]:
    """Columns of a table of answers; the probabilities are named as predictions.py reads them."""
    known: dict[str, type] = {**dict.fromkeys(("id", "used", "reason", "class"), str), "confidence": float}
    return known | {f"{name}_{label}": float for name in READOUTS for label in class_names}


def answer_row(answer: Answer, class_names: Sequence[str]) -> Row:
    """A row of such a table; what is not known is left out."""
    reasons = dict.fromkeys(answer.reasons.values())  # a file that cannot be read says it twice
    named = [f"{name}: {reason}" for name, reason in answer.reasons.items()]
    reason = next(iter(reasons)) if answer.used == "none" and len(reasons) == 1 else "; ".join(named)
    # The name of a file may hold bytes that are no text.
    name, reason = (text.encode("utf-8", "backslashreplace").decode() for text in (answer.media.id, reason))
    row: Row = {"id": name, "used": answer.used, "reason": reason}
    if answer.probabilities:
        fused = answer.probabilities["fused"]
        row |= {"class": class_names[int(fused.argmax())], "confidence": float(fused.max())}
    for name, probabilities in answer.probabilities.items():
        row |= {f"{name}_{label}": float(p) for label, p in zip(class_names, probabilities, strict=True)}
    return row


def _decoder(settings: Prepare) -> Callable[[int, Media], Parts]:
    return lambda row, media: decode_parts(media, settings)


def _answer(
    classifier: Classifier, media: Sequence[Media], batch: list[tuple[int, Parts]], correction: Correction | None
) -> Iterator[tuple[int, Answer]]:
    settings = classifier.config.prepare
    # A missing modality is filled up for the others' sake: a modality's read-out looks at nothing but that modality.
    if settings.input == "features":
        channels = classifier.network.channels
        no_frames, no_sound = (np.zeros(channels[name], np.float32) for name in ("visual", "audio"))
    else:
        no_frames = np.zeros(frames_shape(settings), np.uint8)
        no_sound = np.zeros(spectrogram_shape(settings), np.float16)
    logits = classifier.logits(
        _filled([parts.frames for _, parts in batch], no_frames),
        _filled([parts.spectrogram for _, parts in batch], no_sound),
    )
    both = softmax(logits["fused"], axis=1) if correction is None else np.exp(correction.apply(logits))
    alone = {
        name: np.exp(log_softmax(logits[name], axis=1) if correction is None else correction.alone(name, logits[name]))
        for name in MODALITIES
    }
    for i, (row, parts) in enumerate(batch):
        there = {"audio": parts.spectrogram is not None, "visual": parts.frames is not None}
        own = {name: alone[name][i] for name in MODALITIES if there[name]}
        fused = {} if not own else {"fused": both[i] if len(own) == 2 else next(iter(own.values()))}
        yield row, Answer(media[row], fused | own, parts.reasons)


def _filled(parts: list[np.ndarray | None], nothing: np.ndarray) -> np.ndarray:
    """One array of them, with zeros where there is none."""
    shape = max((part.shape for part in parts if part is not None), default=nothing.shape)
    filled = np.zeros((len(parts), *shape), nothing.dtype)
    for row, part in enumerate(parts):
        if part is not None:  # of features a clip may have fewer steps than another
            filled[row][tuple(slice(length) for length in part.shape)] = part
    return filled


def read_media(paths: Sequence[Path], classifier: "Classifier | None" = None) -> list[Media]:
    """The clips that these files are, or, of a .csv, that its rows list; of a classifier of features, those whose
    features they hold.

    A list has the columns video and/or audio (paths relative to the list; without audio, the video's own sound), and
    may have start and end (seconds) and id; other columns are ignored. That a media file does not exist is found later,
    and costs its own row. Raises UserError, with file and line, for a list that cannot be read.
    """
    found: list[Media] = []
    if classifier and classifier.config.prepare.input == "features":
        return [one for path in paths for one in _read_features(path, classifier.network.channels)]
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path}: a folder; {_media_in(path)}")
        if path.suffix.lower() == ".csv":
            found += _read_list(path)
        elif path.suffix.lower() in SOUND_ONLY:
            found.append(Media(str(path), None, path))
        else:
            found.append(Media(str(path), path, None))
    return found


def _read_features(path: Path, channels: Mapping[str, int]) -> list[Media]:
    ids, found, faults = read_unlabelled(path)
    for name, features in found.items():
        there = next((one for one in features if one is not None), None)
        if there is not None and (count := numbers(there[None])) != channels[name]:
            raise UserError(f"{path}: {name} of {count} numbers; the network takes {channels[name]}")
    media = []
    for row, (clip, fault) in enumerate(zip(ids, faults, strict=True)):
        parts = {name: None if fault else array[row] for name, array in found.items()}
        reasons = {name: fault or "no features" for name, part in parts.items() if part is None}
        media.append(Media(clip, path, None, features=Parts(parts["visual"], parts["audio"], reasons)))
    return media


def _media_in(folder: Path) -> str:
    """What to give in place of a folder."""
    try:
        kinds = Counter(file.suffix.lower() for file in folder.iterdir() if file.is_file() and file.suffix)
    except OSError as error:
        return f"it cannot be read ({error.strerror}); give media files, or a .csv that lists them"
    if not kinds:
        return "it holds no files itself; give media files, or a .csv that lists them"
    there = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    pattern = f"{shlex.quote(str(folder))}/*{kinds.most_common(1)[0][0]}"
    return f"it holds {there}; give the media files in it, such as {pattern}, or a .csv that lists them"


def _read_list(path: Path) -> list[Media]:
    table, finder = read_table(path), FileFinder()
    if not {"video", "audio"} & set(table.columns):
        raise UserError(f"{path}: neither a column video nor a column audio; one of them has to name the files")
    found = []
    for line, fields in table.rows:
        try:
            found.append(_listed(path, line, table.named(fields), finder))
        except BadLine as fault:
            raise UserError(f"{path}, line {line}: {fault}") from None
    return found


def _listed(path: Path, line: int, row: dict[str, str], finder: FileFinder) -> Media:
    video, audio = (finder.find(path.parent, row[name]) if row.get(name) else None for name in ("video", "audio"))
    if not video and not audio:
        raise UserError(f"{path}, line {line}: neither video nor audio is given; name a file or take the line out")
    times: dict[str, float | None] = {}
    for name in ("start", "end"):
        text = row.get(name)
        try:
            times[name] = float(text) if text else None
        except ValueError:
            times[name] = float("nan")
        if times[name] is not None and not 0 <= times[name] < float("inf"):
            raise UserError(f"{path}, line {line}: {name} {text!r} is not a time; give seconds such as 2.5")
    if times["end"] is not None and times["end"] <= (times["start"] or 0):
        raise UserError(f"{path}, line {line}: end {times['end']:g} is not after start {times['start'] or 0:g}")
    return Media(row.get("id") or row.get("video") or row["audio"], video, audio, times["start"], times["end"])


def fingerprint(path: Path) -> str:
    """Of the weights and the configuration in a best.pt: what is fitted to a network fits no other."""
    return _fingerprint(_load(path))


def _fingerprint(saved: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(saved["config"], sort_keys=True).encode())
    for name, tensor in sorted(saved["network"].items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def write_correction(
    correction: Correction, class_names: Sequence[str], about: str, path: Path, network: str | None
) -> None:
    """Write a correction as JSON, as read_correction takes it; `about` says what it was fitted to.

    `network` is the fingerprint of the network whose answers these were; None: they came without one.
    """
    content = {"class_names": list(class_names), "about": about, "network": network, **correction.to_mapping()}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_correction(path: Path, classifier: Classifier) -> tuple[Correction, bool]:
    """A correction, and whether it is known to be this classifier's; it is not if it was fitted to a mere table.

    Raises UserError if it is damaged, or was fitted to another network or for other classes.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fitted_for, about = content.pop("class_names"), content.pop("about")
        network = content.pop("network", "")
        correction = correction_from_mapping(content)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {command('diagnose', '--correct')} writes corrections") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a correction written by {command('diagnose', '--correct')} ({error!r})") from None
    if fitted_for != list(classifier.class_names):
        raise UserError(f"{path}: fitted for other classes than the checkpoint's; fit one with {command('diagnose')}")
    mend = f"fit one to this checkpoint with {command('diagnose', '--correct')}"
    if network == "":
        raise UserError(f"{path}: written by an older raygap, without the network it was fitted to; {mend}")
    if network not in (None, classifier.fingerprint):
        raise UserError(f"{path}: fitted to another network than the checkpoint's ({about}); {mend}")
    return correction, network is not None


def choose_correction(
    classifier: Classifier, given: Path | None, uncorrected: bool
) -> tuple[Correction | None, list[str]]:
    """What answers are corrected by: a file's correction, else the one that the checkpoint keeps, unless `uncorrected`;
    and what is to be said of it. Raises UserError as read_correction does.
    """
    if given:
        correction, known = read_correction(given, classifier)
        doubt = f"{given}: fitted to a file of predictions; make sure that they were this network's"
        return correction, [] if known else [doubt]
    kept, gain = classifier.correction, classifier.gain
    if uncorrected or kept is None or gain is None:
        return None, []
    return kept, [
        f"answers corrected by {kept.name}, which the checkpoint keeps: {100 * gain.mean:+.1f} ± "
        f"{100 * gain.half_width:.1f} points of accuracy on validation, cross-fitted; --uncorrected leaves it out"
    ]


def trained_config(path: Path) -> TrialConfig:
    """The configuration of a best.pt."""
    return config_from_mapping(_load(path)["config"], str(path))


def _load(path: Path) -> dict[str, Any]:
    saved = checkpoint.load(path, mend="give the best.pt of a training, or its run folder")
    if not isinstance(saved, dict) or not {"config", "store", "network"} <= set(saved):
        raise UserError(f"{path}: not the best.pt of a training run")
    return saved


def store_predictions(path: Path, store: Store, splits: Sequence[Split]) -> Predictions:
    """What the network of a best.pt says of these splits of a store, without augmentation.

    Features and, where the network's answer follows from them by a sum over the modalities, head weights are known; so
    are the answers without a modality, if the method answers by the network's own fusion. Raises UserError if the store
    has other classes than the checkpoint.
    """
    saved = _load(path)
    notes = []
    if saved["store"] != store.header["key"]:
        if saved.get("class_names") != list(store.class_names):
            raise UserError(
                f"{path}: was trained on other data, with other classes; give the --dataset of its training"
            )
        # What the network expects is scaled as its own training clips were.
        store.header = store.header | {"statistics": saved["statistics"]}
        notes.append("These are other data than the network was trained on; they are scaled as its training data were.")
    if (channels := saved.get("channels", MEDIA)) != store.channels:
        raise UserError(f"{path}: takes {_in_words(channels)}, but the data have {_in_words(store.channels)}")
    config, network = load_network(path, len(store.class_names))
    if config.protocol == "paper":
        notes.append("Protocol paper: the network was trained on val too and its epoch chosen on test.")
    device = pick_device()
    network.to(device)
    training = training_rows(config, store)
    rows = np.concatenate([store.rows(split) for split in splits])
    outputs = predict(network, store, rows, config, device)
    missing = np.setdiff1d(training, rows)
    others = predict(network, store, missing, config, device) if len(missing) else None
    features = {name: outputs[f"{name}_features"] for name in MODALITIES}
    of_training = torch.from_numpy(np.isin(rows, training))
    means = {
        name: torch.cat([features[name][of_training]] + ([others[f"{name}_features"]] if others else [])).mean(0)
        for name in MODALITIES
    }
    predictions = Predictions(
        ids=np.array([store.clip_ids[row] for row in rows]),
        labels=store.labels[rows],
        class_names=store.class_names,
        logits={name: outputs[name].double().numpy() for name in READOUTS},
        splits=np.concatenate([np.full(len(store.rows(split)), split) for split in splits]),
        features={name: values.double().numpy() for name, values in features.items()},
        notes=tuple(notes),
    )
    return _with_fusion(predictions, network, features, means, device)


def _in_words(channels: Mapping[str, int]) -> str:
    counts = " and ".join(f"{count} numbers of {modality}" for modality, count in channels.items())
    return "media" if channels == MEDIA else counts


@torch.no_grad()
def _with_fusion(
    predictions: Predictions, network: Network, features: dict[str, Tensor], means: dict[str, Tensor], device: Any
) -> Predictions:
    """Add what follows from the network's fusion, unless the method answers in another way."""

    def read(audio: Tensor, visual: Tensor) -> np.ndarray:
        parts = [
            network.read(a.to(device), v.to(device)).fused.float().cpu()
            for a, v in zip(audio.split(EVALUATION_BATCH), visual.split(EVALUATION_BATCH), strict=True)
        ]
        return torch.cat(parts).double().numpy()

    fused = predictions.logits["fused"]
    nothing = np.zeros_like(fused)
    if not adds_up(fused, read(**features), nothing):
        note = (
            "The method's answer is not that of the network's fusion: what the fusion makes of it is not taken apart."
        )
        return replace(predictions, notes=(*predictions.notes, note))
    constant = {name: mean.expand_as(features[name]) for name, mean in means.items()}
    alone = {
        "audio": read(features["audio"], constant["visual"]),
        "visual": read(constant["audio"], features["visual"]),
        "none": read(**constant),
    }
    if not hasattr(network.fusion, "split"):
        return replace(predictions, alone=alone)

    def split(audio: Tensor, visual: Tensor) -> dict[str, np.ndarray]:
        answers = network.fusion.split(audio.to(device), visual.to(device))
        return {name: answer.double().cpu().numpy() for name, answer in zip(MODALITIES, answers, strict=True)}

    parts = split(**features)
    # A linear head answers unit vectors by its weights, and its bias.
    units = {name: torch.eye(values.shape[1]) for name, values in features.items()}
    biases = split(**{name: torch.zeros_like(unit) for name, unit in units.items()})
    weights = {name: (answer - biases[name]).T for name, answer in split(**units).items()}
    linear = all(adds_up(parts[name], predictions.features[name] @ weights[name].T, nothing) for name in MODALITIES)
    return replace(predictions, alone=alone, parts=parts, weights=weights if linear else {})
