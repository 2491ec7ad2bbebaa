"""Attention across the documents of a row: in training only, and of the layers that ask for it."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from packformer.attention import KERNELS, PackedLayout
from packformer.model import GPT, SelfAttention
from packformer.model.flops import attended_pairs, score_products
from packformer.nn import ALiBi, Learned, NoPosition, Rotary

VOCAB, WIDTH, HEADS, HEAD_DIM = 29, 16, 2, 8
LENGTHS, PADDING = [5, 1, 9, 4], 3
USED = sum(LENGTHS)
ROW = USED + PADDING
ACROSS = {"across_documents": True}
THROUGH = {**ACROSS, "restart_positions": False}
SCHEMES = {"rotary": Rotary, "alibi": ALiBi, "learned": Learned, "none": NoPosition}
OPTIONS = {
    "plain": {},
    "window": {"window": 4},
    "grouped": {"num_kv_heads": 1},
    "capped": {"soft_cap": 2.0, "qk_norm": True},
    "function": {"score_mod": lambda s, b, h, i, j: s - 0.1 * (i - j) * (h + 1), "window": 7},
}


def model_of(position=Rotary, *layers, max_position=ROW, kernel="reference"):
    torch.manual_seed(0)
    return GPT(
        VOCAB,
        max_position,
        num_layers=2,
        width=WIDTH,
        num_heads=HEADS,
        hidden_width=24,
        attention=[
            partial(SelfAttention, kernel=kernel, **options)
            for options in (layers * 2 if len(layers) == 1 else layers)
        ],
        position=position,
        init_std=0.2,
    ).double()


def row(seed=1):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCAB, (1, ROW), generator=generator)
    return tokens, PackedLayout.from_lengths([*LENGTHS, PADDING], num_slots=9, max_seqlen=9)


def documents(logits):
    """Of each document, ``[L, V]``."""
    return logits[0, :USED].split(LENGTHS)


@pytest.mark.parametrize("position", SCHEMES)
@pytest.mark.parametrize("options", OPTIONS)
def test_counting_through_the_row_it_is_one_document(position, options):
    tokens, layout = row()
    scheme, settings = SCHEMES[position], OPTIONS[options]
    found = model_of(scheme, {**settings, **THROUGH})(tokens, layout)
    whole = model_of(scheme, settings)(tokens, PackedLayout.from_lengths([ROW]))
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)
    apart = model_of(scheme, settings)(tokens, layout)
    assert not torch.allclose(documents(apart)[2], documents(found)[2])


@pytest.mark.parametrize("position", ["rotary", "alibi", "learned"])
@pytest.mark.parametrize("window", [None, 4])
def test_restarting_positions_are_those_of_the_formula(position, window):
    tokens, layout = row()
    model = model_of(SCHEMES[position], {"window": window, **ACROSS})
    if position == "rotary":  # whose tables are float32: here the float64 ones
        frequencies = 1e4 ** (-torch.arange(4, dtype=torch.float64) / 4)
        angles = torch.arange(ROW, dtype=torch.float64)[:, None] * frequencies
        model.position.cos, model.position.sin = angles.cos(), angles.sin()
    wanted = by_formula(model, tokens[0], window)
    torch.testing.assert_close(model(tokens, layout)[0], wanted, rtol=0, atol=1e-10)


def by_formula(model, tokens, window):
    """Logits of a row, plainly causal, where positions restart."""
    weights = model.state_dict()
    places = torch.cat([torch.arange(n) for n in [*LENGTHS, PADDING]])
    distance = torch.arange(ROW)[:, None] - torch.arange(ROW)
    hidden = (distance < 0) | (distance >= (window or ROW))
    scheme = model.position
    x = weights["embedding.weight"][tokens]
    if isinstance(scheme, Learned):
        x = x + weights["position.embedding.weight"][places]

    def norm(y, name):
        return y / (y.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weights[name]

    for number, block in enumerate(model.blocks):
        at = f"blocks.{number}."
        y = norm(x, at + "attention_norm.weight") @ weights[at + "attention.qkv.weight"].T
        q, k, v = (z.unflatten(-1, (HEADS, HEAD_DIM)).transpose(0, 1) for z in y.chunk(3, dim=-1))
        if isinstance(scheme, Rotary):
            angles = places[:, None] * 1e4 ** (-torch.arange(4, dtype=torch.float64) / 4)
            q, k = (turned(z, torch.polar(torch.ones_like(angles), angles)) for z in (q, k))
        scores = q @ k.mT / math.sqrt(HEAD_DIM)
        if isinstance(scheme, ALiBi):
            scores = scores - torch.tensor([2**-4, 2**-8])[:, None, None] * distance
        attended = scores.masked_fill(hidden, -math.inf).softmax(-1) @ v
        x = x + attended.transpose(0, 1).flatten(1) @ weights[at + "attention.out.weight"].T
        x = x + block.mlp(norm(x, at + "mlp_norm.weight"))
    return norm(x, "norm.weight") @ weights["head.weight"].T


def turned(x, turn):
    turned = torch.complex(x[..., :4], x[..., 4:]) * turn
    return torch.cat([turned.real, turned.imag], dim=-1)


@pytest.mark.parametrize("options", [{}, ACROSS, THROUGH], ids=["apart", "restarting", "through"])
def test_what_a_token_sees(options):
    model = model_of(Rotary, options)
    tokens, layout = row()
    other = tokens.clone()
    other[0, 5] = (tokens[0, 5] + 1) % VOCAB  # the document of one token
    one, two = (documents(model(t, layout)) for t in (tokens, other))
    changed = [not torch.equal(a, b) for a, b in zip(one, two, strict=True)]
    after = bool(options)
    assert changed == [False, True, after, after]


@pytest.mark.parametrize("options", [ACROSS, THROUGH], ids=["restarting", "through"])
@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_padding_changes_nothing(position, options):
    tokens, layout = row()
    targets = torch.randint(VOCAB, (USED,), generator=torch.Generator().manual_seed(2))
    found = []
    for padding in (0, VOCAB - 1):
        model = model_of(SCHEMES[position], options)
        padded = tokens.clone()
        padded[0, USED:] = padding
        logits = model(padded, layout)[0, :USED]
        F.cross_entropy(logits, targets).backward()
        gradients = [p.grad for p in model.blocks.parameters()]
        found.append([logits, *gradients])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-15)


@pytest.mark.parametrize("options", [ACROSS, THROUGH], ids=["restarting", "through"])
def test_evaluation_reads_each_document_alone(options):
    tokens, layout = row()
    apart = model_of(Rotary, {}).eval()(tokens, layout)
    model = model_of(Rotary, options)
    assert not torch.equal(model(tokens, layout), apart)
    assert torch.equal(model.eval()(tokens, layout), apart)


@pytest.mark.parametrize("position", ["rotary", "alibi", "none"])
@pytest.mark.parametrize("window", [None, 3])
def test_gradients_are_those_of_the_reference(position, window):
    tokens, layout = row()
    found = []
    for kernel in ("reference", "sdpa"):
        model = model_of(SCHEMES[position], {"window": window, **ACROSS}, kernel=kernel)
        F.cross_entropy(model(tokens, layout)[0, :USED], tokens[0, :USED]).backward()
        found.append([p.grad for p in model.parameters()])
    for one, two in zip(*found, strict=True):
        assert torch.linalg.norm(one - two) <= 1e-10 * torch.linalg.norm(one)


def test_layers_may_differ():
    tokens, layout = row()
    mixed = model_of(Rotary, {}, THROUGH)
    views = []
    for block in mixed.blocks:
        block.register_forward_pre_hook(lambda _, given: views.append((given[1], given[3])))
    mixed(tokens, layout)
    (apart, restarting), (across, counting) = views
    assert apart is layout
    assert across.lengths() == [ROW]
    assert torch.equal(restarting.rotation[0], mixed.position.cos[layout.position_ids][:, None])
    assert torch.equal(counting.rotation[0], mixed.position.cos[:ROW][:, None])


def test_flops_are_those_of_what_is_seen():
    lengths = [5, 1, 9]
    model = model_of(Rotary, {"window": 4}, {"window": 4, **ACROSS})
    apart, across = attended_pairs(lengths, 4), attended_pairs([15], 4)
    assert apart < across
    assert score_products(model, lengths) == HEADS * HEAD_DIM * (apart + across)


def test_positions_that_end_before_the_row_are_told():
    tokens, layout = row()
    model = model_of(Learned, THROUGH, max_position=ROW - 1)
    with pytest.raises(
        ValueError,
        match=rf"positions count through the row \({ROW} tokens\) beyond max_position "
        rf"\({ROW - 1}\): make the model with max_position={ROW}, or leave restart_positions true",
    ):
        model(tokens, layout)
    model.eval()(tokens, layout)
    model_of(Learned, ACROSS, max_position=9)(tokens, layout)


def test_what_cannot_be_is_told():
    with pytest.raises(
        ValueError,
        match=r"attention.restart_positions \(false\) must be true unless "
        r"attention.across_documents=true",
    ):
        model_of(Rotary, {"restart_positions": False})
    with pytest.raises(ValueError, match="restart_positions must be the same in all layers of Lea"):
        model_of(Learned, ACROSS, THROUGH)
    model_of([Learned, Rotary], ACROSS, THROUGH)


def small_model(kernel, options):
    torch.manual_seed(0)
    options = {"num_kv_heads": 1, "window": 300, **options}
    attention = partial(SelfAttention, kernel=KERNELS[kernel], **options)
    sizes = {"num_layers": 1, "width": 128, "num_heads": 2, "hidden_width": 128}
    return GPT(VOCAB, 512, attention=attention, position=Rotary, init_std=0.2, **sizes)


def losses_of(kernel, options, lengths, device, backend):
    """Of rows of 512 tokens with these documents, compiled once."""
    model = small_model(kernel, options).to(device)
    tokens = torch.randint(VOCAB, (1, 512), generator=torch.Generator().manual_seed(0)).to(device)

    def loss(layout):
        with torch.autocast(device, torch.bfloat16):
            return F.cross_entropy(model(tokens, layout)[0].float(), tokens[0])

    compiled = torch.compile(loss, fullgraph=True, dynamic=False, backend=backend)
    found = []
    with torch._dynamo.config.patch(error_on_recompile=True):
        for each in lengths:
            layout = PackedLayout.from_lengths(each, num_slots=9, max_seqlen=512).to(device)
            found.append(compiled(layout))
            found[-1].backward()
    gradient = model.blocks[0].attention.qkv.weight.grad
    return torch.stack([x.detach() for x in found]), gradient


PACKINGS = [[100, 12, 300, 100], [512], [1, 511], [64] * 8]


def test_one_graph_serves_all_packings_and_sees_one_document():
    torch.compiler.reset()
    losses, _ = losses_of("sdpa", THROUGH, PACKINGS, "cpu", "eager")
    assert torch.equal(losses, losses[:1].expand(4)), "where documents lie does not matter"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("kernel", ["xformers", "flex", "flash4"])
def test_one_graph_of_each_kernel_sees_one_document(kernel):
    variant = small_model(kernel, {}).layers[0].variant("cuda", torch.bfloat16, {})
    if why := KERNELS[kernel].unsupported(variant):
        pytest.skip(f"{kernel} {why}")
    torch.compiler.reset()
    losses, gradient = losses_of(kernel, THROUGH, PACKINGS, "cuda", "inductor")
    torch.compiler.reset()
    wanted, reference = losses_of(kernel, {}, [[512]] * 4, "cuda", "inductor")
    torch.testing.assert_close(losses, wanted, rtol=2e-3, atol=0)
    assert torch.linalg.norm(gradient - reference) <= 2e-2 * torch.linalg.norm(reference)
