"""The proof that the first call of a kernel waits for, where a run compiles its step meanwhile."""

from __future__ import annotations

from collections.abc import Callable

_awaited: Callable[[], None] | None = None


class NotProved(Exception):
    """A kernel was called that was taken before its proof, and it has none."""


def wait_before_first_call(proof: Callable[[], None] | None) -> None:
    """Has the first call of a kernel that ``keeps_programs`` wait.

    Args:
        proof: returns when the kernel is proved, and raises ``NotProved`` if it is not; None if
            nothing is to be waited for any more.
    """
    global _awaited
    _awaited = proof


def before_call() -> None:
    """What such a kernel does before it runs.

    Raises:
        NotProved: see ``wait_before_first_call``.
    """
    if _awaited is not None:
        proof = _awaited
        wait_before_first_call(None)
        proof()
