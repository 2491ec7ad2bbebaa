"""What is written step by step is what a full forward of every prefix says."""

from functools import partial
from itertools import product

import pytest
import torch

from packformer.attention import PackedLayout
from packformer.generation import Decoder, generate
from packformer.model import GPT, SelfAttention
from packformer.nn import ALiBi, Learned, NoPosition, Rotary
from packformer.nn.position import Position

V = 37
LENGTHS = (1, 2, 5, 20, 33)  # shorter than windows, longer, and just as long
NEW = 24


class Penalty(Position):
    """A scheme with a bias tensor and a score function, each of the distance."""

    def __init__(self, *, width, num_heads, head_dim, max_position):
        super().__init__()
        self.heads = torch.arange(1, num_heads + 1)

    def extend(self, max_position):
        pass

    def bias(self, position_ids):
        distance = position_ids[:, None] - position_ids[None, :]
        return -0.1 * self.heads[:, None, None] * distance.clamp(min=0)

    def score_mod(self, position_ids):
        def modified(score, batch, head, q_index, kv_index):
            far = position_ids[q_index] - position_ids[kv_index]
            return score - 0.05 * (head + 1) * far.clamp(min=0) + 0.3 * (far % 3 == 0)

        return modified


def made(position=Rotary, *, kernel="auto", **attention):
    attention = partial(SelfAttention, kernel=kernel, **attention)
    torch.manual_seed(3)
    model = GPT(
        V, 64, num_layers=3, width=32, num_heads=4, position=position, attention=attention,
        init_std=0.3,
    )  # fmt: skip
    return open_gates(model).eval()


def open_gates(model):
    """Has gates of value embeddings depend on the input, as after training."""
    for values in model.value_embeddings:
        torch.nn.init.normal_(values.gate.weight)
    return model


def prompts_of(seed=0):
    torch.manual_seed(seed)
    return [torch.randint(V, (length,)).tolist() for length in LENGTHS]


@torch.no_grad()
def by_full_forwards(model, prompt, new=NEW):
    tokens = list(prompt)
    for _ in range(new):
        layout = PackedLayout.from_lengths([len(tokens)])
        tokens.append(int(model(torch.tensor([tokens]), layout)[0, -1].argmax()))
    return tokens[len(prompt) :]


@torch.no_grad()
def said_by_a_full_forward(model, prompts, written):
    """What it says at each place where a token was written, of all that stands before it."""
    texts = [prompt + new for prompt, new in zip(prompts, written, strict=True)]
    layout = PackedLayout.from_lengths([len(text) for text in texts])
    said = model(torch.tensor([sum(texts, [])]), layout)[0].argmax(-1)
    ends = layout.cu_seqlens[1:].tolist()
    return [said[end - NEW - 1 : end - 1].tolist() for end in ends]


POSITIONS = {"rotary": Rotary, "alibi": ALiBi, "learned": Learned, "none": NoPosition}
POSITIONS["learned slopes"] = partial(ALiBi, learnable=True)
KINDS = {
    "mha": {},
    "gqa": {"num_kv_heads": 2},
    "mqa window": {"num_kv_heads": 1, "window": 7},
    "window of one": {"window": 1},
    "qk_norm soft_cap": {"num_kv_heads": 2, "qk_norm": True, "soft_cap": 3.0},
    "window soft_cap": {"window": 20, "soft_cap": 3.0},
    "value embeddings": {"num_kv_heads": 2, "window": 9, "value_embeddings": True},
}


@pytest.mark.parametrize(("position", "kind"), list(product(POSITIONS, KINDS)))
def test_greedy_tokens_are_those_of_full_forwards(position, kind):
    model = made(POSITIONS[position], **KINDS[kind])
    prompts = prompts_of()
    written = generate(model, prompts, max_new_tokens=NEW)
    assert {len(new) for new in written} == {NEW}
    assert written == said_by_a_full_forward(model, prompts, written)


def test_a_bias_and_a_score_function_of_ones_own():
    model = made(Penalty, kernel="reference")
    prompts = prompts_of()
    written = generate(model, prompts, max_new_tokens=NEW)
    for prompt, new in zip(prompts, written, strict=True):
        assert new == by_full_forwards(model, prompt)


def test_a_score_function_of_the_layer():
    def nearer(score, batch, head, q_index, kv_index):
        return score - 3 * torch.log1p((q_index - kv_index).clamp(min=0))

    torch.manual_seed(1)
    layers = [partial(SelfAttention, kernel="reference", score_mod=f) for f in (nearer, None)]
    model = GPT(
        V, 64, num_layers=2, width=32, num_heads=4, position=Rotary, attention=layers, init_std=0.3
    ).eval()
    prompts = prompts_of()
    written = generate(model, prompts, max_new_tokens=NEW)
    model.layers[0].score_mod = None
    assert written != generate(model, prompts, max_new_tokens=NEW)
    model.layers[0].score_mod = nearer
    for prompt, new in zip(prompts, written, strict=True):
        assert new == by_full_forwards(model, prompt)


