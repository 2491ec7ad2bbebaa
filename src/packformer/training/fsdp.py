"""Models larger than one device: parameters, gradients and optimizer states in shards."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.parallel import ParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import Replicate, Shard, empty
from torch.optim import Optimizer

from packformer import requirements
from packformer.model import GPT
from packformer.settings import check_settings
from packformer.training.checkpoint import naming_the_other
from packformer.training.checkpoint_repair import shard_like
from packformer.training.float8 import gather_in_float8, plain_shards
from packformer.training.sharded_saves import ShardedSaves
from packformer.training.shards import check_sums, is_sharded, load_tensors

if TYPE_CHECKING:
    from packformer.model.deferred import Deferred

_REDUCE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class FSDP2(ModelParallelStrategy):
    """Shards the model over all ranks with torch's ``fully_shard`` (Zhao et al. 2023).

    Each block is gathered when it runs and freed after it, in forward and backward. So a rank holds
    its share of parameters, gradients and optimizer states. Beside it there is room for up to three
    whole blocks: the one that runs, the buffer it was gathered into, and the next, which is
    gathered meanwhile. Under ``bf16-mixed`` weights are gathered in bfloat16, and the shards stay
    float32.

    Args:
        reduce_dtype: ``"float32"`` or ``"bfloat16"``, in which gradients are summed over ranks.
        replicate_over_nodes: every node holds the whole model, sharded over its own devices: only
            gradients travel between nodes (hybrid sharding).
        reduce_every_row: gradients are summed over ranks after every row. Otherwise once per step:
            less to send, but all gradients of the model lie on every rank until then.

    Raises:
        ValueError: if an argument is none of these.
    """

    def __init__(
        self,
        reduce_dtype: str = "float32",
        replicate_over_nodes: bool = False,
        reduce_every_row: bool = False,
    ) -> None:
        super().__init__()
        given = {
            "reduce_dtype": reduce_dtype,
            "replicate_over_nodes": replicate_over_nodes,
            "reduce_every_row": reduce_every_row,
        }
        check_settings("trainer.strategy", requirements.FSDP2, given)
        self._reduce_dtype = _REDUCE_DTYPES[reduce_dtype]
        self._replicate_over_nodes = replicate_over_nodes
        self._reduce_every_row = reduce_every_row

        self._group: dist.ProcessGroup | None = None
        self._saves: ShardedSaves | None = None
        self._has_reserved = False

    def setup_environment(self) -> None:
        if self._device_mesh is not None:  # by an earlier fit: shards lie on that mesh
            return
        copies = self.num_nodes if self._replicate_over_nodes else 1
        self._data_parallel_size = copies
        self._tensor_parallel_size = self.num_nodes * self.num_processes // copies
        super().setup_environment()
        if copies == 1:
            self._device_mesh = self.device_mesh["tensor_parallel"]
        self._group = dist.new_group(backend="gloo")  # NCCL's would stop training meanwhile
        self._saves = ShardedSaves(self._group, on_gpu=self.root_device.type == "cuda")

    def shard(self, model: GPT, values: Deferred | None, in_float8: bool = False) -> None:
        """Shards ``model`` in place and gives its deferred parameters memory; once.

        Args:
            model: with real or deferred parameters.
            values: of those that are deferred; None where a checkpoint will set them.
            in_float8: gather those weights in float8 that compute in it.
        """
        if isinstance(model, FSDPModule):
            return
        places = {} if values is None else values.names_in(model)
        if in_float8:
            gather_in_float8(model)
        mixed = self.precision_plugin.precision == "bf16-mixed"
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if mixed else None,
            reduce_dtype=self._reduce_dtype,
            cast_forward_inputs=False,  # autocast decides what is computed in which precision
        )
        untied = model.head.weight is not model.embedding.weight
        for part in (*model.blocks, *([model.embedding] if untied else []), model):
            fully_shard(part, mesh=self.device_mesh, mp_policy=policy)
        register_fsdp_forward_method(model, "through_head")
        _give_memory(model, self.root_device)
        if values is not None:
            tensors: dict[str, Tensor] = {
                **dict(model.named_parameters(remove_duplicate=False)),
                **dict(model.named_buffers(remove_duplicate=False)),
            }
            for name, full in values.values(places):
                _set(tensors[name], full)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Adds up gradients without sending them: a row that does not end its step."""
        assert self.lightning_module is not None
        model = self.lightning_module.model
        assert isinstance(model, FSDPModule)
        model.set_requires_gradient_sync(self._reduce_every_row)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Steps; after the first step, when there are states, memory for saves is allocated."""
        done = super().optimizer_step(optimizer, closure, model, **kwargs)
        assert self.lightning_module is not None
        if not self._has_reserved and self.lightning_module.trainer.checkpoint_callbacks:
            assert self._saves is not None
            self._has_reserved = True
            states = [self.optimizer_state(each) for each in self.optimizers]
            weights = self.lightning_module_state_dict()
            self._saves.reserve({"state_dict": weights, "optimizer_states": states})
        return done

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return plain_shards(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return ParallelStrategy.optimizer_state(self, optimizer)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        ParallelStrategy.load_model_state_dict(self, checkpoint, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        ParallelStrategy.load_optimizer_state_dict(self, checkpoint)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Begins to save, and returns once all tensors are copied; see ``ShardedSaves``."""
        assert self._saves is not None
        name = f"{checkpoint['global_step']}-{secrets.token_hex(4)}"
        path, name = self.broadcast((str(filepath), name))
        self._saves.save(checkpoint, Path(path), name, storage_options)

    def remove_checkpoint(self, filepath: str | Path) -> None:
        assert self._saves is not None
        self._saves.remove(Path(filepath))

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint in shards, of any number of ranks, or one that is a single file.

        Raises:
            ValueError: if a part is missing or damaged; on all ranks.
        """
        assert self.lightning_module is not None
        path = Path(self.broadcast(checkpoint_path))
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        if is_sharded(checkpoint):
            self._on_all_ranks(_check_share, path, checkpoint, self.global_rank, self.world_size)
            return load_tensors(path, checkpoint, self._empty, process_group=self._group)
        own = self.lightning_module.state_dict()
        checkpoint["state_dict"] = {
            name: shard_like(value, own[name]) if name in own else value
            for name, value in checkpoint["state_dict"].items()
        }
        return checkpoint

    def _empty(self, shape: list[int], dtype: torch.dtype) -> Tensor:
        copies = [Replicate()] * (self.device_mesh.ndim - 1)
        mesh, placements = self.device_mesh, [*copies, Shard(0)]
        return empty(shape, dtype=dtype, device_mesh=mesh, placements=placements)

    def _on_all_ranks(self, check: Callable[..., None], *arguments: Any) -> None:
        """Raises the error of one rank on all."""
        reason = None
        try:
            check(*arguments)
        except (ValueError, OSError) as error:
            reason = str(error)
        reasons: list[str | None] = [None] * self.world_size
        dist.all_gather_object(reasons, reason, group=self._group)
        for found in reasons:
            if found is not None:
                raise ValueError(found)

    def teardown(self) -> None:
        try:
            if self._saves is not None:
                self._saves.wait()
        finally:
            super().teardown()


def _check_share(path: Path, checkpoint: Mapping[str, Any], rank: int, ranks: int) -> None:
    with naming_the_other(path):
        check_sums(path, checkpoint, rank, ranks)


def _give_memory(model: nn.Module, device: torch.device) -> None:
    def with_memory(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device)

    model._apply(with_memory)


@torch.no_grad()
def _set(tensor: Tensor, full: Tensor) -> None:
    """Copies this rank's part of ``full``."""
    tensor.copy_(shard_like(full, tensor))
