"""Reading what the W&B client has written to files, without the client's service: offline runs and unfinished ones.

A .wandb file is a LevelDB log (https://github.com/google/leveldb/blob/main/doc/log_format.md): a header of 7 bytes,
then blocks of 32 KiB; a record is a checksum, a length, a type and a message, or a part of one. Unlike LevelDB's, the
checksum is a plain CRC-32 of type and part. The messages are protocol buffers.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HEADER, _BLOCK, _PREFIX = b":W&B", 32 * 1024, struct.Struct("<IHB")
_WHOLE, _LAST = 1, 4


@dataclass
class LoggedRun:
    """A run as its files tell it, the parts of a resumed one together."""

    id: str
    project: str = ""
    entity: str = ""
    group: str = ""
    job: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None
    """None: it has not ended."""


def run_files(folder: Path, run_id: str = "*") -> list[Path]:
    """The .wandb files of a run, or of all, under a folder: W&B's own, one that holds it, or a single run's; by time.

    Files of both offline and online runs count; the client leaves both.
    """
    if folder.is_file():
        return [folder]
    name = f"*run-*-{run_id}/run-{run_id}.wandb"
    found = {path for pattern in (name, f"wandb/{name}", f"run-{run_id}.wandb") for path in folder.glob(pattern)}
    return sorted(found, key=lambda file: file.parent.name.removeprefix("offline-"))  # the name tells the time


def read_runs(folder: Path) -> dict[str, LoggedRun]:
    """The runs of a folder (see run_files) by id. What was not written to the end is read as far as it goes."""
    runs: dict[str, LoggedRun] = {}
    for file in run_files(folder):
        _read(file, runs)
    return runs


def logged_steps(file: Path) -> list[int]:
    """Steps of the history that a .wandb file holds, in the order in which they were logged."""
    runs: dict[str, LoggedRun] = {}
    _read(file, runs)
    return [int(row["_step"]) for run in runs.values() for row in run.history]


def _read(file: Path, runs: dict[str, LoggedRun]) -> None:
    from wandb.proto import wandb_internal_pb2  # takes most of a second

    run = None
    for message in _messages(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(message)  # type: ignore[attr-defined]  # made on import
        kind = record.WhichOneof("record_type")
        if kind == "run":
            told = record.run
            run = runs.setdefault(told.run_id, LoggedRun(told.run_id))
            run.project, run.entity = told.project, told.entity
            run.group, run.job, run.tags = told.run_group, told.job_type, list(told.tags)
            run.exit_code = None
            _update(run.config, told.config)
        elif run is None:
            continue
        elif kind == "config":
            _update(run.config, record.config)
        elif kind == "summary":
            _update(run.summary, record.summary)
        elif kind == "history":
            row: dict[str, Any] = {}
            _put(row, record.history.item)
            run.history.append(row)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code


def _update(values: dict[str, Any], change: Any) -> None:
    _put(values, change.update)
    for item in change.remove:
        values.pop(item.key, None)


def _put(values: dict[str, Any], items: Any) -> None:
    for item in items:
        *sections, leaf = item.nested_key or [item.key]
        node = values
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = json.loads(item.value_json)


def _messages(content: bytes) -> Iterator[bytes]:
    """Up to the first part that is missing or damaged: a killed process leaves such an end."""
    if not content.startswith(_HEADER):
        return
    place, parts = 7, []
    while True:
        left = _BLOCK - place % _BLOCK
        if left < _PREFIX.size:  # the end of a block, filled up
            place += left
        if place + _PREFIX.size > len(content):
            return
        checksum, length, kind = _PREFIX.unpack_from(content, place)
        part = content[place + _PREFIX.size : place + _PREFIX.size + length]
        if len(part) < length or zlib.crc32(part, zlib.crc32(bytes([kind]))) != checksum:
            return
        place += _PREFIX.size + length
        parts.append(part)
        if kind in (_WHOLE, _LAST):
            yield b"".join(parts)
            parts = []
