"""The few bytes of HDF5 that AVE's order files need; a whole HDF5 library for three columns would be one too many."""

import struct
from pathlib import Path
from typing import TYPE_CHECKING

from raygap.errors import UserError

if TYPE_CHECKING:  # the names of the readers are told without numpy
    import numpy as np

_DATA_SPACE, _DATA_TYPE, _DATA_LAYOUT = 1, 3, 8


def read_integers(path: Path) -> "np.ndarray":
    """The only data set of an HDF5 file as h5py writes it by default: int64 (n,), uncompressed.

    Raises UserError if the file cannot be read or holds anything else.
    """
    try:
        content = path.read_bytes()
        return _read(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, struct.error):
        raise UserError(f"{path}: not one column of 64-bit integers in HDF5; get the file again") from None


def _read(content: bytes) -> "np.ndarray":
    import numpy as np

    def unpack(layout: str, offset: int) -> tuple:
        return struct.unpack_from("<" + layout, content, offset)

    def expect(true: bool) -> None:
        if not true:
            raise ValueError

    # Format version 0: superblock -> root group's B-tree -> its one leaf -> that data set's header -> its messages.
    expect(content[:9] == b"\x89HDF\r\n\x1a\n\x00" and content[13:15] == b"\x08\x08")
    (tree,) = unpack("Q", 56 + 24)
    signature, level, entries = unpack("4sxBH", tree)
    expect(signature == b"TREE" and level == 0 and entries == 1)
    (leaf,) = unpack("Q", tree + 24 + 8)
    signature, symbols = unpack("4s2xH", leaf)
    expect(signature == b"SNOD" and symbols == 1)
    (header,) = unpack("Q", leaf + 8 + 8)
    version, messages = unpack("BxH", header)
    expect(version == 1)
    found, position = {}, header + 16
    for _ in range(messages):
        kind, size = unpack("HH", position)
        found[kind], position = position + 8, position + 8 + size
    expect({_DATA_SPACE, _DATA_TYPE, _DATA_LAYOUT} <= set(found))
    rank, (length,) = content[found[_DATA_SPACE] + 1], unpack("Q", found[_DATA_SPACE] + 8)
    # Datatype: class 0 (integer) version 1, little-endian and signed, of 8 bytes.
    expect(rank == 1 and unpack("BB2xI", found[_DATA_TYPE]) == (0x10, 0x08, 8))
    version, contiguous, start, size = unpack("BBQQ", found[_DATA_LAYOUT])
    expect((version, contiguous, size) == (3, 1, 8 * length) and start + size <= len(content))
    return np.frombuffer(content, "<i8", length, start)