def test_layers_that_differ():
    layers = [
        partial(SelfAttention, window=4, num_kv_heads=1),
        partial(SelfAttention, num_kv_heads=2, soft_cap=4.0, value_embeddings=True),
        partial(SelfAttention, window=9),
    ]
    positions = [Rotary, ALiBi, NoPosition]
    torch.manual_seed(1)
    model = GPT(
        V, 64, num_layers=3, width=32, num_heads=4, position=positions, attention=layers,
        init_std=0.3,
    ).eval()  # fmt: skip
    open_gates(model)
    prompts = prompts_of()
    written = generate(model, prompts, max_new_tokens=NEW)
    for prompt, new in zip(prompts, written, strict=True):
        assert new == by_full_forwards(model, prompt)


@pytest.mark.parametrize(
    ("value_embeddings", "backend"),
    [(False, "aot_eager"), (True, "inductor")],  # one is made C++ of, which has all of it
)
def test_compiled_steps_write_the_same(value_embeddings, backend, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    model = made(num_kv_heads=2, window=7, value_embeddings=value_embeddings)
    prompts = prompts_of()
    decoder = Decoder(model, [n + 5 for n in LENGTHS])
    compiled = Decoder(model, [n + 5 for n in LENGTHS], compiled=True)
    tokens = decoder.read(prompts).argmax(-1)
    assert torch.equal(compiled.read(prompts).argmax(-1), tokens)
    for _ in range(3):
        logits = decoder.step(tokens)
        torch.testing.assert_close(compiled.step(tokens), logits)
        tokens = logits.argmax(-1)


def test_logits_of_a_step_are_those_of_a_full_forward():
    model = made(qk_norm=True)
    prompts = prompts_of()
    decoder = Decoder(model, [n + 3 for n in LENGTHS])
    written = [list(prompt) for prompt in prompts]
    logits = decoder.read(prompts)
    for _ in range(3):
        for row, tokens in zip(logits, written, strict=True):
            full = model(torch.tensor([tokens]), PackedLayout.from_lengths([len(tokens)]))
            torch.testing.assert_close(row, full[0, -1], rtol=1e-4, atol=1e-4)
        new = logits.argmax(-1)
        for tokens, token in zip(written, new.tolist(), strict=True):
            tokens.append(token)
        logits = decoder.step(new)


def test_more_prompts_than_a_row_holds(monkeypatch):
    monkeypatch.setattr("packformer.generation.decoder._ROW_TOKENS", 25)
    model = made()
    prompts = prompts_of()
    written = generate(model, prompts, max_new_tokens=5)
    assert written == [by_full_forwards(model, prompt, 5) for prompt in prompts]


def test_positions_beyond_training():
    model = made(Rotary)
    (new,) = generate(model, [[1, 2, 3]], max_new_tokens=100)
    assert new == by_full_forwards(model, [1, 2, 3], 100)
    with pytest.raises(ValueError, match="come to 65 tokens, more than the 64 of training, and"):
        generate(made(Learned), [[1] * 60], max_new_tokens=6)
    assert len(generate(made(Learned), [[1] * 60], max_new_tokens=5)[0]) == 5


def test_an_attention_layer_with_a_forward_of_its_own_is_refused():
    class Other(SelfAttention):
        def forward(self, *arguments):
            return super().forward(*arguments)

    model = GPT(V, 8, num_layers=1, width=8, num_heads=1, position=Rotary, attention=Other)
    with pytest.raises(ValueError, match=r"attention \(Other\) has a forward of its own"):
        generate(model, [[1]], max_new_tokens=2)


@pytest.mark.gpu
@pytest.mark.parametrize(("position", "kind"), list(product(["rotary", "alibi", "none"], KINDS)))
def test_on_gpu_greedy_tokens_are_those_of_a_full_forward_but_for_ties(position, kind):
    with torch.device("cuda"):
        torch.manual_seed(3)
        model = GPT(
            5003, 512, num_layers=3, width=256, num_heads=4, position=POSITIONS[position],
            attention=partial(SelfAttention, **KINDS[kind]), init_std=0.05,
        )  # fmt: skip
    model = model.to(torch.bfloat16).eval()
    prompts = [torch.randint(5003, (n,)).tolist() for n in (1, 2, 63, 64, 65, 200, 333)]
    written = generate(model, prompts, max_new_tokens=40)
    missed = 0.0
    for prompt, new in zip(prompts, written, strict=True):
        tokens = torch.tensor([[*prompt, *new]], device="cuda")
        layout = PackedLayout.from_lengths([tokens.shape[1]]).to("cuda")
        with torch.no_grad():
            logits = model(tokens, layout)[0, len(prompt) - 1 : -1].float()
        chosen = logits.gather(1, torch.tensor(new, device="cuda")[:, None])[:, 0]
        step = logits.abs().max() * 2**-7  # two roundings of bfloat16 at the largest logit
        assert (logits.max(-1).values - chosen).max() <= 2 * step
        missed += (chosen < logits.max(-1).values).sum().item()
    assert missed <= 0.1 * 40 * len(prompts)
