"""Training packed models with Lightning."""

from packformer.training.build_optimizer import build_optimizer
from packformer.training.checkpoint import AtomicCheckpointIO
from packformer.training.clipping import divides_gradients
from packformer.training.ddp import DDP
from packformer.training.finite_guard import FiniteGuard
from packformer.training.fsdp import FSDP2
from packformer.training.last_checkpoint import LastCheckpoint
from packformer.training.loss import chunk_that_fits
from packformer.training.module import TrainingModule
from packformer.training.optimizer import adamw, muon
from packformer.training.peak_flops import peak_flops
from packformer.training.progress import LineProgress, TrainingProgressBar
from packformer.training.records import StepRecords
from packformer.training.schedule import (
    check_factor,
    constant,
    warmup_cosine,
    warmup_stable_decay,
)
from packformer.training.step_guard import GuardSettings
from packformer.training.weight_decay import weight_decay_factor

__all__ = [
    "DDP",
    "FSDP2",
    "AtomicCheckpointIO",
    "FiniteGuard",
    "GuardSettings",
    "LastCheckpoint",
    "LineProgress",
    "StepRecords",
    "TrainingModule",
    "TrainingProgressBar",
    "adamw",
    "build_optimizer",
    "check_factor",
    "chunk_that_fits",
    "constant",
    "divides_gradients",
    "muon",
    "peak_flops",
    "warmup_cosine",
    "warmup_stable_decay",
    "weight_decay_factor",
]
