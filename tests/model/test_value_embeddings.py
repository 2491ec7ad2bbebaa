"""Layers whose values depend on the token itself: in a whole model, against a plain formula."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from packformer.attention import PackedLayout
from packformer.model import GPT, SelfAttention
from packformer.model.flops import training_flops
from packformer.nn import NoPosition, Rotary

VOCAB, WIDTH, HEADS, HEAD_DIM = 29, 16, 4, 4
LENGTHS = [5, 1, 9, 4]
ROW = sum(LENGTHS)
VALUES = {"value_embeddings": True}


def model_of(*layers, kernel="reference", position=NoPosition, **options):
    torch.manual_seed(0)
    return GPT(
        VOCAB,
        ROW,
        num_layers=2,
        width=WIDTH,
        num_heads=HEADS,
        hidden_width=24,
        attention=[
            partial(SelfAttention, kernel=kernel, **layer)
            for layer in (layers * 2 if len(layers) == 1 else layers)
        ],
        position=position,
        **{"init_std": 0.2, **options},
    ).double()


def with_open_gates(model):
    generator = torch.Generator().manual_seed(3)
    for values in model.value_embeddings:
        torch.nn.init.normal_(values.gate.weight, generator=generator)
    return model


def row(seed=1):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCAB, (1, ROW), generator=generator)
    return tokens, PackedLayout.from_lengths(LENGTHS, num_slots=9, max_seqlen=9)


def by_formula(weights, tokens, num_kv_heads, of_values):
    """Logits of one document, from the state dict alone, without positions.

    Args:
        weights: of the model.
        tokens: int64 ``[L]``.
        num_kv_heads: of all layers.
        of_values: whether each layer has a table.
    """
    x = weights["embedding.weight"][tokens]
    hidden = torch.ones(len(tokens), len(tokens)).triu(1).bool()

    def norm(y, name):
        return y / (y.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weights[name]

    for number, has_table in enumerate(of_values):
        at = f"blocks.{number}."
        y = norm(x, at + "attention_norm.weight")
        heads = (y @ weights[at + "attention.qkv.weight"].T).unflatten(-1, (-1, HEAD_DIM))
        q, k, v = heads.split([HEADS, num_kv_heads, num_kv_heads], dim=1)
        if has_table:
            table = weights[at + "attention.token_values.table.weight"]
            gate = 2 / (1 + torch.exp(-y @ weights[at + "attention.token_values.gate.weight"].T))
            v = v + gate[..., None] * table[tokens].unflatten(-1, (num_kv_heads, HEAD_DIM))
        shared = HEADS // num_kv_heads
        k, v = (z.repeat_interleave(shared, dim=1) for z in (k, v))
        q, k, v = (z.transpose(0, 1) for z in (q, k, v))
        scores = (q @ k.mT / math.sqrt(HEAD_DIM)).masked_fill(hidden, -math.inf)
        attended = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + attended @ weights[at + "attention.out.weight"].T
        gate, up = (norm(x, at + "mlp_norm.weight") @ weights[at + "mlp.w12.weight"].T).chunk(2, -1)
        x = x + (F.silu(gate) * up) @ weights[at + "mlp.w3.weight"].T
    return norm(x, "norm.weight") @ weights["head.weight"].T


@pytest.mark.parametrize("kernel", ["reference", "sdpa"])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("of_values", [(True, True), (False, True), (True, False)])
def test_packed_documents_get_the_logits_and_gradients_of_the_formula(
    kernel, num_kv_heads, of_values
):
    tokens, layout = row()
    layers = [{"num_kv_heads": num_kv_heads, "value_embeddings": own} for own in of_values]
    model = with_open_gates(model_of(*layers, kernel=kernel))
    weights = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    tied = {**weights, "head.weight": weights["embedding.weight"]}
    wanted = [by_formula(tied, part, num_kv_heads, of_values) for part in tokens[0].split(LENGTHS)]
    found = model(tokens, layout)[0].split(LENGTHS)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(ROW, VOCAB, generator=generator, dtype=torch.float64)
    (torch.cat(found) * weight).sum().backward()
    (torch.cat(wanted) * weight).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name].grad, rtol=1e-8, atol=1e-10)


def test_gradients_reach_the_gates_and_the_rows_of_the_tokens_alone():
    tokens, layout = row()
    model = model_of(VALUES)
    F.cross_entropy(model(tokens, layout)[0], tokens[0].roll(-1)).backward()
    seen = torch.zeros(VOCAB, dtype=torch.bool)
    seen[tokens[0]] = True
    for values in model.value_embeddings:
        assert values.gate.weight.grad.abs().min() > 0
        touched = values.table.weight.grad.abs().sum(1) > 0
        assert torch.equal(touched, seen)


def test_documents_stay_apart():
    tokens, layout = row()
    model = with_open_gates(model_of({**VALUES, "num_kv_heads": 2}, position=Rotary))
    other = tokens.clone()
    other[0, 6:15] = (tokens[0, 6:15] + 1) % VOCAB  # the third document
    one, two = (model(t, layout)[0].split(LENGTHS) for t in (tokens, other))
    assert [torch.equal(a, b) for a, b in zip(one, two, strict=True)] == [True, True, False, True]


def test_gates_begin_at_one_and_all_other_weights_as_without():
    plain, model = model_of({}), model_of(VALUES, {})
    weights = model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in plain.state_dict().items())
    (values,) = model.value_embeddings
    assert values is model.layers[0].token_values
    assert values.table.weight.shape == (VOCAB, HEADS * HEAD_DIM)
    assert values.table.weight.std().item() == pytest.approx(0.2, rel=0.1)
    assert values.gate.weight.abs().max() == 0
    added = weights.keys() - plain.state_dict().keys()
    assert {name.rpartition("token_values.")[0] for name in added} == {"blocks.0.attention."}
    more = VOCAB * HEADS * HEAD_DIM + HEADS * WIDTH
    assert model.num_parameters() - plain.num_parameters() == more


def test_tables_cost_no_flops_and_gates_do():
    plain, model = model_of({"num_kv_heads": 2}), model_of({**VALUES, "num_kv_heads": 2})
    assert training_flops(model, 10, 7) - training_flops(plain, 10, 7) == 6 * 2 * 2 * WIDTH * 10
    assert model.kv_cache_bytes(10) == plain.kv_cache_bytes(10)


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_recomputed_it_is_the_same_step(mode):
    tokens, layout = row()
    found = []
    for chosen in ("none", mode):
        model = with_open_gates(model_of(VALUES, activation_checkpointing=chosen))
        F.cross_entropy(model(tokens, layout)[0], tokens[0]).backward()
        found.append([p.grad for p in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def compiled_losses(model, device, backend):
    """Loss of two packings of a row, compiled once, and the gradients."""
    tokens, _ = row()

    def loss(tokens, layout):
        with torch.autocast(device, torch.bfloat16):
            return F.cross_entropy(model(tokens, layout)[0].float(), tokens[0])

    compiled = torch.compile(loss, fullgraph=True, dynamic=False, backend=backend)
    found = []
    with torch._dynamo.config.patch(error_on_recompile=True):
        for lengths in (LENGTHS, [2, 7, 1, 9]):
            layout = PackedLayout.from_lengths(lengths, num_slots=9, max_seqlen=ROW)
            found.append(compiled(tokens.to(device), layout.to(device)))
            found[-1].backward()
    return torch.stack([x.detach() for x in found]), [p.grad for p in model.parameters()]


def close_to_eager(kernel, device, backend):
    found = []
    for how in (backend, "eager"):
        torch.compiler.reset()
        common = {"num_kv_heads": 2, "head_dim": 16}  # which kernels of GPUs take
        layers = [{**VALUES, **common}, common]
        options = {"kernel": kernel, "position": Rotary, "activation_checkpointing": "full"}
        model = with_open_gates(model_of(*layers, **options)).float().to(device)
        found.append(compiled_losses(model, device, how))
    (losses, gradients), (wanted, wanted_gradients) = found
    torch.testing.assert_close(losses, wanted, rtol=1e-2, atol=0)
    for one, two in zip(gradients, wanted_gradients, strict=True):
        assert torch.linalg.norm(one - two) <= 3e-2 * torch.linalg.norm(two)


def test_one_graph_serves_all_packings():
    close_to_eager("sdpa", "cpu", "aot_eager")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("kernel", ["xformers", "flex"])
def test_one_graph_serves_all_packings_on_a_gpu(kernel):
    close_to_eager(kernel, "cuda", "inductor")


def test_without_them_a_block_gets_no_tokens():
    tokens, layout = row()

    class Own(SelfAttention):
        def forward(self, x_BMD, layout, position, located, block_mask):
            return super().forward(x_BMD, layout, position, located, block_mask)

    torch.manual_seed(0)
    sizes = {"num_layers": 1, "width": WIDTH, "num_heads": HEADS, "position": Rotary}
    own = GPT(VOCAB, ROW, attention=partial(Own, kernel="reference"), **sizes)
    torch.manual_seed(0)
    usual = GPT(VOCAB, ROW, attention=partial(SelfAttention, kernel="reference"), **sizes)
    assert torch.equal(own(tokens, layout), usual(tokens, layout))


def test_a_layer_that_lacks_its_table_or_the_tokens_is_told():
    x, layout = torch.randn(1, ROW, WIDTH), PackedLayout.from_lengths([ROW])
    position = NoPosition(width=WIDTH, num_heads=HEADS, head_dim=HEAD_DIM, max_position=ROW)
    given = (x, layout, position, position.locate(layout.position_ids), None)
    tokens = torch.zeros(1, ROW, dtype=torch.int64)
    layer = SelfAttention(WIDTH, HEADS, value_embeddings=True)
    told = r"attention.value_embeddings \(true\) needs tables and tokens: call layer.embed_values"
    with pytest.raises(ValueError, match=told):
        layer(*given, tokens)
    layer.embed_values(VOCAB, WIDTH)
    with pytest.raises(ValueError, match=told):
        layer(*given)
    assert layer(*given, tokens).shape == x.shape
    with pytest.raises(ValueError, match=r"value_embeddings \(7\) must be true or false"):
        SelfAttention(WIDTH, HEADS, value_embeddings=7)
