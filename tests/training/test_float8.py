"""Linear layers of the blocks in float8: what is computed, and what stays as it was."""

import json
import logging
import sys
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torchao.float8.float8_linear import Float8Linear

from packformer.attention import PackedLayout
from packformer.generation import generate
from packformer.model import GPT, SelfAttention
from packformer.nn import Rotary
from packformer.training import FSDP2, TrainingModule, adamw, constant, muon
from packformer.training import float8_speed as speed
from packformer.training.float8 import Float8, compute_in_float8, in_high_precision
from packformer.training.float8_speed import BlockTimes, block_times

ROW = 64
EMULATED = Float8(ROW, emulate=True)


def make_model(**options):
    torch.manual_seed(0)
    sizes = {"num_layers": 3, "width": 32, "num_heads": 2, "position": Rotary}
    model = GPT(48, ROW, **{**sizes, **options})
    model.select_kernel("cpu", torch.float32)
    return model


def make_module(float8=EMULATED, compile=False, **options):
    return TrainingModule(
        make_model(**options),
        adamw,
        partial(constant, num_steps=10),
        token_budget=ROW,
        compile=compile,
        float8=float8,
    )


def a_row():
    generator = torch.Generator().manual_seed(1)
    tokens, targets = torch.randint(48, (2, 1, ROW), generator=generator)
    return tokens, targets, PackedLayout.from_lengths([20, 30, 14], max_seqlen=ROW)


def step(module, autocast=None):
    with nullcontext() if autocast is None else torch.autocast("cpu", autocast):
        loss = module._training_loss(*a_row()).loss
    loss.backward()
    gradients = torch.cat([p.grad.flatten() for p in module.model.parameters()])
    module.zero_grad()
    return loss.item(), gradients


def rounded(x, dtype):
    """To float8 and back, scaled by the largest value."""
    scale = torch.finfo(dtype).max / x.abs().max().double()
    return ((x.float() * scale.float()).to(dtype).float() / scale.float()).to(x.dtype)


def test_a_layer_multiplies_rounded_inputs_weights_and_gradients():
    model = make_model()
    layer = model.blocks[1].mlp.w3
    compute_in_float8(model, EMULATED)
    torch.manual_seed(1)
    x = torch.randn(1, ROW, layer.in_features, requires_grad=True)
    gradient = torch.randn(1, ROW, layer.out_features)
    found = model.blocks[1].mlp.w3(x)
    found.backward(gradient)
    x8, w8 = rounded(x.detach(), torch.float8_e4m3fn), rounded(layer.weight, torch.float8_e4m3fn)
    g8 = rounded(gradient, torch.float8_e5m2)
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
    close(found, x8 @ w8.T)
    close(x.grad, g8 @ w8)
    close(layer.weight.grad, g8[0].T @ x8[0])
    assert (found - nn.functional.linear(x, layer.weight)).abs().max() > 1e-3, "nothing was rounded"


def test_only_linear_layers_of_blocks_compute_in_float8_and_parameters_stay():
    plain, model = make_model(), make_model()
    parameters = dict(model.named_parameters())
    told = compute_in_float8(model, EMULATED)
    assert told == "12 of 12 linear layers, emulated in float32"
    in_float8 = {name for name, m in model.named_modules() if isinstance(m, Float8Linear)}
    assert len(in_float8) == 12
    assert all(name.startswith("blocks.") for name in in_float8)
    assert type(model.head) is nn.Linear
    assert all(p is parameters[name] for name, p in model.named_parameters())
    state = model.state_dict()
    assert list(state) == list(plain.state_dict())
    assert all(type(value) is torch.Tensor for value in state.values())
    plain.load_state_dict(state)


def test_tables_and_gates_of_value_embeddings_stay():
    heads = {"num_heads": 16, "width": 256}  # a gate of 16 x 32, which would fit
    model = make_model(attention=partial(SelfAttention, value_embeddings=True), **heads)
    assert compute_in_float8(model, EMULATED) == "12 of 12 linear layers, emulated in float32"
    for values in model.value_embeddings:
        assert not isinstance(values.gate, Float8Linear)
        assert values.gate.weight.shape == (16, 32)


def test_layers_of_other_sizes_stay_and_are_named():
    model = make_model(hidden_width=40)
    told = compute_in_float8(model, EMULATED)
    assert told == (
        "9 of 12 linear layers, emulated in float32; not blocks.0.mlp.w3 (40 x 32), "
        "blocks.1.mlp.w3 (40 x 32), blocks.2.mlp.w3 (40 x 32): not divisible by 16"
    )
    assert type(model.blocks[0].mlp.w3) is nn.Linear
    assert isinstance(model.blocks[0].mlp.w12, Float8Linear)


