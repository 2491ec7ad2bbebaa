"""The same model and documents in other libraries, as their users would train them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from packformer.batch import IGNORE_INDEX, PackedBatch
from packformer.tools.bench.step.measure import Work
from packformer.tools.bench.step.shape import Shape

_MOST_PADDED_TOKENS = 32_768


Optimizer = Callable[[nn.Module], torch.optim.Optimizer]


def concatenated(batches: Iterator[PackedBatch], longest: int) -> Iterator[Tensor]:
    """Rows cut into sequences ``[M // longest, longest]``, documents attending across."""
    for batch in batches:
        tokens = batch.tokens[0]
        usable = len(tokens) // longest * longest
        yield tokens[:usable].view(-1, longest)


def padded(batches: Iterator[PackedBatch]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The row's documents in random order, in micro-batches padded to their longest.

    Each micro-batch is tokens and attention mask ``[N, L]``, of at most 32,768 tokens.
    """
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        documents = list(batch.tokens[0, : batch.num_tokens].split(list(batch.lengths)))
        order = torch.randperm(len(documents), generator=generator).tolist()
        found, group = [], list[Tensor]()
        for document in (documents[i] for i in order):
            longest = max(len(d) for d in (*group, document))
            if group and longest * (len(group) + 1) > _MOST_PADDED_TOKENS:
                found.append(_padded_batch(group))
                group = []
            group.append(document)
        found.append(_padded_batch(group))
        yield found


def _padded_batch(documents: list[Tensor]) -> tuple[Tensor, Tensor]:
    tokens = nn.utils.rnn.pad_sequence(documents, batch_first=True)
    lengths = torch.tensor([len(d) for d in documents])
    return tokens, torch.arange(tokens.shape[1]) < lengths[:, None]


def huggingface_step(
    shape: Shape,
    batches: Iterator[PackedBatch],
    optimizer: Optimizer,
    device: str,
    weights: torch.dtype,
    dtype: torch.dtype | None,
    *,
    pad: bool,
    compiled: bool,
) -> Callable[[], Work]:
    """A step of ``transformers``' Llama.

    Args:
        shape: sizes.
        batches: rows to take documents from.
        optimizer: makes one.
        device: of the model.
        weights: dtype of the model's.
        dtype: of autocast; None for none.
        pad: padded batches of single documents instead of concatenated ones.
        compiled: through torch.compile.

    Raises:
        ValueError: if ``transformers`` is not installed.
    """
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise ValueError(f"not installed: pip install transformers ({error})") from error
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.hidden_width,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.longest,
        tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
        use_cache=False,
    )
    model: Any = LlamaForCausalLM(config)
    model = model.to(device, weights).train()
    run = torch.compile(model, dynamic=False) if compiled else model
    update = _updater(model, optimizer)
    source = padded(batches) if pad else ([(t, None)] for t in concatenated(batches, shape.longest))

    def step() -> Work:
        micro_batches: Any = next(source)
        counted = 0
        for tokens, mask in micro_batches:
            tokens = tokens.to(device, non_blocking=True)
            labels, options = tokens, {}
            if mask is not None:
                counted += int(mask[:, 1:].sum())
                mask = mask.to(device, non_blocking=True)
                labels = tokens.masked_fill(~mask, IGNORE_INDEX)
                options = {"attention_mask": mask}
            else:
                counted += tokens[:, 1:].numel()
            with torch.autocast(device, dtype, enabled=dtype is not None):
                loss = run(input_ids=tokens, labels=labels, **options).loss
            (loss / len(micro_batches)).backward()
        update()
        return Work(counted)

    return step


def litgpt_step(
    shape: Shape,
    batches: Iterator[PackedBatch],
    optimizer: Optimizer,
    device: str,
    weights: torch.dtype,
    dtype: torch.dtype | None,
) -> Callable[[], Work]:
    """A compiled step of litgpt's GPT on concatenated documents; arguments as above.

    Raises:
        ValueError: if litgpt is not installed.
    """
    model = litgpt_model(shape, tied=shape.tied).to(device, weights)

    def loss_of(tokens: Tensor) -> Tensor:
        logits = model(tokens)[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())

    run = torch.compile(loss_of, dynamic=False)
    update = _updater(model, optimizer)
    sequences = concatenated(batches, shape.longest)

    def step() -> Work:
        tokens = next(sequences).to(device, non_blocking=True)
        with torch.autocast(device, dtype, enabled=dtype is not None):
            loss = run(tokens)
        loss.backward()
        update()
        return Work(tokens[:, 1:].numel())

    return step


def litgpt_model(shape: Shape, *, tied: bool) -> Any:
    """litgpt's GPT, of the form of Llama.

    Args:
        shape: sizes.
        tied: the head shares the embedding's weights.

    Raises:
        ValueError: if litgpt is not installed.
    """
    try:
        from litgpt.model import GPT, Config
    except ImportError as error:
        raise ValueError(f"not installed: pip install litgpt ({error})") from error
    config = Config(
        block_size=shape.longest,
        vocab_size=shape.vocab_size,
        padded_vocab_size=shape.vocab_size,
        n_layer=shape.num_layers,
        n_head=shape.num_heads,
        n_query_groups=shape.num_kv_heads,
        head_size=shape.head_dim,
        n_embd=shape.width,
        intermediate_size=shape.hidden_width,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    model = GPT(config)
    if tied:
        model.lm_head.weight = model.transformer.wte.weight
    return model


def _updater(model: nn.Module, optimizer: Optimizer) -> Callable[[], None]:
    made = optimizer(model)

    def update() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        made.step()
        made.zero_grad(set_to_none=True)

    return update


def endless(make: Callable[[], Iterator[PackedBatch]], count: int) -> Iterator[PackedBatch]:
    """The first ``count`` rows again and again, made beforehand: data cost nothing."""
    rows = list(islice(make(), count))
    while True:
        yield from rows
