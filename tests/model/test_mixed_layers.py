"""Layers that differ: each has its own window, key/value heads and positions."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from packformer.attention import KERNELS, PackedLayout
from packformer.model import GPT, SelfAttention
from packformer.model.flops import score_products
from packformer.nn import ALiBi, Learned, NoPosition, Rotary, published_slopes

VOCAB, WIDTH, HEADS, LONGEST = 29, 32, 4, 16
LENGTHS = [9, 1, 16, 7]


def mixed(attention, position, **options):
    torch.manual_seed(0)
    return GPT(
        VOCAB,
        LONGEST,
        num_layers=len(attention),
        width=WIDTH,
        num_heads=HEADS,
        attention=[partial(SelfAttention, **settings) for settings in attention],
        position=position,
        init_std=0.2,
        **options,
    )


def row():
    generator = torch.Generator().manual_seed(1)
    layout = PackedLayout.from_lengths(LENGTHS, num_slots=6, max_seqlen=LONGEST)
    tokens, targets = torch.randint(VOCAB, (2, 1, sum(LENGTHS)), generator=generator)
    return tokens, targets, layout


LOCAL, WIDER = {"window": 3, "num_kv_heads": 2}, {"window": 5}
GLOBAL = {"num_kv_heads": 1}
SLOW = partial(Rotary, base=1e6)
MIXTURES = {
    "local_global": ([LOCAL, LOCAL, GLOBAL], [Rotary, Rotary, SLOW]),
    "one_layer": ([GLOBAL], [Rotary]),
    "window_of_one": ([{"window": 1}, GLOBAL], [Rotary, NoPosition]),
    "window_beyond_the_row": ([{"window": 1000}, LOCAL], [ALiBi, Rotary]),
    "three_windows": ([LOCAL, WIDER, GLOBAL, LOCAL, WIDER], [Rotary, ALiBi, Rotary, ALiBi, Rotary]),
    "learned_and_rotary": ([GLOBAL, LOCAL], [Learned, Rotary]),
}
every_mixture = pytest.mark.parametrize("name", MIXTURES)


def plain_logits(model, settings, schemes, tokens):
    """One document in float64, layer by layer, with masks and heads written out."""
    n = tokens.shape[0]
    weights = {name: p for name, p in model.state_dict(keep_vars=True).items()}
    index = torch.arange(n)
    distance = index[:, None] - index[None, :]
    x = weights["embedding.weight"][tokens]
    if Learned in schemes:
        x = x + model.positions[list(dict.fromkeys(schemes)).index(Learned)].embedding.weight[:n]

    def norm(y, scale):
        return y / (y.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * scale

    for number, (options, scheme) in enumerate(zip(settings, schemes, strict=True)):
        at = f"blocks.{number}."
        groups = options.get("num_kv_heads", HEADS)
        y = norm(x, weights[at + "attention_norm.weight"])
        q, k, v = (y @ weights[at + "attention.qkv.weight"].T).split(
            [WIDTH, groups * 8, groups * 8], dim=-1
        )
        q, k, v = (z.unflatten(-1, (-1, 8)).transpose(0, 1) for z in (q, k, v))
        if scheme in (Rotary, SLOW):
            base = 1e6 if scheme is SLOW else 1e4
            angles = index[:, None] * base ** (-torch.arange(4, dtype=torch.float64) / 4)
            turn = torch.polar(torch.ones_like(angles), angles)
            q, k = (turned(z, turn) for z in (q, k))
        k, v = (z.repeat_interleave(HEADS // groups, dim=0) for z in (k, v))
        scores = q @ k.mT / math.sqrt(8)
        if scheme is ALiBi:
            scores = scores - published_slopes(HEADS)[:, None, None] * distance
        window = options.get("window", n)
        hidden = (distance < 0) | (distance >= window)
        attended = scores.masked_fill(hidden, -math.inf).softmax(-1) @ v
        x = x + attended.transpose(0, 1).flatten(1) @ weights[at + "attention.out.weight"].T
        x = x + model.blocks[number].mlp(norm(x, weights[at + "mlp_norm.weight"]))
    return norm(x, weights["norm.weight"]) @ weights["head.weight"].T


def turned(x, turn):
    complex_x = torch.complex(x[..., :4], x[..., 4:]) * turn
    return torch.cat([complex_x.real, complex_x.imag], dim=-1)


@every_mixture
def test_gradients_are_those_of_a_plain_model_document_by_document(name):
    settings, schemes = MIXTURES[name]
    model = mixed(settings, schemes).double()
    for scheme in model.positions:
        if isinstance(scheme, Rotary):  # whose tables are float32: here the float64 ones
            base = 1e6 if schemes[-1] is SLOW and scheme is not model.position else 1e4
            angles = torch.arange(LONGEST, dtype=torch.float64)[:, None] * base ** (
                -torch.arange(4, dtype=torch.float64) / 4
            )
            scheme.cos, scheme.sin = angles.cos(), angles.sin()
    tokens, targets, layout = row()
    model.select_kernel("cpu", torch.float64)
    F.cross_entropy(model(tokens, layout)[0], targets[0], reduction="sum").backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    losses = [
        F.cross_entropy(plain_logits(model, settings, schemes, t), y, reduction="sum")
        for t, y in zip(tokens[0].split(LENGTHS), targets[0].split(LENGTHS), strict=True)
    ]
    sum(losses).backward()
    for name, parameter in model.named_parameters():
        error = torch.linalg.norm(found[name] - parameter.grad) / torch.linalg.norm(parameter.grad)
        assert error < 1e-6, name


@every_mixture
def test_documents_are_isolated(name):
    model = mixed(*MIXTURES[name])
    model.select_kernel("cpu", torch.float32)
    tokens, _, layout = row()
    other = tokens.clone()
    other[:, 10:26] = (tokens[:, 10:26] + 1) % VOCAB
    with torch.no_grad():
        before, after = model(tokens, layout), model(other, layout)
    assert torch.equal(before[:, :10], after[:, :10])
    assert torch.equal(before[:, 26:], after[:, 26:])
    assert not torch.equal(before, after)


def test_alike_layers_have_the_parameters_they_always_had():
    one = mixed([LOCAL, LOCAL], Learned)
    listed = mixed([LOCAL, LOCAL], [Learned, Learned])
    assert list(one.state_dict()) == list(listed.state_dict())
    assert "position.embedding.weight" in one.state_dict()
    assert not any("other" in name for name in one.state_dict())


def test_every_variant_is_selected_once_and_masks_are_made_once_per_window():
    settings, schemes = MIXTURES["three_windows"]
    model = mixed(settings, schemes)
    asked = []

    def select(variant, requested):
        asked.append(str(variant))
        return KERNELS["sdpa"], "because"

    told = model.select_kernel("cpu", torch.float32, select)
    assert asked == [
        "cpu float32 8 grouped window",
        "cpu float32 8 window alibi",
        "cpu float32 8 grouped",
        "cpu float32 8 grouped window alibi",
        "cpu float32 8 window",
    ]
    assert " in layer 0: because; " in told
    built = []
    kernel = KERNELS["sdpa"]
    counting = type(kernel)(
        **{**vars(kernel), "block_mask": lambda layout, window: built.append(window)}
    )
    for layer in model.layers:
        layer.kernel = counting
    model(*row()[::2])
    assert built == [3, 5, None]


def test_kernels_of_the_same_name_have_masks_of_their_own():
    model = mixed([LOCAL, LOCAL], Rotary)
    seen = []

    def kernel_with(mask):
        def run(q, k, v, layout, scoring, block_mask=None):
            seen.append(block_mask)
            return q

        made = {**vars(KERNELS["sdpa"]), "run": run, "block_mask": lambda layout, window: mask}
        return type(KERNELS["sdpa"])(**made)

    for layer, mask in zip(model.layers, ("one", "other"), strict=True):
        layer.kernel = kernel_with(mask)
    model(*row()[::2])
    assert seen == ["one", "other"]


def test_alike_layers_share_one_choice_told_without_numbers():
    model = mixed([LOCAL] * 3, Rotary)
    assert model.select_kernel("cpu", torch.float32).startswith("sdpa (exact")
    assert "in layers" not in model.select_kernel("cpu", torch.float32)


@pytest.mark.parametrize("name", ["local_global", "three_windows"])
def test_a_mixed_model_compiles_to_one_graph_for_all_packings(name):
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model = mixed(*MIXTURES[name])
    model.select_kernel("cpu", torch.float32)
    compiled = torch.compile(
        lambda tokens, layout: model(tokens, layout), fullgraph=True, dynamic=False, backend=counter
    )
    for lengths in ([16, 16, 1], [1, 15, 9, 8], [11, 11, 11]):
        layout = PackedLayout.from_lengths(lengths, num_slots=6, max_seqlen=LONGEST)
        tokens = torch.arange(33)[None] % VOCAB
        torch.testing.assert_close(compiled(tokens, layout), model(tokens, layout))
    assert counter.frame_count == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_mixed_model_compiles_to_one_graph_on_the_gpu():
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("inductor")
    kinds = [{"window": 100}, {"window": 100}, {"num_kv_heads": 2}]
    model = GPT(
        VOCAB,
        512,
        num_layers=3,
        width=256,
        num_heads=4,
        attention=[partial(SelfAttention, **kind) for kind in kinds],
        position=[Rotary, Rotary, ALiBi],
    ).to("cuda")
    model.select_kernel("cuda", torch.bfloat16)
    compiled = torch.compile(
        lambda tokens, layout: model(tokens, layout).float(),
        fullgraph=True,
        dynamic=False,
        backend=counter,
    )
    for lengths in ([512], [100, 300, 112], [1, 500, 11]):
        layout = PackedLayout.from_lengths(lengths, num_slots=6, max_seqlen=512).to("cuda")
        tokens = (torch.arange(512, device="cuda")[None] * 7) % VOCAB
        with torch.autocast("cuda", torch.bfloat16):
            found, wanted = compiled(tokens, layout), model(tokens, layout).float()
        found.sum().backward()
        assert torch.linalg.norm(found - wanted) < 2e-2 * torch.linalg.norm(wanted)
    assert counter.frame_count == 1


def test_pairs_and_cache_know_each_layers_window_and_heads():
    model = mixed([LOCAL, LOCAL, GLOBAL], Rotary)
    local = sum(min(i + 1, 3) for n in LENGTHS for i in range(n))
    whole = sum(n * (n + 1) // 2 for n in LENGTHS)
    size = model.layers[0].num_heads * model.layers[0].head_dim
    assert score_products(model, LENGTHS) == size * (2 * local + whole)
    for context in (1, 2, 3, 4, 100):
        values = 2 * 2 * 2 * 8 * min(context, 3) + 2 * 1 * 8 * context
        assert model.kv_cache_bytes(context) == 2 * values


def test_as_many_functions_as_layers_are_needed():
    with pytest.raises(ValueError, match=r"position must be one, or .* layers \(2\), not 1"):
        mixed([LOCAL, GLOBAL], [Rotary])
