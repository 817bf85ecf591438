"""A look into a store: counts, lengths, what is odd, what was left out, and some clips of each class as a page."""

import base64
import io
from html import escape
from pathlib import Path

import numpy as np

from raygap.data.clips import SPLITS, LeftOut, by_reason
from raygap.data.store import Store
from raygap.errors import UserError

PAGE = "inspect.html"
CLIPS_A_CLASS = 3
CLIPS_FOR_LEVEL = 20
LONGEST_SIDE = 112
"""Pixels of a frame, and of a spectrogram's height, on the page; its width may be three times as much."""
UNLIKE_SHARE, UNLIKE_SECONDS = 0.25, 0.25
"""Picture and sound are of unlike length if they differ by more than this share of the longer one and these seconds."""
UNLIKE = "picture and sound differ in length by more than a quarter"

Table = list[list[str]]
"""Rows of cells, the header first."""

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .2rem 1rem .2rem 0; text-align: left; border-bottom: 1px solid #8884; vertical-align: top; }
figure { margin: .3rem 0; display: flex; flex-wrap: wrap; gap: .4rem; align-items: end; }
figcaption { width: 100%; font-size: .8rem; opacity: .75; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } img { max-width: 100%; }
"""


def tables(store: Store) -> dict[str, Table]:
    """Tables by title: clips by class and split, lengths by split, what is odd, what was left out and why."""
    splits = np.array(store.clips["split"].to_pylist())
    seconds = np.array(store.clips["seconds"].to_pylist(), np.float64)
    classes: Table = [["class", *SPLITS, "median s", "level"]]
    for label, name in enumerate(store.class_names):
        rows = np.flatnonzero(store.labels == label)
        counts = [str(np.sum(splits[rows] == split)) for split in SPLITS]
        level = np.mean(store.spectrograms[_spread(rows, CLIPS_FOR_LEVEL)], dtype=np.float64)
        classes.append([f"{label} {name}", *counts, f"{np.median(seconds[rows]):.1f}", f"{level:.2f}"])
    classes.append(["all", *(str(np.sum(splits == split)) for split in SPLITS), f"{np.median(seconds):.1f}", ""])
    lengths: Table = [["split", "shortest s", "median s", "longest s"]]
    for split in SPLITS:
        own = seconds[splits == split]
        lengths.append([split, *(f"{value:.2f}" for value in (own.min(), np.median(own), own.max()))])
    found = {"Clips by class and split": classes, "Lengths": lengths}
    odd: Table = [[clip, what] for clips in oddities(store).values() for clip, what in clips]
    found |= {"Worth a look": [["clip", "what"], *odd]} if odd else {}
    left_out = _left_out(store)
    return found | ({"Quarantined": left_out} if len(left_out) > 1 else {})


def feature_tables(store: Store) -> dict[str, Table]:
    """The same of a store of features: clips by class and split, each modality's numbers, what is odd or left out."""
    splits = np.array(store.clips["split"].to_pylist())
    classes: Table = [["class", *SPLITS]]
    for label, name in enumerate(store.class_names):
        of_class = splits[store.labels == label]
        classes.append([f"{label} {name}", *(str(np.sum(of_class == split)) for split in SPLITS)])
    classes.append(["all", *(str(np.sum(splits == split)) for split in SPLITS)])
    numbers: Table = [["modality", "numbers", "steps a clip", "mean", "deviation", "never change"]]
    odd: Table = [["clips", "what", "such as"]]
    for name, array in (("audio", store.spectrograms), ("visual", store.frames)):
        values = np.asarray(array)
        steps = values[..., -1].sum(1).astype(int) if values.ndim == 3 else np.ones(len(values), int)
        taken = values[values[..., -1] == 1][:, :-1] if values.ndim == 3 else values
        lengths = "1" if values.ndim == 2 else f"{steps.min()} to {steps.max()} (median {np.median(steps):g})"
        spread = taken.std(0, dtype=np.float64)
        mean = taken.mean(dtype=np.float64)
        still = str(np.sum(spread == 0))
        numbers.append([name, str(taken.shape[1]), lengths, f"{mean:.3g}", f"{np.mean(spread):.3g}", still])
        bare = values[..., :-1] if values.ndim == 3 else values
        odd += _odd(store, np.flatnonzero(~bare.reshape(len(values), -1).any(1)), f"{name}: all numbers are 0")
        _, first, count = np.unique(values.reshape(len(values), -1), axis=0, return_index=True, return_counts=True)
        odd += _odd(store, first[count > 1], f"{name}: another clip has the same")
    found = {"Clips by class and split": classes, "Numbers": numbers}
    found |= {"Worth a look": odd} if len(odd) > 1 else {}
    left_out = _left_out(store)
    return found | ({"Quarantined": left_out} if len(left_out) > 1 else {})


def _odd(store: Store, rows: np.ndarray, what: str) -> Table:
    return [[str(len(rows)), what, ", ".join(store.clip_ids[row] for row in rows[:3])]] if len(rows) else []


def _left_out(store: Store) -> Table:
    rows: Table = [["clips", "reason", "such as"]]
    quarantined = [LeftOut(**clip) for clip in store.header["quarantined"]]
    for kind, those in by_reason(quarantined).items():
        reason = those[0].reason if len({clip.reason for clip in those}) == 1 else kind
        names = ", ".join(clip.id for clip in those[:3]) + (", ..." if len(those) > 3 else "")
        rows.append([str(len(those)), reason, names])
    return rows


