"""The training module: what a step's loss is, and clipping."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

from packformer.attention import PackedLayout
from packformer.batch import IGNORE_INDEX, PackedBatch
from packformer.data.rows import PackedRows
from packformer.data.settings import PackingSettings
from packformer.data.tasks import Copying
from packformer.model import GPT
from packformer.nn import Rotary
from packformer.training import TrainingModule, adamw, build_optimizer, constant

DATA = Copying(num_symbols=10).prepare()


def make_module(**options):
    torch.manual_seed(0)
    model = GPT(11, 64, num_layers=1, width=16, num_heads=2, position=Rotary)
    options = {"token_budget": 25, **options}
    return TrainingModule(model, adamw, partial(constant, num_steps=10), **options)


@pytest.fixture(scope="module")
def batches():
    return list(PackedRows(DATA.train, PackingSettings(64), max_documents=8, seed=0, limit=4))


def summed_nats(module, batch):
    """Document by document, token by token."""
    total, end = 0.0, 0
    for length in batch.lengths:
        part = slice(end, end + length)
        end += length
        logits = module.model(batch.tokens[:, part], PackedLayout.from_lengths([length]))
        log_probabilities = F.log_softmax(logits[0].double(), dim=-1)
        for position, target in enumerate(batch.targets[0, part].tolist()):
            if target != IGNORE_INDEX:
                total -= log_probabilities[position, target]
    return total


def test_training_loss_is_the_sum_over_counted_tokens_by_the_budget(batches):
    module = make_module(token_budget=25)
    for batch in batches:
        loss = module.training_step(batch, 0)
        expected = summed_nats(module, batch) / 25
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss = module.train_loss.compute()["loss"]
    counted = sum(batch.num_targets for batch in batches)
    nats = sum(summed_nats(module, batch) for batch in batches).item()
    assert loss == pytest.approx(nats / counted, rel=1e-5)


def test_z_loss_is_trained_on_and_recorded_beside_the_loss(batches):
    """By every counted token alike: the rows differ in how many they have."""
    module, without, c = make_module(z_loss=0.01), make_module(), 0.01
    squares = 0.0
    for batch in batches:
        counted = batch.targets[0] != IGNORE_INDEX
        of_row = module.model(batch.tokens, batch.layout)[0].logsumexp(-1)[counted].square().sum()
        squares += of_row.item()
        expected = without.training_step(batch, 0) + c * of_row / 25
        assert module.training_step(batch, 0).item() == pytest.approx(expected.item(), rel=1e-5)
    counted = sum(batch.num_targets for batch in batches)
    assert module.train_z_loss.compute()["loss"] == pytest.approx(c * squares / counted, rel=1e-5)
    assert module.train_loss.compute() == without.train_loss.compute()
    module.forget_training_losses()
    assert not module.train_z_loss.num_targets
    for each in (module, without):
        with torch.no_grad():
            each.validation_step(batches[0], 0)
    assert module.val_loss.compute() == without.val_loss.compute()


def test_every_counted_token_weighs_the_same_however_rows_are_grouped(batches):
    gradients = []
    for groups in ([batches], [batches[:1], batches[1:]]):
        module = make_module()
        for group in groups:
            for batch in group:
                module.training_step(batch, 0).backward()
        gradients.append([p.grad.clone() for p in module.parameters()])
    module = make_module()
    (sum(summed_nats(module, batch) for batch in batches) / 25).backward()
    for together, apart, expected in zip(*gradients, module.parameters(), strict=True):
        assert torch.equal(together, apart)
        error = (together - expected.grad).abs().max() / expected.grad.abs().max()
        assert error.item() <= 1e-5


def test_validation_counts_bytes_of_the_targets(batches):
    byte_lengths = torch.arange(11)
    module = make_module(byte_lengths=byte_lengths).eval()
    with torch.no_grad():
        for number, batch in enumerate(batches):
            module.validation_step(batch, number)
        nats = sum(summed_nats(module, batch) for batch in batches).item()
    targets = torch.cat([batch.targets[0] for batch in batches])
    num_bytes = byte_lengths[targets[targets != IGNORE_INDEX]].sum().item()
    found = module.val_loss.compute()["bits_per_byte"]
    assert found == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


def test_validation_scores_answers_by_the_most_likely_token(batches):
    module = make_module(score_answers=True).eval()
    with torch.no_grad():
        module.validation_step(batches[0], 0)
        predictions = module.model(batches[0].tokens, batches[0].layout).argmax(-1)
    counted = batches[0].targets != IGNORE_INDEX
    expected = (predictions == batches[0].targets)[counted].float().mean().item()
    assert module.val_answers.compute()["answer_accuracy"] == pytest.approx(expected)


def test_perfect_answers_score_one(batches):
    module = make_module(score_answers=True).eval()
    targets = batches[0].targets.clamp(min=0)
    module.model.forward = lambda tokens, layout: 100 * F.one_hot(targets, 11).float()
    module.validation_step(batches[0], 0)
    assert module.val_answers.compute() == {"answer_accuracy": 1.0, "exact_match": 1.0}


def with_gradients(module, size):
    for parameter in module.model.parameters():
        parameter.grad = torch.full_like(parameter, size)
    return torch.cat([p.grad.flatten() for p in module.model.parameters()]).norm().item()


def gradient_norm(module):
    return torch.cat([p.grad.flatten() for p in module.model.parameters()]).norm().item()


def clip(module):
    module.configure_gradient_clipping(adamw(module.model, fused=False))


def test_large_gradients_are_scaled_down_to_the_limit():
    module = make_module(max_grad_norm=0.5)
    before = with_gradients(module, 3.0)
    clip(module)
    assert module.grad_norm.item() == pytest.approx(before, rel=1e-5)
    assert gradient_norm(module) == pytest.approx(0.5, rel=1e-4)
    values = torch.cat([p.grad.flatten() for p in module.model.parameters()])
    assert (values == values[0]).all()


@pytest.mark.parametrize("max_grad_norm", [1.0, None])
def test_gradients_within_the_limit_stay_as_they_are(max_grad_norm):
    module = make_module(max_grad_norm=max_grad_norm)
    before = with_gradients(module, 1e-4)
    assert before < 1
    clip(module)
    assert gradient_norm(module) == before
    assert module.grad_norm.item() == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
            ],
        ),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("limit", [0.5, 1e3, None])
def test_a_fused_step_is_the_step_with_clipped_gradients(limit, dtype, device):
    weights = []
    for fused in (False, True):
        module = make_module(max_grad_norm=limit).to(device=device, dtype=dtype)
        optimizer = adamw(module.model, fused=fused, learning_rate=0.1, eps=1.0)
        for step in range(3):
            for p in module.model.parameters():
                p.grad = torch.full_like(p, 0.25 + step)
            module.configure_gradient_clipping(optimizer)
            optimizer.step()
        weights.append([p.detach().float() for p in module.model.parameters()])
    exact = dtype == torch.float32
    for fused, plain in zip(*weights, strict=True):
        torch.testing.assert_close(
            fused, plain, rtol=1e-5 if exact else 2e-2, atol=1e-6 if exact else 2e-2
        )


def test_without_a_limit_large_gradients_stay_as_they_are():
    module = make_module(max_grad_norm=None)
    before = with_gradients(module, 3.0)
    clip(module)
    assert gradient_norm(module) == before > 1


def test_compiled_loss_is_the_eager_loss(batches):
    torch._dynamo.reset()
    with torch._dynamo.config.patch(suppress_errors=False):
        eager = make_module()
        compiled = make_module()
        counter = CompileCounterWithBackend("aot_eager")
        compiled._training_loss = torch.compile(
            compiled._eager_training_loss, dynamic=False, backend=counter, fullgraph=True
        )
        for batch in batches:
            expected = eager.training_step(batch, 0).item()
            assert compiled.training_step(batch, 0).item() == pytest.approx(expected, rel=1e-6)
        assert counter.frame_count == 1


class OnDevice:
    """As much of a trainer as says where and how precisely a run computes."""

    def __init__(self, device, precision):
        self.strategy = SimpleNamespace(root_device=torch.device(device))
        self.precision = precision
        self.checkpoint_callbacks = ()


@pytest.mark.parametrize(
    ("device", "precision", "fused"),
    [
        ("cpu", "32-true", False),
        ("cuda", "bf16-mixed", True),
        ("cuda", "32-true", True),
        ("cuda", "16-mixed", False),  # a gradient scaler would find clipped gradients unscaled
    ],
)
@pytest.mark.parametrize("saved", [False, True])
def test_a_step_is_fused_where_it_runs_whatever_the_checkpoint_says(
    monkeypatch, device, precision, fused, saved
):
    module = make_module()
    monkeypatch.setattr(TrainingModule, "trainer", OnDevice(device, precision))
    optimizer = module.configure_optimizers()["optimizer"]
    assert optimizer.defaults["fused"] == fused
    optimizer.load_state_dict(adamw(module.model, fused=saved).state_dict())
    assert {group["fused"] for group in optimizer.param_groups} == {fused}


@pytest.mark.parametrize(("saved", "resumed"), [(False, True), (True, False)])
def test_a_fused_step_goes_on_from_a_plain_one_and_the_other_way(saved, resumed):
    module = make_module(max_grad_norm=0.5)
    former = adamw(module.model, fused=saved)
    optimizer = build_optimizer(partial(adamw, fused=resumed), module.model, fused=not resumed)
    for p in module.model.parameters():
        p.grad = torch.ones_like(p)
    former.step()
    optimizer.load_state_dict(former.state_dict())
    module.configure_gradient_clipping(optimizer)
    optimizer.step()
    assert all(p.isfinite().all() for p in module.model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_budget": 0}, r"token_budget \(0\) must be at least 1"),
        ({"max_grad_norm": True}, r"max_grad_norm \(True\) must be positive, or null"),
        ({"max_grad_norm": 0}, r"max_grad_norm \(0\) must be positive, or null"),
        ({"max_grad_norm": "abc"}, r"max_grad_norm \(abc\) must be positive, or null"),
        ({"z_loss": 0}, r"z_loss \(0\) must be a number above 0, or null"),
        ({"max_grad_norm": -1.0}, r"max_grad_norm \(-1.0\) must be positive, or null"),
    ],
)
def test_impossible_settings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_module(**options)


def test_checkpoints_say_who_wrote_them():
    checkpoint, module, alone = {}, make_module(), SimpleNamespace(world_size=1)
    module.trainer = alone
    module.on_save_checkpoint(checkpoint)
    assert set(checkpoint["packformer"]) == {"version"}


def test_byte_lengths_are_not_saved():
    module = make_module(byte_lengths=torch.ones(11))
    assert not [name for name in module.state_dict() if "byte_length" in name]
    assert isinstance(module.model, nn.Module)


def test_training_and_validation_are_one_graph_each_for_hundreds_of_packings(caplog):
    """What is compiled is what the module compiles; forward and backward count as one."""
    torch._dynamo.reset()
    module = make_module(token_budget=40, compile=True)
    module.model.select_kernel("cpu", torch.float32)
    counters = []
    for name, eager in (
        ("_training_loss", module._eager_training_loss),
        ("_validation_loss", module._eager_validation_loss),
    ):
        counters.append(CompileCounterWithBackend("aot_eager"))
        compiled = torch.compile(eager, dynamic=False, fullgraph=True, backend=counters[-1])
        setattr(module, name, compiled)
    settings = PackingSettings(256, max_document_length=64)
    rows = PackedRows(DATA.train, settings, max_documents=40, seed=0, limit=300)
    packings = set()
    for number, batch in enumerate(rows):
        packings.add(batch.lengths)
        module.train()
        module.training_step(batch, number).backward()
        module.zero_grad()
        if number % 30 == 0:
            module.eval()
            with torch.no_grad():
                module.validation_step(batch, number)
    assert len(packings) > 270
    assert [counter.frame_count for counter in counters] == [1, 1]
    assert "compiled again" not in caplog.text


def gradients_of(rows):
    """Of 64 documents, 8 to a row, ``rows`` rows to a micro-batch; their sizes differ."""
    module = make_module(token_budget=25 * rows)
    documents = [torch.arange(2 + n % 9) % 11 for n in range(64)]  # 8 micro-batches of 8 documents
    per_micro_batch = 8 * rows
    for start in range(0, 64, per_micro_batch):
        part = documents[start : start + per_micro_batch]
        lengths = [len(d) for d in part]
        targets = torch.cat([torch.cat([d[1:], torch.tensor([IGNORE_INDEX])]) for d in part])
        batch = PackedBatch(
            torch.cat(part)[None],
            targets[None],
            PackedLayout.from_lengths(lengths),
            num_tokens=sum(lengths),
            num_targets=sum(lengths) - len(lengths),
            lengths=tuple(lengths),
            packer_state={},
        )
        (module.training_step(batch, 0) / (8 // rows)).backward()  # as Lightning accumulates
    return [p.grad for p in module.model.parameters()]


def test_one_large_micro_batch_is_two_is_eight():
    wanted = gradients_of(8)
    for rows in (4, 1):
        for found, expected in zip(gradients_of(rows), wanted, strict=True):
            error = torch.linalg.norm(found - expected) / torch.linalg.norm(expected)
            assert error <= 1e-6


def test_checks_of_values_are_not_compiled_away(monkeypatch, caplog):
    monkeypatch.setenv("PACKFORMER_DEBUG", "1")
    module = make_module(compile=True)
    assert module._training_loss == module._eager_training_loss
    assert "PACKFORMER_DEBUG looks at values" in caplog.text
