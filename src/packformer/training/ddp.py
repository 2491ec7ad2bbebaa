"""A model that lies whole on every device: gradients are averaged once per step."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from packformer import requirements
from packformer.settings import check_settings

# torch's name for it, from 2.13 on and before
_SENDS_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(DistributedDataParallel.__init__).parameters
)


class DDP(DDPStrategy):
    """Lightning's data parallelism, set up for a model that is compiled as one graph.

    torch would cut the graph wherever a bucket of gradients is full, so that sending may begin
    during the backward. That costs more than it hides: the parts are slower than the whole, and
    on one machine sending takes a few per cent of a step. So the graph stays whole, and what is
    sent begins when its backward ends (Li et al. 2020 describe the buckets).

    Gradients lie in the buckets themselves: neither memory nor copies for a second set of them.

    Args:
        reduce_dtype: ``"float32"`` or ``"bfloat16"``, in which gradients are summed over devices.
            bfloat16 halves what is sent, and rounds each gradient.
        bucket_mb: MB of gradients that are sent at a time.
        cut_graph: as torch would have it, see above. It may pay where the network is slow.

    Raises:
        ValueError: if an argument is none of these.
    """

    def __init__(
        self, reduce_dtype: str = "float32", bucket_mb: float = 200, cut_graph: bool = False
    ) -> None:
        given = {"reduce_dtype": reduce_dtype, "bucket_mb": bucket_mb, "cut_graph": cut_graph}
        check_settings("trainer.strategy", requirements.DDP, given)
        # Buffers are constants: nobody needs those of rank 0.
        options: dict[str, Any] = {_SENDS_BUFFERS: False}
        super().__init__(gradient_as_bucket_view=True, bucket_cap_mb=bucket_mb, **options)
        self._rounds = reduce_dtype == "bfloat16"
        self._cut_graph = cut_graph

    def configure_ddp(self) -> None:
        torch._dynamo.config.optimize_ddp = self._cut_graph
        super().configure_ddp()

    def _register_ddp_hooks(self) -> None:
        if self._rounds:  # Lightning's own way leaves CPUs out
            assert isinstance(self.model, DistributedDataParallel)
            # By its own name DDP refuses the hook on CPUs.
            self.model.register_comm_hook(
                dist.group.WORLD, lambda group, bucket: bf16_compress_hook(group, bucket)
            )