def test_what_cannot_be_in_float8_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"row_length \(1000\) must be divisible by 16 .*: 992 is"):
        Float8(1000)
    odd = make_model(width=24, hidden_width=24)
    with pytest.raises(
        ValueError, match=r"no linear layer .*, as blocks.0.attention.qkv \(24 x 72"
    ):
        compute_in_float8(odd, EMULATED)
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(ValueError, match=r"torchao cannot be imported .*: pip install '\.\[fp8\]'"):
        compute_in_float8(make_model(), EMULATED)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_a_step_is_near_that_without_and_is_not_the_same(autocast):
    _, plain = step(make_module(None), autocast)
    _, gradients = step(make_module(), autocast)
    error = torch.linalg.norm(gradients - plain) / torch.linalg.norm(plain)
    assert 5e-3 < error < 6e-2


@pytest.mark.parametrize(
    ("checkpointing", "compile", "autocast"),  # each pair of them: a compilation takes seconds
    [
        ("none", "blocks", None),
        ("none", True, torch.bfloat16),
        ("selective", "blocks", torch.bfloat16),
        ("selective", True, None),
        ("full", "blocks", None),
        ("full", True, torch.bfloat16),
    ],
)
def test_compiled_or_recomputed_it_is_the_same_step(checkpointing, compile, autocast, monkeypatch):
    layers = {"num_layers": 2 if compile == "blocks" else 1}
    loss, gradients = step(make_module(**layers), autocast)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = partial(torch.compile, dynamic=False, fullgraph=True, backend=counter)
    monkeypatch.setattr("packformer.training.module.compile_whole", compiled)
    monkeypatch.setattr("packformer.training.compilation.compile_whole", compiled)
    module = make_module(compile=compile, activation_checkpointing=checkpointing, **layers)
    for _ in range(2):
        found, found_gradients = step(module, autocast)
        assert found == pytest.approx(loss, rel=1e-6)
        torch.testing.assert_close(found_gradients, gradients, rtol=1e-5, atol=1e-6)
    graphs = {"blocks": 2, True: 1}[compile]
    assert counter.frame_count == graphs, "alike blocks share their code"


def test_losses_in_float8_follow_those_without():
    tokens, _, layout = a_row()
    row = (tokens, tokens.roll(-1), layout)
    curves = []
    for float8 in (None, EMULATED):
        module = make_module(float8)
        optimizer = adamw(module.model, fused=False, learning_rate=3e-3)
        losses = []
        for _ in range(40):
            loss = module._training_loss(*row).loss / ROW
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0][-1] < 0.6 * curves[0][0], "it has not trained"
    differences = [abs(a - b) for a, b in zip(*curves, strict=True)]
    assert 0 < max(differences) < 0.03


def test_a_model_in_training_can_write():
    model = make_model()
    compute_in_float8(model, EMULATED)
    (tokens,) = generate(model, [[1, 2, 3]], max_new_tokens=4, temperature=0)
    assert len(tokens) == 4


def test_high_precision_comes_back():
    model = make_model()
    before = model.blocks[0](*_through_a_block(model))
    compute_in_float8(model, EMULATED)
    assert not torch.equal(model.blocks[0](*_through_a_block(model)), before)
    in_high_precision(model.blocks[0])
    assert torch.equal(model.blocks[0](*_through_a_block(model)), before)
    assert isinstance(model.blocks[1].mlp.w3, Float8Linear)


def _through_a_block(model):
    layout = a_row()[2]
    x = torch.randn(1, ROW, 32, generator=torch.Generator().manual_seed(0))
    return x, layout, model.position, model.position.locate(layout.position_ids), None


class TestBlockTimes:
    @pytest.fixture
    def measured(self, tmp_path, monkeypatch):
        """How often a block was measured; the cache is empty."""
        monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path))
        calls = []
        time_of = speed.median_milliseconds

        def counted(*arguments):
            calls.append(arguments)
            return time_of(*arguments)

        monkeypatch.setattr(speed, "median_milliseconds", counted)
        monkeypatch.setattr(speed, "_REPETITIONS", 1)
        return calls

    @staticmethod
    def of(model, compiled=False):
        return block_times(
            model,
            EMULATED,
            torch.device("cpu"),
            dtype=torch.float32,
            autocast=nullcontext(),
            compiled=compiled,
        )

    def test_a_block_is_measured_once_both_ways_and_nothing_else_changes(self, measured, tmp_path):
        model = make_model()
        compute_in_float8(model, EMULATED)
        weights = {name: p.clone() for name, p in model.named_parameters()}
        state = torch.get_rng_state()
        times = self.of(model)
        assert min(times) > 0
        assert len(measured) == 2
        assert self.of(model) == times
        assert len(measured) == 2, "it is kept"
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
        assert all(p.grad is None for p in model.parameters())
        (file,) = tmp_path.glob("float8/*.json")
        file.write_text(json.dumps({"plain": 0.0, "float8": 1.0}))
        assert min(self.of(model)) > 0
        assert len(measured) == 4, "a damaged file is measured again"

    def test_another_block_is_another_measurement(self, measured):
        for options in (
            {},
            {"hidden_width": 48},
            {"attention": partial(SelfAttention, window=8)},
            {"attention": partial(SelfAttention, value_embeddings=True)},
            {"activation_checkpointing": "full"},
        ):
            model = make_model(**options)
            compute_in_float8(model, EMULATED)
            before = len(measured)
            self.of(model)
            assert len(measured) == before + 2

    def test_blocks_without_memory_or_compiled_ones_are_measured_too(self, measured, monkeypatch):
        counter = CompileCounterWithBackend("aot_eager")
        compiled = partial(torch.compile, dynamic=False, fullgraph=True, backend=counter)
        for module in ("module", "compilation", "float8_speed"):
            monkeypatch.setattr(f"packformer.training.{module}.compile_whole", compiled)
        module = make_module(compile="blocks")
        module.model.blocks.to("meta")
        assert min(self.of(module.model, compiled=True)) > 0
        assert counter.frame_count == 2
        assert all(p.is_meta for p in module.model.blocks.parameters())

    def test_the_figures_are_told_with_a_warning_where_float8_is_slower(self, caplog):
        with caplog.at_level(logging.INFO):
            BlockTimes(55.5, 43.0).tell("bf16-mixed")
            BlockTimes(20.0, 25.0).tell("bf16-mixed")
        faster, slower, warning = caplog.records
        assert faster.message == "float8   block 55.50 ms -> 43.00 ms (1.29 times)"
        assert slower.message == "float8   block 20.00 ms -> 25.00 ms (0.80 times)"
        assert warning.levelname == "WARNING"
        assert "float8 is slower than bf16-mixed here: leave trainer.float8 out" in warning.message


