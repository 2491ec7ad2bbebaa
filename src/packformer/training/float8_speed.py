"""Whether float8 pays: a block of the model, measured both ways on this machine."""

from __future__ import annotations

import json
import logging
import math
from contextlib import AbstractContextManager
from copy import deepcopy
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

import packformer
from packformer.attention import Kernel, PackedLayout
from packformer.attention.proof import machine, median_milliseconds
from packformer.cache import cache_folder, fingerprint
from packformer.model import GPT
from packformer.model.block import Block
from packformer.model.row_view import views_of
from packformer.settings import name_of
from packformer.training.compilation import compile_whole
from packformer.training.float8 import Float8, in_high_precision
from packformer.whole_file import replace_text

log = logging.getLogger(__name__)

_DOCUMENTS = (600, 150, 1200, 60, 2400, 300, 900, 400)  # tokens, again and again
_REPETITIONS = 10


class BlockTimes(NamedTuple):
    """Milliseconds of a block's forward and backward, medians.

    Attributes:
        plain: in the precision of the run.
        float8: with its linear layers in float8.
    """

    plain: float
    float8: float

    @property
    def ratio(self) -> float:
        """How many times as fast float8 is."""
        return self.plain / self.float8

    def tell(self, precision: str) -> None:
        """Says the figures, and warns where float8 is slower."""
        shown = f"block {self.plain:.2f} ms -> {self.float8:.2f} ms ({self.ratio:.2f} times)"
        log.info("float8   %s", shown)
        if self.ratio < 1:
            log.warning(
                "float8 is slower than %s here: leave trainer.float8 out; it pays for wide models",
                precision,
            )


def block_times(
    model: GPT,
    float8: Float8,
    device: torch.device,
    *,
    dtype: torch.dtype,
    autocast: AbstractContextManager[Any],
    compiled: bool,
) -> BlockTimes:
    """The first block of ``model`` on a row of usual documents; measured once a machine.

    The result is kept in the user's cache. What was compiled before is compiled again.

    Args:
        model: with linear layers in float8 and chosen kernels; not sharded, it may be deferred.
        float8: how they compute.
        device: to measure on.
        dtype: of the weights.
        autocast: what the run computes in, a context.
        compiled: whether the run compiles its blocks.
    """
    with autocast:
        computed = str(_residual_dtype(model, device, dtype))
        setting = {"weights": str(dtype), "residuals": computed, "compiled": compiled}
        file = cache_folder() / "float8" / f"{_key(model, float8, device, setting)}.json"
        if (known := _read(file)) is not None:
            return known
        found = BlockTimes(
            *(
                _milliseconds(
                    model, float8.row_length, device, dtype, compiled=compiled, plain=plain
                )
                for plain in (True, False)
            )
        )
    _keep(file, found)
    return found


def _milliseconds(
    model: GPT,
    row_length: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    compiled: bool,
    plain: bool,
) -> float:
    generator = torch.Generator(device).manual_seed(0)
    block, scheme = _copies(model, device, dtype, generator)
    if plain:
        in_high_precision(block)
    layout = _usual_row(row_length, model.max_position).to(device)
    (view,) = views_of([block.attention], layout, training=True)
    located = scheme.locate(view.position_ids)
    kernel = block.attention.kernel
    assert isinstance(kernel, Kernel), "kernels are chosen before"
    mask = kernel.block_mask(view.layout, block.attention.window)
    residual = _residual_dtype(model, device, dtype)
    x_BMD, gradient_BMD = (
        torch.randn(1, row_length, model.width, device=device, generator=generator).to(residual)
        for _ in range(2)
    )
    learned = [x_BMD.requires_grad_(), *(p for p in block.parameters() if p.requires_grad)]
    asked_for = None
    if block.attention.value_embeddings:
        row = (1, row_length)
        asked_for = torch.randint(model.vocab_size, row, device=device, generator=generator)
    if compiled:
        torch.compiler.reset()
    forward = compile_whole(block.forward) if compiled else block.forward

    def step() -> None:
        out: Tensor = forward(x_BMD, view.layout, scheme, located, mask, asked_for)
        torch.autograd.grad(out, learned, gradient_BMD.to(out.dtype))

    try:
        return median_milliseconds(step, device.type, _REPETITIONS)
    finally:
        if compiled:
            torch.compiler.reset()


def _copies(
    model: GPT, device: torch.device, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Block, Any]:
    """The first block and its position scheme on ``device``, deferred parameters drawn."""

    def there(tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor.to(device)
        return torch.empty_like(tensor, device=device).normal_(0.0, 0.02, generator=generator)

    kernel = model.layers[0].kernel  # stays the same object
    both = nn.ModuleList([model.blocks[0], model.positions[model.scheme_of_layer[0]]])
    block, scheme = deepcopy(both, {id(kernel): kernel})._apply(there)
    block.__dict__.pop("forward", None)  # compiled, of the block it was copied from
    return cast(Block, block.to(dtype)), scheme


def _residual_dtype(model: GPT, device: torch.device, dtype: torch.dtype) -> torch.dtype:
    if not torch.is_autocast_enabled(device.type):
        return dtype
    return torch.float32 if model.fp32_residual else torch.get_autocast_dtype(device.type)


def _usual_row(row_length: int, longest: int) -> PackedLayout:
    lengths: list[int] = []
    for length in cycle(_DOCUMENTS):
        if (rest := row_length - sum(lengths)) <= 0:
            break
        lengths.append(min(length, longest, rest))
    return PackedLayout.from_lengths(lengths, max_seqlen=longest)


def _key(model: GPT, float8: Float8, device: torch.device, setting: dict[str, Any]) -> str:
    layer, block = model.layers[0], model.blocks[0]
    kernel = layer.kernel if isinstance(layer.kernel, str) else layer.kernel.name
    described = {
        **machine(device.type),
        **setting,
        "autocast": torch.is_autocast_enabled(device.type),
        "float8": repr(float8),
        "torchao": version("torchao"),
        "block": repr(block),
        "score_mod": None if layer.score_mod is None else name_of(layer.score_mod),
        "attention": [kernel, layer.num_heads, layer.num_kv_heads, layer.window, layer.soft_cap],
        "across_documents": [layer.across_documents, layer.restart_positions],
        "position": repr(model.positions[model.scheme_of_layer[0]]),
        "model": [model.width, model.max_position, model.fp32_residual],
        "activation_checkpointing": getattr(block, "activation_checkpointing", None),
    }
    folder = Path(packformer.__file__).parent
    code = [file.read_bytes() for part in ("model", "nn") for file in _sources(folder / part)]
    return fingerprint([json.dumps(described, sort_keys=True), *code])


def _sources(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.py"))


def _read(file: Path) -> BlockTimes | None:
    try:
        times = BlockTimes(**json.loads(file.read_text(encoding="utf-8")))
        whole = all(isinstance(t, float) and math.isfinite(t) and t > 0 for t in times)
    except (OSError, ValueError, TypeError):
        return None  # not measured yet, or damaged: measured again
    return times if whole else None


def _keep(file: Path, times: BlockTimes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, json.dumps(times._asdict()))
    except OSError as error:
        log.warning("the times of a block in float8 cannot be kept (%s)", error)
