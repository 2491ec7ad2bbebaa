"""Rotary, grouped heads, SwiGLU and RMSNorm: the model is ``transformers``' Llama."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from packformer.attention import PackedLayout
from packformer.model import GPT, SelfAttention
from packformer.nn import Rotary

VOCAB, WIDTH, HIDDEN, HEADS, KV_HEADS, LONGEST = 97, 48, 80, 6, 2, 20
LENGTHS = [9, 1, 20, 7]


def our_model(tied):
    torch.manual_seed(0)
    return GPT(
        VOCAB,
        LONGEST,
        num_layers=2,
        width=WIDTH,
        num_heads=HEADS,
        hidden_width=HIDDEN,
        attention=partial(SelfAttention, num_kv_heads=KV_HEADS),
        position=Rotary,
        tie_embeddings=tied,
        init_std=0.2,
    )


def names_of_llama(model):
    """Ours in theirs: tensors under the names of Llama's, in their order of rows."""
    kv = KV_HEADS * WIDTH // HEADS
    found = {
        "model.embed_tokens.weight": model.embedding.weight,
        "model.norm.weight": model.norm.weight,
        "lm_head.weight": model.head.weight,
    }
    for number, block in enumerate(model.blocks):
        layer = f"model.layers.{number}."
        q, k, v = block.attention.qkv.weight.split([WIDTH, kv, kv])
        gate, up = block.mlp.w12.weight.chunk(2)
        found |= {
            f"{layer}self_attn.q_proj.weight": q,
            f"{layer}self_attn.k_proj.weight": k,
            f"{layer}self_attn.v_proj.weight": v,
            f"{layer}self_attn.o_proj.weight": block.attention.out.weight,
            f"{layer}mlp.gate_proj.weight": gate,
            f"{layer}mlp.up_proj.weight": up,
            f"{layer}mlp.down_proj.weight": block.mlp.w3.weight,
            f"{layer}input_layernorm.weight": block.attention_norm.weight,
            f"{layer}post_attention_layernorm.weight": block.mlp_norm.weight,
        }
    return found


def llama(model, tied):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            intermediate_size=HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            max_position_embeddings=LONGEST,
            rms_norm_eps=1e-5,
            tie_word_embeddings=tied,
            attn_implementation="eager",
        )
    )
    theirs.load_state_dict({n: t.detach().clone() for n, t in names_of_llama(model).items()})
    return theirs


def relative_error(found, wanted):
    error = torch.linalg.norm(found - wanted) / torch.linalg.norm(wanted)
    return error.item()


@pytest.mark.parametrize("tied", [True, False])
def test_packed_documents_get_llamas_logits_and_gradients(tied):
    ours = our_model(tied)
    theirs = llama(ours, tied)
    tokens = torch.randint(VOCAB, (1, sum(LENGTHS)))
    layout = PackedLayout.from_lengths(LENGTHS, num_slots=6, max_seqlen=LONGEST)
    found = ours(tokens, layout)
    # They see each document alone; position_ids begin at 0 in each.
    wanted = torch.cat([theirs(part).logits for part in tokens.split(LENGTHS, dim=1)], dim=1)
    assert relative_error(found, wanted) <= 1e-5
    for logits in (found, wanted):
        F.cross_entropy(logits[0], tokens[0].roll(-1), reduction="sum").backward()
    # The slices of a packed weight are those of its gradient.
    for parameter in ours.parameters():
        parameter.data = parameter.grad
    gradients = names_of_llama(ours)
    for name, parameter in theirs.named_parameters():
        assert relative_error(gradients[name], parameter.grad) <= 1e-5, name
