"""Processes that tests start and kill, forked from one that has imported torch, which takes seconds."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from raygap.data import decoding

CONTEXT = multiprocessing.get_context("forkserver")
# There is one such server: decoding, which starts it too, must find in it what it needs.
CONTEXT.set_forkserver_preload([decoding.__name__, "torchaudio.compliance.kaldi", "raygap.training.run"])


def start(work: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection]:
    """Call `work` in a process of its own, with one end of a pipe and the arguments; returns it and the other end."""
    ours, theirs = CONTEXT.Pipe()
    child = CONTEXT.Process(target=work, args=(theirs, *arguments))
    child.start()
    theirs.close()  # who waits for a child that has died is told so
    return child, ours
