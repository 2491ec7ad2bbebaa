"""How far the positions of a run's model go."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from packformer.data import PackingSettings
from packformer.layer_pattern import kinds_of_layers


def max_position_of(config: DictConfig, packing: PackingSettings) -> int:
    """The longest document; the row, if positions of some layer count through it.

    Args:
        config: with attention and position, and layers if they differ.
        packing: of its documents.
    """
    groups = [name for name in ("attention", "position", "layers") if name in config]
    plain: dict[str, Any] = {
        name: OmegaConf.to_container(config[name], resolve=True) for name in groups
    }
    kinds = [*kinds_of_layers(plain).values()] or [plain]
    counts = any(kind["attention"].get("restart_positions") is False for kind in kinds)
    return packing.row_length if counts else packing.max_seqlen
