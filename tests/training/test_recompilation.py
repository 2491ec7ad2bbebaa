"""A second compilation is said aloud."""

import logging

import torch

from packformer.training.recompilation import warn_of_recompilation


def test_a_recompilation_names_the_guard_that_failed(caplog):
    torch._dynamo.reset()
    warn_of_recompilation()

    @torch.compile(dynamic=False, backend="eager")
    def double(x):
        return 2 * x

    with caplog.at_level(logging.WARNING):
        double(torch.ones(3))
        double(torch.zeros(3))
        assert not caplog.records
        double(torch.ones(4))
    (record,) = caplog.records
    assert record.name == "packformer.training.recompilation"
    assert "compiled again" in record.message
    assert "size mismatch at index 0. expected 3, actual 4" in record.message
