"""What ``DDP`` refuses, and that it leaves a compiled model whole."""

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from packformer.training import DDP


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduce_dtype": "float16"}, r"reduce_dtype \(float16\) must be one of float32, bfloat16"),
        ({"bucket_mb": 0}, r"bucket_mb \(0\) must be a number from 1 up"),
        ({"cut_graph": 1}, r"cut_graph \(1\) must be true or false"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DDP(**options)


class _Compiled(L.LightningModule):
    """Two layers, compiled by a backend that counts the graphs it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512))
        self.graphs = 0
        self.loss = torch.compile(lambda x: self.layers(x).square().sum(), backend=self._count)

    def _count(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        self.graphs += 1
        return graph.forward

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(("cut_graph", "graphs"), [(False, 1), (True, 2)])
def test_the_graph_stays_whole_unless_asked(cut_graph: bool, graphs: int, tmp_path: Path) -> None:
    torch.compiler.reset()
    module = _Compiled()
    one_layer = 4 * 512 * 513 / 2**20
    trainer = L.Trainer(
        strategy=DDP(bucket_mb=one_layer, cut_graph=cut_graph),
        accelerator="cpu",
        devices=1,
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    with patch.dict(os.environ):  # Lightning leaves its port there
        try:
            trainer.fit(module, DataLoader([torch.ones(512)] * 2))
        finally:
            torch.distributed.destroy_process_group()
    assert module.graphs == graphs
