"""The model: every combination of its choices keeps documents apart and looks back only."""

from functools import partial
from itertools import product

import pytest
import torch
from torch.nn import functional as F

from packformer.attention import KERNELS, PackedLayout
from packformer.model import GPT, SelfAttention
from packformer.nn import Rotary

from .conftest import KV_HEADS, LONGEST, POSITIONS, VOCAB, make_model

LENGTHS = [9, 1, 16, 7]


COMBINATIONS = list(product(KV_HEADS, POSITIONS, [None, 5], [False, True], [True, False]))


every_combination = pytest.mark.parametrize(
    ("attention", "position", "window", "qk_norm", "tied"),
    COMBINATIONS,
    ids=[
        f"{attention}-{position}-{'window' if window else 'full'}"
        f"-{'qk_norm' if qk_norm else 'plain'}-{'tied' if tied else 'untied'}"
        for attention, position, window, qk_norm, tied in COMBINATIONS
    ],
)


def make_row(num_slots=8):
    torch.manual_seed(1)
    layout = PackedLayout.from_lengths(LENGTHS, num_slots=num_slots, max_seqlen=LONGEST)
    return torch.randint(VOCAB, (1, sum(LENGTHS))), layout


def documents():
    ends = torch.tensor(LENGTHS).cumsum(0).tolist()
    return [slice(end - length, end) for end, length in zip(ends, LENGTHS, strict=True)]


@every_combination
def test_packed_documents_get_the_logits_they_get_alone(attention, position, window, qk_norm, tied):
    model = make_model(attention, position, window, qk_norm, tied)
    tokens, layout = make_row()
    with torch.no_grad():
        packed = model(tokens, layout)
        for document, length in zip(documents(), LENGTHS, strict=True):
            alone = model(tokens[:, document], PackedLayout.from_lengths([length]))
            error = (packed[:, document] - alone).abs().max() / alone.abs().max()
            assert error.item() <= 1e-5


@every_combination
def test_later_tokens_leave_earlier_logits_as_they_are(attention, position, window, qk_norm, tied):
    model = make_model(attention, position, window, qk_norm, tied)
    tokens, layout = make_row()
    third = documents()[2]
    changed = third.start + 3
    other = tokens.clone()
    other[0, changed] = (other[0, changed] + 1) % VOCAB
    with torch.no_grad():
        before, after = model(tokens, layout), model(other, layout)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert not torch.equal(before[:, changed], after[:, changed])
    # With the window, what a token says reaches 4 further tokens in each of the 2 layers.
    reached = third.stop if window is None else min(third.stop, changed + 2 * 4 + 1)
    moved = (before != after).any(-1)[0]
    assert moved[changed:reached].all()
    assert not moved[reached:].any()


