"""Random crops and mirror images of training clips."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raygap.config import Augment
from raygap.rng import generator


def draw_boxes(count: int, size: int, augment: Augment, seed: int, epoch: int) -> np.ndarray:
    """The part of its frames, of `size` x `size` pixels, that each of `count` clips shows in this epoch.

    int64 (count, 4): side of the square, its first column and row, and whether it is mirrored. Whole pixels, as in
    torchvision's RandomResizedCrop: the side's share of the frame's is uniform from augment.crop to 1, then rounded.
    """
    # A stream a quantity: clip i gets the i-th draw of each, however many clips there are.
    side = 1 - (1 - augment.crop) * generator(seed, "crop side", epoch).random(count)
    side = np.maximum((side * size).round().astype(np.int64), 1)
    left, top = (
        ((size - side + 1) * generator(seed, f"crop {axis}", epoch).random(count)).astype(np.int64) for axis in "xy"
    )
    mirrored = augment.flip & (generator(seed, "flip", epoch).random(count) < 0.5)
    return np.stack((side, left, top, mirrored), axis=1)


def cut_out(frames: Tensor, box: np.ndarray) -> Tensor:
    """The box (4,) of one clip's frames, uint8 (T, S, S, 3) and so returned: resized to S x S bilinearly, and rounded.

    PyTorch resizes bytes whose channels lie together several times faster than floats.
    """
    (side, left, top, mirrored), size = box.tolist(), frames.shape[1]
    if side == size and not mirrored:
        return frames
    picture = frames[:, top : top + side, left : left + side].permute(0, 3, 1, 2)
    if side < size:
        picture = F.interpolate(picture, (size, size), mode="bilinear")
    return (picture.flip(-1) if mirrored else picture).permute(0, 2, 3, 1)


def cut_out_all(visual: Tensor, boxes: Tensor) -> Tensor:
    """The boxes (B, 4) of B clips' frames, floats (B, T, C, S, S), likewise, but not rounded: for a GPU."""
    clips, times, channels, size, _ = visual.shape
    side, left, top, mirrored = boxes[:, :, None].unbind(1)
    centres = torch.arange(size, device=boxes.device) + 0.5
    # Not beyond the middles of the outermost pixels: what lies outside the box must not shine in.
    within = torch.minimum((centres * side / size - 0.5).clamp(min=0), side - 1.0)
    x, y = torch.where(mirrored > 0, within.flip(1), within) + left, within + top
    shape = (clips, size, size)
    grid = torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), dim=-1)
    pixels = visual.reshape(clips, times * channels, size, size)
    return F.grid_sample(pixels, (2 * grid + 1) / size - 1, padding_mode="border", align_corners=False).view_as(visual)
