"""How training reads a store: whole batches, without decoding or pickling."""

import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raygap.config import Augment
from raygap.data.augment import cut_out, cut_out_all, draw_boxes
from raygap.data.features import scaled
from raygap.data.store import Store
from raygap.rng import generator
from raygap.workers import Workers

_Tensors = tuple[Tensor, ...]
_TORCH_TYPES = {"uint8": torch.uint8, "float16": torch.float16}


@dataclass
class Batch:
    """B clips on the device."""

    index: Tensor
    """int64 (B,): position of each clip within the rows that were asked for."""
    audio: Tensor
    """float32 (B, 1, F, S): spectrograms, standardised with the training clips' mean and deviation; or features, as
    data/features.py has them, standardised likewise."""
    visual: Tensor
    """float32 (B, T, 3, H, W): frames, standardised a channel with the training clips' mean and deviation. On a CPU the
    three channels of a pixel lie together in memory, as convolutions there want them. Or features."""
    labels: Tensor
    """int64 (B,)."""
    clips: int
    """How many clips of the whole batch these stand for (Workers.share); B for a worker alone."""
    whole: int
    """Clips of the whole batch, over all workers."""
    places: np.ndarray
    """(B,): where in `order` each clip stands."""
    own: np.ndarray | None = None
    """Where partners are read too: which (n,) of the B clips these are the batch's own."""
    partners: np.ndarray | None = None
    """(n, k): and which of the B their partners."""


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: a permutation of `count` positions, int64."""
    return generator(seed, "order", epoch).permutation(count)


def class_order(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch with equally many clips of each class: as many positions of `labels` (n,), int64.

    Each class goes through its clips in a new order again and again, and on from where the epoch before left it, so
    that none comes again before all others of the class; classes take turns at what does not divide.
    """
    names, count = np.unique(labels), len(labels)
    share, rest = divmod(count, len(names))
    drawn = []
    for place, label in enumerate(names.tolist()):
        clips = np.flatnonzero(labels == label)
        # Of the places left over in all epochs before one, every len(names)th was this class's.
        begin, end = (
            number * share + (number * rest - place + len(names) - 1) // len(names) for number in (epoch, epoch + 1)
        )
        rounds = range(begin // len(clips), -(-end // len(clips)))
        turns = [clips[generator(seed, "class order", label, turn).permutation(len(clips))] for turn in rounds]
        skipped = begin - rounds.start * len(clips)
        drawn.append(np.concatenate([*turns, clips[:0]])[skipped : skipped + end - begin])
    return np.concatenate(drawn)[epoch_order(count, seed, epoch)]


def cut_up(count: int, batch_size: int) -> list[np.ndarray]:
    """The places 0 to count - 1, a batch a step."""
    places = np.arange(count)
    parts = [places[first : first + batch_size] for first in range(0, count, batch_size)]
    if len(parts) > 1 and len(parts[-1]) == 1:  # batch normalisation cannot train on a lone clip
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


def batches(
    store: Store,
    rows: np.ndarray,
    *,
    batch_size: int,
    order: np.ndarray,
    device: torch.device,
    augment: Augment | None,
    seed: int,
    epoch: int,
    workers: Workers | None = None,
    partners: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Batches of the clips `rows[order]`, in that order; the last one may be smaller, or one clip larger.

    `rows` are rows of the store, (n,); `order` holds positions within `rows` and may be a part of them (a filtered
    subset). `augment` None leaves the frames as they are. What happens to a clip depends on seed, epoch and its
    position alone: not on batch_size, nor on which other clips are read. With `workers`, each batch is cut down to
    this worker's part (Workers.share). `partners`, (len(order), k), are places of clips to be read with the one at each
    place; where a part holds them all, as that of a worker alone does of partners in its batch, nothing is read twice.
    """
    boxes = None
    if augment and not store.features:
        boxes = draw_boxes(len(rows), store.frames.shape[2], augment, seed, epoch)
    parts = cut_up(len(order), batch_size)
    shares = [workers.share(part) if workers else (part, len(part)) for part in parts]
    wanted = [_with_partners(part, partners) for part, _ in shares]
    mine = [order[places] for places, *_ in wanted]
    read: Iterator[_Tensors]
    if store.features:
        read = (_read_features(store, rows, index, device) for index in mine)
    elif device.type == "cuda":
        read = _read_on_gpu(store, rows, boxes, mine, device)
    else:
        read = map(_CpuReader(store, rows, boxes), mine)
    for whole, (_, clips), (places, own, theirs), tensors in zip(parts, shares, wanted, read, strict=True):
        index, audio, visual, labels = tensors
        yield Batch(index, audio, visual, labels, clips, len(whole), places, own, theirs)


def _with_partners(
    part: np.ndarray, partners: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The places to be read for those of a part, (n,), and where among them the part and its partners, (n, k), are."""
    if partners is None:
        return part, None, None
    places, found = np.unique(np.column_stack((part, partners[part])), return_inverse=True)
    found = found.reshape(len(part), -1)
    return places, found[:, 0], found[:, 1:]


def _read_features(store: Store, rows: np.ndarray, index: np.ndarray, device: torch.device) -> _Tensors:
    """They are few numbers a clip, so that no thread and no memory of its own is worth while."""
    chosen, statistics = rows[index], store.header["statistics"]
    arrays = (("audio", store.spectrograms), ("visual", store.frames))
    audio, visual = (scaled(np.take(array, chosen, axis=0), statistics, name) for name, array in arrays)
    return tuple(torch.from_numpy(array).to(device) for array in (index, audio, visual, store.labels[chosen]))


class _CpuReader:
    """Takes one clip after the other from bytes to scaled numbers, while it is in the processor's cache."""

    def __init__(self, store: Store, rows: np.ndarray, boxes: np.ndarray | None) -> None:
        statistics, size = store.header["statistics"], store.frames.shape[2]
        self._rows, self._labels, self._boxes = rows, store.labels, boxes
        with warnings.catch_warnings(action="ignore"):  # that the store is open for reading only
            self._frames, self._sounds = (torch.from_numpy(np.asarray(a)) for a in (store.frames, store.spectrograms))
        self._sound_mean, self._sound_deviation = statistics["spectrogram_mean"], statistics["spectrogram_std"]
        # Of all numbers of a line of pixels, in the order in which they lie in memory.
        self._scale = 1 / torch.tensor(statistics["frame_std"]).repeat(size)
        self._shift = -torch.tensor(statistics["frame_mean"]).repeat(size) * self._scale
        self._visual, self._audio = _Lender(self._frames.shape[1:]), _Lender(self._sounds.shape[1:])
        # Threads share the clips; within one they would spend their time on waiting for each other.
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._threads, initializer=torch.set_num_threads, initargs=(1,))

    def __call__(self, index: np.ndarray) -> _Tensors:
        visual, audio = self._visual.lend(len(index)), self._audio.lend(len(index))

        def fill(first: int) -> None:
            for place in range(first, len(index), self._threads):
                self._fill(int(index[place]), visual[place], audio[place])

        list((map if self._threads == 1 else self._pool.map)(fill, range(self._threads)))
        labels = torch.from_numpy(self._labels[self._rows[index]])
        return torch.from_numpy(index), audio[:, None], visual.permute(0, 1, 4, 2, 3), labels

    def _fill(self, position: int, visual: Tensor, audio: Tensor) -> None:
        """Write the clip at this position into (T, H, W, 3) and (F, S)."""
        row = int(self._rows[position])
        audio.copy_(self._sounds[row])
        if (self._sound_mean, self._sound_deviation) != (0, 1):
            audio.sub_(self._sound_mean).div_(self._sound_deviation)
        frames = self._frames[row]
        if self._boxes is not None:
            frames = cut_out(frames, self._boxes[position])
        lines = visual.view(-1, len(self._shift))
        torch.addcmul(self._shift, lines.copy_(frames.reshape(lines.shape)), self._scale, out=lines)


class _Lender:
    """Lends memory for batches, and the same again once no tensor looks at it: filling fresh memory takes five times as
    long, since the system must find and clear each page of it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """`shape` is a clip's."""
        self._shape = shape
        self._lent: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []

    def lend(self, count: int) -> Tensor:
        """float32 (count, *shape), of any content."""
        free = [array for array, view in self._lent if view() is None and len(array) >= count]
        array = free[0] if free else np.empty((count, *self._shape), np.float32)
        view = array[:]  # which the tensor, and whatever is made of it, keeps alive
        self._lent = [(other, lent) for other, lent in self._lent if other is not array]
        self._lent.append((array, weakref.ref(view)))
        return torch.from_numpy(view)[:count]


def _read_on_gpu(
    store: Store, rows: np.ndarray, boxes: np.ndarray | None, parts: list[np.ndarray], device: torch.device
) -> Iterator[_Tensors]:
    """The bytes go to the GPU while it works on the batch before; it cuts out and scales them."""
    statistics = store.header["statistics"]
    mean = torch.tensor(statistics["frame_mean"], device=device).view(3, 1, 1)
    deviation = torch.tensor(statistics["frame_std"], device=device).view(3, 1, 1)
    frames, spectrograms = np.asarray(store.frames), np.asarray(store.spectrograms)
    pinned = device.type == "cuda"

    def gather(index: np.ndarray) -> _Tensors:
        chosen = rows[index]
        labels = torch.from_numpy(store.labels[chosen])
        host = torch.from_numpy(index), _take(spectrograms, chosen, pinned), _take(frames, chosen, pinned), labels
        return host if boxes is None else (*host, torch.from_numpy(boxes[index]))

    for host in _one_ahead(gather, parts):
        index, audio, visual, labels, *box = (tensor.to(device, non_blocking=pinned) for tensor in host)
        visual = visual.permute(0, 1, 4, 2, 3).to(torch.float32, memory_format=torch.contiguous_format)
        if box:
            visual = cut_out_all(visual, box[0])
        visual.sub_(mean).div_(deviation)
        audio = audio.float().sub_(statistics["spectrogram_mean"]).div_(statistics["spectrogram_std"])
        yield index, audio[:, None], visual, labels


def _take(array: np.ndarray, rows: np.ndarray, pinned: bool) -> Tensor:
    """A copy of these rows, in memory that a GPU can fetch by itself if `pinned`."""
    copy = torch.empty((len(rows), *array.shape[1:]), dtype=_TORCH_TYPES[array.dtype.name], pin_memory=pinned)
    np.take(array, rows, axis=0, out=copy.numpy(), mode="clip")  # mode raise would copy twice
    return copy


def _one_ahead(gather: Callable[[np.ndarray], _Tensors], parts: list[np.ndarray]) -> Iterator[_Tensors]:
    """map(gather, parts), with the next part gathered by a thread meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        coming = None
        for part in parts:
            gathered, coming = coming, pool.submit(gather, part)
            if gathered:
                yield gathered.result()
        if coming:
            yield coming.result()