def oddities(store: Store) -> dict[str, list[tuple[str, str]]]:
    """What is odd of clips that were kept, by its kind: each clip's id, and what it is of this clip."""
    found: dict[str, list[tuple[str, str]]] = {}
    columns = (store.clips[name].to_pylist() for name in ("seconds", "sound_seconds", "sound_note"))
    for clip, seconds, sound_seconds, note in zip(store.clip_ids, *columns, strict=True):
        if seconds is not None and sound_seconds is not None:
            beside = abs(seconds - sound_seconds)
            if beside > UNLIKE_SECONDS and beside > UNLIKE_SHARE * max(seconds, sound_seconds):
                what = f"{seconds:.1f} s of picture, {sound_seconds:.1f} s of sound"
                found.setdefault(UNLIKE, []).append((clip, what))
        if note:
            found.setdefault(note, []).append((clip, note))
    return found


def write_page(store: Store, path: Path) -> Path:
    """Write the tables and a contact sheet as one HTML file without links. Raises UserError if it cannot be written."""
    title = f"{store.header['dataset']}: {len(store.labels)} clips, {len(store.class_names)} classes"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>",
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style><h1>{escape(title)}</h1>",
        f"<p>{escape(str(store.path))}</p>",
        "<p>level: mean of the class's spectrograms; a class far below the others was recorded with a dead microphone."
        if store.header["settings"]["sound_scaling"] != "clip"
        else "<p>level: 0 for all, since each spectrogram is standardised over itself.",
    ]
    notes = store.header["notes"]
    if notes:
        parts.append("<h2>What the reader says</h2><ul>" + "".join(f"<li>{escape(note)}" for note in notes) + "</ul>")
    for heading, table in tables(store).items():
        header, *rows = ["".join(f"<td>{escape(cell)}" for cell in row) for row in table]
        body = "".join(f"<tr>{row}" for row in rows)
        parts.append(
            f"<h2>{heading}</h2><div class=wide><table><tr>{header.replace('<td>', '<th>')}{body}</table></div>"
        )
    parts += [
        "<h2>Contact sheet</h2><p>Training clips: their frames in order, and their sound, low below high.",
        *_sheet(store),
    ]
    try:
        path.write_text("\n".join([*parts, "</html>"]), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); --inspect writes into the store's folder"
        ) from None
    return path


def _sheet(store: Store) -> list[str]:
    train = store.rows("train")
    shown = {
        label: _spread(train[store.labels[train] == label], CLIPS_A_CLASS) for label in range(len(store.class_names))
    }
    sounds = {row: store.spectrograms[row].astype(np.float32) for rows in shown.values() for row in rows.tolist()}
    # One scale for all: a quiet clip must look quiet.
    darkest, brightest = np.percentile(np.concatenate([sound.ravel()[::7] for sound in sounds.values()]), (1, 99.8))
    parts = []
    for label, rows in shown.items():
        parts.append(f"<h3>{label} {escape(store.class_names[label])}</h3>")
        for row in rows.tolist():
            shrunk = [shrink(frame, LONGEST_SIDE, LONGEST_SIDE) for frame in store.frames[row]]
            gap = np.full((len(shrunk[0]), 2, 3), 255)
            frames = np.concatenate([part for frame in shrunk for part in (frame, gap)][:-1], axis=1)
            sound = shrink(sounds[row], LONGEST_SIDE, 3 * LONGEST_SIDE)
            parts.append(
                f"<figure>{_image(frames / 255, 'frames', height=LONGEST_SIDE)}"
                f"{_image(sound, 'sound', (darkest, brightest), LONGEST_SIDE)}"
                f"<figcaption>{escape(store.clip_ids[row])}</figcaption></figure>"
            )
    return parts


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """So many of the rows, evenly spread over them."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)]


def shrink(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Means over blocks, so that neither side is longer than asked."""
    down, across = -(-picture.shape[0] // height), -(-picture.shape[1] // width)
    whole = picture[: picture.shape[0] // down * down, : picture.shape[1] // across * across].astype(np.float32)
    blocks = whole.reshape(whole.shape[0] // down, down, whole.shape[1] // across, across, *whole.shape[2:])
    return blocks.mean(axis=(1, 3))


def _image(picture: np.ndarray, name: str, scale: tuple[float, float] | None = None, height: int | None = None) -> str:
    return f'<img alt="{name}" height={height} src="{image_url(picture, scale)}">'


def thumbnails(store: Store, row: int, side: int) -> tuple[str, str]:
    """Data URLs of a clip's middle frame and of its spectrogram, each side so many pixels at most; of features none."""
    if store.features:
        return "", ""
    frames, sound = store.frames[row], store.spectrograms[row].astype(np.float32)
    darkest, brightest = np.percentile(sound, (1, 99.8))
    return (
        image_url(shrink(frames[len(frames) // 2], side, side) / 255),
        image_url(shrink(sound, side, side), (darkest, max(brightest, darkest + 1e-6))),
    )


def image_url(picture: np.ndarray, scale: tuple[float, float] | None = None) -> str:
    """A picture as a data URL: a frame (H, W, 3) of uint8 or of floats in [0, 1], or, with the values of the darkest
    and the brightest colour as `scale`, a spectrogram (F, S), low below high."""
    from matplotlib.image import imsave

    file = io.BytesIO()
    if scale:
        imsave(file, picture, vmin=scale[0], vmax=scale[1], cmap="magma", origin="lower", format="png")
    else:
        imsave(file, np.ascontiguousarray(picture), format="jpeg", pil_kwargs={"quality": 80})
    kind = "png" if scale else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
