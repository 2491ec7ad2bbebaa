"""A small model of any variant."""

from functools import partial

import torch

from packformer.model import GPT, SelfAttention
from packformer.nn import ALiBi, Learned, NoPosition, Rotary

VOCAB, WIDTH, HEADS, LONGEST = 31, 32, 4, 16


KV_HEADS = {"mha": None, "gqa": 2, "mqa": 1}


POSITIONS = {"rotary": Rotary, "alibi": ALiBi, "learned": Learned, "none": NoPosition}


def make_model(
    attention="mha",
    position="rotary",
    window=None,
    qk_norm=False,
    tied=True,
    head_dim=None,
    **sizes,
):
    torch.manual_seed(0)
    # The default init_std leaves attention nearly uniform at this width: 0.2 makes it matter.
    options = {"num_layers": 2, "width": WIDTH, "num_heads": HEADS, "init_std": 0.2, **sizes}
    return GPT(
        VOCAB,
        LONGEST,
        attention=partial(
            SelfAttention,
            num_kv_heads=KV_HEADS[attention],
            window=window,
            qk_norm=qk_norm,
            head_dim=head_dim,
        ),
        position=POSITIONS[position],
        tie_embeddings=tied,
        **options,
    )
