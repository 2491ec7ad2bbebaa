"""The loader's processes: what they need from the machine, and how their rows travel.

Torch would put every tensor of a row into shared memory. If ``/dev/shm`` has no room, as in many
containers, torch's loader drops the row and then waits for it for ever. Here a row travels as bytes
through a pipe, which is also faster up to about 100,000 tokens.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from packformer.attention import PackedLayout
from packformer.batch import PackedBatch
from packformer.interruption import SIGNALS

_LOADERS = 2  # of training and of validation, at the same time
_LOCKS, _LOCKS_PER_WORKER = 8, 3  # of a loader: in its queues and its event
_PLAIN = ("num_tokens", "num_targets", "lengths", "packer_state", "corpus", "pieces")


def set_up_workers(num_workers: int) -> None:
    """Makes rows travel as bytes, and tests that the machine has the locks that processes share.

    Raises:
        ValueError: if it has not.
    """
    ForkingPickler.register(PackedBatch, _packed)
    check_locks(num_workers, loaders=_LOADERS)


def check_locks(num_workers: int, *, loaders: int = 1) -> None:
    """Tests that the locks of so many loaders can be made.

    Raises:
        ValueError: if not.
    """
    needed = loaders * (_LOCKS + _LOCKS_PER_WORKER * num_workers)
    try:
        _ = [multiprocessing.Lock() for _ in range(needed)]
    except OSError as error:
        raise ValueError(
            f"loader.num_workers ({num_workers}): the processes' {needed} locks do not fit into "
            f"/dev/shm ({error.strerror}): enlarge it (docker run --shm-size=1g), or set "
            "loader.num_workers=0"
        ) from error


def leave_signals_to_parent(_: int) -> None:
    """Has a loader process work on when a signal reaches all processes of a run.

    The process that trains needs further rows before it can save. SIGTERM from that process is
    heard: so torch ends a process that hangs.
    """
    for number in set(SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for_parent, daemon=True).start()


def _end_for_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _packed(batch: PackedBatch) -> tuple[Any, ...]:
    ids = [tensor.numpy().astype(np.int32) for tensor in (batch.tokens, batch.targets)]
    layout = batch.layout
    plain = {name: getattr(batch, name) for name in _PLAIN}
    return _unpacked, (*ids, layout.cu_seqlens.numpy(), layout.max_seqlen, plain)


def _unpacked(
    tokens: NDArray[np.int32],
    targets: NDArray[np.int32],
    cu_seqlens: NDArray[np.int32],
    max_seqlen: int,
    plain: dict[str, Any],
) -> PackedBatch:
    lengths = np.diff(cu_seqlens)
    position_ids = np.arange(cu_seqlens[-1], dtype=np.int64) - np.repeat(cu_seqlens[:-1], lengths)
    layout = PackedLayout(torch.from_numpy(cu_seqlens), torch.from_numpy(position_ids), max_seqlen)
    tokens, targets = tokens.astype(np.int64), targets.astype(np.int64)
    return PackedBatch(torch.from_numpy(tokens), torch.from_numpy(targets), layout, **plain)