class InShards(FSDP2):
    root_device = torch.device("cpu")


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_shards_get_their_scales_after_every_step(optimizer, monkeypatch):
    module, scaled = make_module(), []
    module._make_optimizer = optimizer
    trainer = SimpleNamespace(strategy=InShards(), precision="32-true")
    monkeypatch.setattr(TrainingModule, "trainer", trainer)
    monkeypatch.setattr("packformer.training.module.precompute_scales", scaled.append)
    optimizer = module.configure_optimizers()["optimizer"]
    for steps in (1, 2):
        module._training_loss(*a_row()).loss.backward()
        optimizer.step()
        assert scaled == [module.model] * steps


NEEDS_FLOAT8 = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9),
    reason="needs a GPU of compute capability 8.9",
)


def relative_error(found, wanted):
    found, wanted = found.float(), wanted.float()
    return (torch.linalg.norm(found - wanted) / torch.linalg.norm(wanted)).item()


@pytest.mark.gpu
@NEEDS_FLOAT8
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_products_are_those_that_are_emulated(compiled):
    """Of numbers that bfloat16 holds: compiled code rounds others from float32 at once, not by way
    of bfloat16, and a few then come to another float8."""
    torch.compiler.reset()
    results = []
    for emulate in (False, True):
        model = make_model()
        compute_in_float8(model, Float8(ROW, emulate))
        layer = model.blocks[0].mlp.w12.to("cuda")
        with torch.no_grad():  # numbers that bfloat16 holds
            layer.weight.copy_(layer.weight.bfloat16())
        generator = torch.Generator("cuda").manual_seed(1)
        x = torch.randn(1, ROW, layer.in_features, device="cuda", generator=generator)
        x = x.bfloat16().float()
        gradient = torch.randn(1, ROW, layer.out_features, device="cuda", generator=generator)
        x.requires_grad_()
        with torch.autocast("cuda", torch.bfloat16):
            out = (torch.compile(layer, fullgraph=True) if compiled else layer)(x)
        out.backward(gradient.to(out.dtype))
        assert out.dtype == torch.bfloat16
        results.append((out.detach(), x.grad, layer.weight.grad))
    for found, wanted in zip(*results, strict=True):
        assert relative_error(found, wanted) < 1e-2


@pytest.mark.gpu
@NEEDS_FLOAT8
@pytest.mark.parametrize("compile", [False, "blocks", True])
def test_a_step_on_a_gpu_is_near_that_without_float8(compile):
    torch.compiler.reset()
    found = []
    for float8 in (Float8(ROW), None):
        module = make_module(float8, compile=compile, width=64).to("cuda")
        module.model.select_kernel("cuda", torch.bfloat16)
        tokens, targets, layout = a_row()
        row = (tokens.cuda(), targets.cuda(), layout.to(torch.device("cuda")))
        with torch.autocast("cuda", torch.bfloat16):
            loss = module._training_loss(*row).loss
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in module.model.parameters()])
        found.append((loss.item(), gradients))
    (loss, gradients), (plain, wanted) = found
    assert loss == pytest.approx(plain, rel=5e-3)
    assert 5e-3 < relative_error(gradients, wanted) < 0.1


@pytest.mark.gpu
@NEEDS_FLOAT8
def test_a_block_is_measured_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path))
    module = make_module(Float8(ROW), compile="blocks", width=64)
    module.model.select_kernel("cuda", torch.bfloat16)
    times = block_times(
        module.model,
        module.float8,
        torch.device("cuda"),
        dtype=torch.float32,
        autocast=torch.autocast("cuda", torch.bfloat16),
        compiled=True,
    )
    assert min(times) > 0
    assert all(p.device.type == "cpu" for p in module.model.parameters())
