"""One graph or a clear line, and a second compilation is said aloud."""

import errno
import logging
import sys

import pytest
import torch
from torch import nn

from packformer.training.compilation import (
    compile_whole,
    loading_compiler,
    naming_compiled_code,
    warn_of_recompilation,
)


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
    assert record.name == "packformer.training.compilation"
    assert "compiled again" in record.message
    assert "size mismatch at index 0. expected 3, actual 4" in record.message


def test_what_a_proof_compiles_again_is_not_said(caplog):
    warn_of_recompilation()
    source = logging.getLogger("torch._dynamo.guards.__recompiles")
    with caplog.at_level(logging.WARNING):
        for name in ("flex_attention", "forward"):
            source.debug(f"Recompiling function {name} in /some/file.py:7\n  triggered by a guard")
    (record,) = caplog.records
    assert "Recompiling function forward in" in record.message


def test_blocks_that_keep_their_activations_have_code_of_their_own(caplog):
    warn_of_recompilation()
    source = logging.getLogger("torch._dynamo.guards.__recompiles")
    guard = "self.activation_checkpointing == 'full'"
    with caplog.at_level(logging.WARNING):
        source.debug(f"Recompiling function forward in block.py:50\n failed\n    - 0/0: {guard}")
    assert not caplog.records


def test_code_for_validation_is_no_recompilation_to_warn_of(caplog):
    torch._dynamo.reset()
    warn_of_recompilation()
    double = compile_whole(lambda x: 2 * x, backend="eager")
    with caplog.at_level(logging.WARNING):
        double(torch.ones(3))
        with torch.no_grad():
            double(torch.ones(3))
        assert not caplog.records
        double(torch.ones(4))
    assert "compiled again" in caplog.text


class Printing(nn.Module):
    def forward(self, x):
        print(x)
        return 2 * x


class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


class Leaving(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy(force=True)).sin() if x.tolist() else x


class Disabled(nn.Module):
    @torch._dynamo.disable
    def forward(self, x):
        return x


@pytest.mark.parametrize("module", [Printing, Branching, Leaving, Disabled])
def test_a_graph_break_of_the_users_is_an_error_that_says_where(module):
    torch._dynamo.reset()
    layer = module()

    def loss(x):
        return layer(x).sum()

    message = r"breaks at .*test_compilation\.py:\d+ \(.*\): .*compile=false"
    with pytest.raises(ValueError, match=message) as caught:
        compile_whole(loss, backend="eager")(torch.ones(3))
    assert "\n" not in str(caught.value)


def test_what_keeps_changing_is_an_error():
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=3):
        double = compile_whole(lambda x: 2 * x, backend="eager")
        for size in (1, 2, 3):
            assert double(torch.ones(size)).sum() == 2 * size
        with pytest.raises(ValueError, match="gave up after 3 compilations of one step"):
            double(torch.ones(4))


@pytest.mark.parametrize("error", [ValueError("a rule"), RuntimeError("CUDA out of memory")])
def test_other_errors_stay_what_they_are(error):
    torch._dynamo.reset()

    def backend(graph, inputs):
        def run(*args):
            raise error

        return run

    with pytest.raises(type(error), match=str(error)):
        compile_whole(lambda x: 2 * x, backend=backend)(torch.ones(3))


def test_the_compiler_is_loaded_and_its_processes_are_started(monkeypatch):
    started = []
    place = "torch._inductor.async_compile"
    monkeypatch.setattr(f"{place}.AsyncCompile.warm_pool", lambda: started.append("pool"))
    monkeypatch.setattr(f"{place}.AsyncCompile.wakeup", lambda: started.append("workers"))
    monkeypatch.setattr(f"{place}.has_triton_package", lambda: True)
    with loading_compiler(needed=False):
        pass
    assert not started
    with loading_compiler(needed=True):
        pass
    assert started == ["pool", "workers"]
    assert "torch._inductor.compile_fx" in sys.modules


@pytest.mark.parametrize(
    "reason",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("C++ compile error: fatal error: No space left on device"),
    ],
)
def test_a_full_folder_of_compiled_code_is_named(monkeypatch, tmp_path, reason):
    from torch._inductor.exc import InductorError

    def fails(*arguments):
        raise InductorError(reason, sys._getframe())

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch, "compile", lambda function, **options: fails)
    with pytest.raises(OSError, match=r"compiled code \(No space left on device\): ") as raised:
        compile_whole(torch.relu)(torch.ones(1))
    assert f"{tmp_path} has " in str(raised.value)


def test_it_is_named_where_a_backward_pass_is_compiled(monkeypatch, tmp_path):
    from torch._inductor.exc import InductorError

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    reason = RuntimeError("ld: final link failed: No space left on device")
    told = r"compiled code \(No space left on device\): "
    with pytest.raises(OSError, match=told), naming_compiled_code():
        raise InductorError(reason, sys._getframe())
    for other in (InductorError(AssertionError("a bug"), sys._getframe()), RuntimeError("a bug")):
        with pytest.raises(type(other), match="a bug"), naming_compiled_code():
            raise other


def test_other_errors_of_the_compiler_stay_as_they_are(monkeypatch):
    from torch._inductor.exc import InductorError

    def fails(*arguments):
        raise InductorError(AssertionError("a bug"), sys._getframe())

    monkeypatch.setattr(torch, "compile", lambda function, **options: fails)
    with pytest.raises(InductorError, match="a bug"):
        compile_whole(torch.relu)(torch.ones(1))