@every_combination
def test_gradients_reach_every_parameter(attention, position, window, qk_norm, tied):
    model = make_model(attention, position, window, qk_norm, tied)
    tokens, layout = make_row()
    F.cross_entropy(model(tokens, layout)[0], tokens[0].roll(-1)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def logits_and_embedding_gradient(model, tokens, layout, weights, **autocast):
    """Logits, and the gradient of their weighted sum by the token embeddings ``[1, M, D]``."""
    kept = []
    hook = model.embedding.register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.autocast(tokens.device.type, **autocast):
        logits = model(tokens, layout)
    hook.remove()
    (gradient,) = torch.autograd.grad((logits.float() * weights).sum(), kept)
    return logits.detach(), gradient


def check_isolation(model, device, replaced_documents, **autocast):
    model = model.to(device)
    tokens, layout = make_row()
    tokens, layout = tokens.to(device), layout.to(device)
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(1, tokens.shape[1], VOCAB, generator=generator).to(device)
    before = logits_and_embedding_gradient(model, tokens, layout, weights, **autocast)
    for document in replaced_documents:
        replaced = tokens.clone()
        replaced[:, document] = (tokens[:, document] + 1 + tokens[:, document] % 7) % VOCAB
        assert (replaced != tokens)[:, document].all()
        after = logits_and_embedding_gradient(model, replaced, layout, weights, **autocast)
        others = torch.ones(tokens.shape[1], dtype=torch.bool, device=device)
        others[document] = False
        for name, old, new in zip(("logits", "gradient"), before, after, strict=True):
            assert torch.equal(old[:, others], new[:, others]), name
            assert not torch.equal(old[:, document], new[:, document]), name


@every_combination
def test_a_document_is_isolated_from_its_neighbours(attention, position, window, qk_norm, tied):
    model = make_model(attention, position, window, qk_norm, tied)
    check_isolation(model, "cpu", documents()[2:3], enabled=False)


@pytest.mark.parametrize("position", POSITIONS)
def test_wherever_it_lies_a_document_is_isolated(position):
    check_isolation(make_model("gqa", position), "cpu", documents(), enabled=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@every_combination
def test_a_document_is_isolated_from_its_neighbours_on_the_gpu(
    attention, position, window, qk_norm, tied
):
    torch._dynamo.reset()  # FlexAttention compiles once per variant, up to a limit
    # Heads of 16: FlexAttention on CUDA takes none smaller.
    model = make_model(attention, position, window, qk_norm, tied, width=64)
    model.select_kernel("cuda", torch.bfloat16)
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        check_isolation(model, "cuda", documents(), dtype=torch.bfloat16)
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


def random_rows(num_rows, row_length, num_slots):
    generator = torch.Generator().manual_seed(3)
    for _ in range(num_rows):
        cuts = torch.randperm(row_length - 1, generator=generator)[: num_slots - 1] + 1
        count = int(torch.randint(num_slots, (), generator=generator))
        bounds = [0, *sorted(cuts[:count].tolist()), row_length]
        lengths = [end - start for start, end in zip(bounds, bounds[1:], strict=False)]
        layout = PackedLayout.from_lengths(lengths, num_slots=num_slots, max_seqlen=row_length)
        tokens = torch.randint(VOCAB, (2, 1, row_length), generator=generator)
        yield tokens[0], tokens[1], layout


def check_one_graph(model, device, row_length, backend, num_rows, **autocast):
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)

    def loss(tokens, targets, layout):
        return F.cross_entropy(model(tokens, layout)[0].float(), targets[0])

    compiled = torch.compile(loss, fullgraph=True, dynamic=False, backend=counter)
    for tokens, targets, layout in random_rows(num_rows, row_length, 12):
        row = (tokens.to(device), targets.to(device), layout.to(device))
        with torch.autocast(device, **autocast):
            expected, found = loss(*row), compiled(*row)
        found.backward()
        model.zero_grad()
        yield expected.item(), found.item()
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("attention", "position", "window"),
    [("gqa", "rotary", None), ("mqa", "alibi", 5)],
)
def test_model_and_loss_compile_to_one_graph_for_all_packings(attention, position, window):
    model = make_model(attention, position, window, qk_norm=True, num_layers=1)
    model.select_kernel("cpu", torch.float32)
    rows = check_one_graph(model, "cpu", LONGEST, "aot_eager", 6, enabled=False)
    for expected, found in rows:
        assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(
    ("attention", "position", "window"),
    [
        ("mha", "rotary", None),
        ("gqa", "rotary", None),
        ("mqa", "rotary", None),
        ("mha", "alibi", None),
        ("gqa", "alibi", None),
        ("mha", "rotary", 5),
    ],
)
def test_model_and_loss_compile_to_one_graph_for_all_packings_on_the_gpu(
    attention, position, window
):
    model = GPT(
        VOCAB,
        512,
        num_layers=2,
        width=256,
        num_heads=4,
        attention=partial(SelfAttention, num_kv_heads=KV_HEADS[attention], window=window),
        position=POSITIONS[position],
    ).to("cuda")
    model.select_kernel("cuda", torch.bfloat16)
    rows = check_one_graph(model, "cuda", 512, "inductor", 200, dtype=torch.bfloat16)
    for expected, found in rows:
        assert found == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("fp32", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_the_residual_stream_has_the_dtype_asked_for(fp32, autocast):
    torch.manual_seed(0)
    model = GPT(11, 8, num_layers=2, width=16, num_heads=2, position=Rotary, fp32_residual=fp32)
    dtypes = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    tokens, layout = torch.randint(11, (1, 8)), PackedLayout.from_lengths([5, 3])
    exact = model.double()(tokens, layout)
    dtypes.clear()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model.float()(tokens, layout)
    logits.float().sum().backward()
    wanted = torch.bfloat16 if autocast and not fp32 else torch.float32
    assert dtypes == [wanted] * 2
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    error = torch.linalg.norm(logits - exact) / torch.linalg.norm(exact)
    assert error < (2e-2 if autocast else 1e-5)


@pytest.mark.parametrize("position", list(POSITIONS))
@pytest.mark.parametrize(
    ("attention", "width", "heads", "head_dim"),
    [("mha", 32, 4, 16), ("gqa", 32, 4, 2), ("mqa", 30, 7, 6), ("mha", 9, 1, 2)],
)
def test_heads_of_any_size_are_isolated_and_trained(attention, width, heads, head_dim, position):
    sizes = {"width": width, "num_heads": heads, "head_dim": head_dim}
    model = make_model(attention, position, 4, qk_norm=True, **sizes)
    tokens, layout = make_row()
    packed = model(tokens, layout)
    for document, length in zip(documents(), LENGTHS, strict=True):
        alone = model(tokens[:, document], PackedLayout.from_lengths([length]))
        assert (packed[:, document] - alone).abs().max() <= 1e-5 * alone.abs().max()
    packed.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    kv_heads = model.layers[0].num_kv_heads
    assert model.layers[0].qkv.weight.shape == ((heads + 2 * kv_heads) * head_dim, width)
    assert model.layers[0].out.weight.shape == (width, heads * head_dim)
    assert model.kv_cache_bytes(3) == 2 * 3 * 2 * kv_heads * head_dim * 2
    asked, _ = model.asked_of_kernels("cpu", torch.float32)[0]
    assert asked.head_dim == head_dim


def test_select_kernel_settles_every_layer():
    model = make_model()
    assert model.select_kernel("cpu", torch.float32).startswith("sdpa (")
    assert [layer.kernel for layer in model.layers] == [KERNELS["sdpa"]] * 2


def test_select_kernel_knows_what_the_layers_ask():
    model = make_model("gqa", position="alibi", window=3, width=64)
    asked = []

    def select(variant, requested):
        asked.append((str(variant), requested))
        return KERNELS["flex"], "because"

    chosen = model.select_kernel("cuda", torch.bfloat16, select)
    assert chosen == f"flex ({KERNELS['flex'].description}): because"
    assert asked == [("cuda bfloat16 16 grouped window alibi", "auto")]


def test_a_model_for_longer_documents_than_it_was_made_for():
    made = {"num_layers": 2, "width": 32, "num_heads": 4, "position": Rotary}
    torch.manual_seed(0)
    short = GPT(11, 8, **made)
    torch.manual_seed(0)
    long = GPT(11, 40, **made)
    short.extend(40)
    tokens, layout = torch.randint(11, (1, 40)), PackedLayout.from_lengths([40])
    assert torch.equal(short(tokens, layout), long(tokens, layout))
    assert short.max_position == 40
    short.extend(8)
    assert short.max_position == 40
