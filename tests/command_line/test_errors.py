"""Which errors are told in one line, and how."""

import pytest
from torch._utils import ExceptionWrapper

from packformer.command_line.errors import is_user_error, one_line


def raised_in_a_process(error):
    """What torch's loader raises where ``error`` was raised in one of its processes."""
    try:
        raise error
    except Exception:
        wrapper = ExceptionWrapper(where="in DataLoader worker process 3")
    with pytest.raises(Exception, match="Caught") as found:
        wrapper.reraise()
    return found.value


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a: b:\nc"), "a: b: c"),
        (FileNotFoundError(2, "No such file", "x"), "[Errno 2] No such file: 'x'"),
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        ),
    ],
)
def test_what_a_loader_process_says_of_its_input_is_one_line(error, line):
    raised = raised_in_a_process(error)
    assert is_user_error(raised)
    assert one_line(raised) == line


def test_a_bug_in_a_loader_process_keeps_its_traceback():
    assert not is_user_error(raised_in_a_process(IndexError("out of range")))


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that ...",
            "a loader process (pid 12) died (Bus error): if the machine ran out of memory, lower "
            "loader.num_workers; what was saved is whole",
        ),
        (
            "DataLoader worker (pid(s) 12, 13) exited unexpectedly",
            "a loader process (pid 12, 13) died: if the machine ran out of memory, lower "
            "loader.num_workers; what was saved is whole",
        ),
    ],
)
def test_the_death_of_a_loader_process_is_one_line(message, line):
    error = RuntimeError(message)
    assert is_user_error(error)
    assert one_line(error) == line
