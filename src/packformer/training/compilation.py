"""Compiles once, as one graph: a graph break is an error, a recompilation a warning."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch import nn

from packformer.whole_file import cannot_write

if TYPE_CHECKING:
    from torch._dynamo.exc import Unsupported
    from torch._inductor.exc import InductorError

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")
_NO_ROOM = os.strerror(errno.ENOSPC)


def compile_whole(function: Callable[_P, _R], **options: Any) -> Callable[_P, _R]:
    """Compiles ``function`` as one graph for constant shapes.

    Args:
        function: of tensors.
        options: of ``torch.compile``.

    Returns:
        The compiled function. It raises a ValueError where the graph would break, which says where,
        and where torch would give up compiling because shapes or values keep changing; an OSError
        where the folder of compiled code cannot be written.
    """
    from torch._dynamo.exc import FailOnRecompileLimitHit, Unsupported  # takes a second to import
    from torch._inductor.exc import InductorError

    compiled = torch.compile(function, dynamic=False, fullgraph=True, **options)

    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return compiled(*args, **kwargs)
        except Unsupported as error:
            raise ValueError(_broken(error)) from error
        except FailOnRecompileLimitHit as error:
            limit = torch._dynamo.config.recompile_limit
            raise ValueError(
                f"torch.compile gave up after {limit} compilations of one step, because what they "
                "were made for keeps changing (the warnings above name it): make it constant, or "
                "set compile=false"
            ) from error
        except InductorError as error:
            if (unwritten := _unwritten(error)) is None:
                raise
            raise unwritten from error

    return call


@contextmanager
def naming_compiled_code() -> Iterator[None]:
    """Names the folder of compiled code where the body fails because it cannot be written.

    torch compiles a backward pass when it first runs, which is after the compiled function.

    Raises:
        OSError: naming the folder.
    """
    try:
        yield
    except RuntimeError as error:
        # By name: torch's compiler is slow to import.
        if type(error).__name__ != "InductorError":
            raise
        if (unwritten := _unwritten(error)) is None:  # type: ignore[arg-type]
            raise
        raise unwritten from error


def _unwritten(error: InductorError) -> OSError | None:
    """What to say if ``error`` is that of a file; torch's says nothing of the folder."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    reason = error.inner_exception
    if not isinstance(reason, OSError) and _NO_ROOM not in str(reason):
        return None
    if not isinstance(reason, OSError):  # the C++ compiler's
        reason = OSError(errno.ENOSPC, _NO_ROOM)
    told = cannot_write(Path(cache_dir()) / "compiled code", reason)
    return OSError(f"{told}; TORCHINDUCTOR_CACHE_DIR names another folder")


@contextmanager
def loading_compiler(*, needed: bool) -> Iterator[None]:
    """Imports torch's compiler in a thread while the body runs, and starts its processes.

    Both take seconds, and large tensors can be filled meanwhile. The body must import nothing.

    Args:
        needed: False: does nothing.
    """
    if not needed:
        yield
        return
    thread = Thread(target=_load_compiler)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _load_compiler() -> None:
    from torch._inductor.async_compile import maybe_warm_pool

    maybe_warm_pool()
    import_module("torch._inductor.compile_fx")


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compiles the forward of each block as one graph; alike blocks share their code.

    For models that are sharded by blocks: gathering and freeing weights happens between the graphs.
    """
    for block in blocks:
        block.forward = compile_whole(block.forward)


def _broken(error: Unsupported) -> str:
    reason, _, more = str(error).partition("\n")
    explained = more.partition("Explanation:")[2].strip().partition("\n")[0]
    frame = next(reversed(error.real_stack or []), None)
    where = f" at {frame.filename}:{frame.lineno} ({frame.line})" if frame else ""
    return (
        f"the model cannot be compiled as one graph, it breaks{where}: {reason}. {explained} "
        "Change it, or set compile=false"
    )


# A block that is compiled by itself has code for validation, without gradients; and blocks that
# keep their activations have other code than those that compute them again.
_OF_BLOCKS = ("GLOBAL_STATE changed: grad_mode", "activation_checkpointing")


class _Warn(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        # By itself, not as part of a model, it is called by proofs, of other rows on purpose.
        proof = message.startswith("Recompiling function flex_attention ")
        failures = re.split(r" - \d+/\d+: ", message)[1:]
        of_blocks = failures and all(any(r in f for r in _OF_BLOCKS) for f in failures)
        if not proof and not of_blocks:
            log.warning("compiled again, which takes time: %s", message)


def warn_of_recompilation() -> None:
    """Turns torch's own log of recompilations, which names the guard that failed, into warnings."""
    torch._logging.set_logs(recompiles=True)  # type: ignore[attr-defined]
    source = logging.getLogger("torch._dynamo.guards.__recompiles")
    source.handlers = [_Warn()]
    source.propagate = False
