"""The Lightning module: one step of training, one of validation."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

import packformer
from packformer.attention import PackedLayout, debugging
from packformer.batch import IGNORE_INDEX, PackedBatch
from packformer.model import GPT
from packformer.model.deferred import Deferred
from packformer.requirements import Z_LOSS
from packformer.settings import is_number
from packformer.training.build_optimizer import build_optimizer, describe_optimizer
from packformer.training.changed_numbers import follow_schedule, take_changed_numbers
from packformer.training.checkpoint_repair import (
    follow_moved_folder,
    forget_scores,
    recount_batches,
)
from packformer.training.clipping import clip_gradients
from packformer.training.compilation import (
    compile_blocks,
    compile_whole,
    warn_of_recompilation,
)
from packformer.training.data_wait import DataWait
from packformer.training.float8 import Float8, compute_in_float8, precompute_scales
from packformer.training.float8_speed import BlockTimes, block_times
from packformer.training.fsdp import FSDP2
from packformer.training.kernel_choice import KernelChoice, forget_gpu_peak
from packformer.training.loss import RowLoss, next_token_loss, summed_nats
from packformer.training.metrics import AnswerAccuracy, CorpusLoss, TokenLoss
from packformer.training.precision import DTYPES
from packformer.training.running_sums import names_of_sums, take_own_sums
from packformer.training.step_end import ends_step
from packformer.training.step_guard import GuardSettings, StepGuard, spread
from packformer.training.weight_decay import remember_weight_decay, set_weight_decay

log = logging.getLogger(__name__)


class TrainingModule(L.LightningModule):
    """Next-token training of a GPT on packed rows.

    The loss is the sum over counted tokens divided by a constant token budget: every counted token
    weighs the same, whatever the row, the accumulation or the number of ranks.

    Args:
        model: the GPT.
        optimizer: makes the optimizer, see ``build_optimizer``.
        schedule: factor on the learning rate after a number of optimizer steps.
        weight_decay: factor on the weight decay after a number of optimizer steps, see
            ``weight_decay_factor``; None for 1.
        token_budget: counted tokens per row the summed loss is divided by.
        max_grad_norm: gradients are scaled down to this 2-norm; None for no limit.
        identity: settings that a checkpoint depends on, as plain types; saved in it.
        optimizer_of: what ``optimizer`` was where a checkpoint with this identity was saved; None
            if it was the same.
        byte_lengths: int64 ``[V]``, bytes of text per token id; None if it is no text.
        score_answers: measure exact-match accuracy in validation.
        corpora: names of those that rows of validation are of, each measured by itself too.
        compile: compile model and loss as one graph; ``"blocks"`` compiles each block and the loss
            by itself, as a model in shards needs it.
        loss_chunk: tokens whose logits exist at the same time in training, see
            ``next_token_loss``; None for all.
        z_loss: coefficient of z-loss in training, see ``next_token_loss``; None for none.
        deferred: what fills the parameters of a model that was built without memory, once
            ``FSDP2`` has sharded it.
        float8: the linear layers of the blocks compute in float8; None for the run's precision.
        guard: when optimizer steps are skipped.

    Attributes:
        kernels: of attention.
        step_guard: which steps were skipped.
        block_times: of a block with and without float8, measured on a GPU when a fit begins.
        scores_are_of_other_data: whether the checkpoint to load was validated on other data, so
            that the best weights are to be chosen anew; False unless the run sets it.
    """

    _byte_lengths: Tensor | None

    def __init__(
        self,
        model: GPT,
        optimizer: Callable[..., Any],
        schedule: Callable[[int], float],
        *,
        weight_decay: Callable[[int], float] | None = None,
        token_budget: int,
        max_grad_norm: float | None = 1.0,
        identity: dict[str, Any] | None = None,
        optimizer_of: Callable[[dict[str, Any]], Callable[..., Any] | None] = lambda _: None,
        byte_lengths: Tensor | None = None,
        score_answers: bool = False,
        corpora: Sequence[str] = (),
        compile: bool | Literal["blocks"] = False,
        loss_chunk: int | None = None,
        z_loss: float | None = None,
        deferred: Deferred | None = None,
        float8: Float8 | None = None,
        guard: GuardSettings | None = None,
    ) -> None:
        super().__init__()
        if token_budget < 1:
            raise ValueError(f"token_budget ({token_budget}) must be at least 1")
        if max_grad_norm is not None and not (is_number(max_grad_norm) and max_grad_norm > 0):
            raise ValueError(f"max_grad_norm ({max_grad_norm}) must be positive, or null")
        Z_LOSS.check("z_loss", z_loss)
        self.model = model
        self.train_loss = TokenLoss()
        self.train_z_loss = None if z_loss is None else TokenLoss()
        for sums in self._running_sums():
            sums.persistent(True)  # a checkpoint may lie between two records
        self.val_loss = TokenLoss()
        self.val_answers = AnswerAccuracy() if score_answers else None
        self.val_corpora = CorpusLoss(corpora) if corpora else None
        self.grad_norm: Tensor | None = None
        self.step_guard = StepGuard(guard or GuardSettings())
        self.kernels = KernelChoice(model)
        self.has_validated = False
        self.scores_are_of_other_data = False
        self.data_wait = DataWait()
        self._make_optimizer = optimizer
        self._schedule = schedule
        self._weight_decay = weight_decay
        self._token_budget = token_budget
        self._max_grad_norm = max_grad_norm
        self._identity = identity or {}
        self._optimizer_of = optimizer_of
        self.register_buffer("_byte_lengths", byte_lengths, persistent=False)
        self.loss_chunk = sys.maxsize if loss_chunk is None else loss_chunk
        self._z_loss = z_loss or 0.0
        self._deferred = deferred
        self.float8 = float8
        self.block_times: BlockTimes | None = None
        self._compiled = bool(compile) and not debugging()
        self._layers_in_float8 = "" if float8 is None else compute_in_float8(model, float8)
        self._row_loss: Callable[..., RowLoss] = next_token_loss
        self._training_loss: Callable[..., RowLoss] = self._eager_training_loss
        self._validation_loss: Callable[..., tuple[Tensor, Tensor]] = self._eager_validation_loss
        if compile and debugging():
            log.warning(
                "compile  off: PACKFORMER_DEBUG looks at values, which compiled code cannot"
            )
        elif compile == "blocks":
            warn_of_recompilation()
            compile_blocks(model.blocks)
            self._row_loss = compile_whole(next_token_loss)
        elif compile:
            warn_of_recompilation()
            self._training_loss = compile_whole(self._eager_training_loss)
            self._validation_loss = compile_whole(self._eager_validation_loss)

    def _eager_training_loss(
        self, tokens: Tensor, targets: Tensor, layout: PackedLayout
    ) -> RowLoss:
        return self._eager_loss(tokens, targets, layout, self._z_loss)

    def _eager_loss(
        self, tokens: Tensor, targets: Tensor, layout: PackedLayout, z_loss: float
    ) -> RowLoss:
        """Sums over the counted tokens."""

        def loss(x_BMD: Tensor, head_VD: Tensor) -> RowLoss:
            return self._row_loss(
                x_BMD.squeeze(0), head_VD, targets.squeeze(0), self.loss_chunk, z_loss
            )

        return self.model.through_head(tokens, layout, loss)

    def _eager_validation_loss(
        self, tokens: Tensor, targets: Tensor, layout: PackedLayout
    ) -> tuple[Tensor, Tensor]:
        """Summed nats, and the most likely ids ``[1, M]``, the targets if they do not matter."""
        if self.val_answers is None:
            return self._eager_loss(tokens, targets, layout, 0.0).nats, targets
        logits = self.model(tokens, layout)
        return summed_nats(logits.squeeze(0), targets.squeeze(0)), logits.argmax(-1)

    def _running_sums(self) -> list[TokenLoss]:
        return [sums for sums in (self.train_loss, self.train_z_loss) if sums is not None]

    def forget_training_losses(self) -> None:
        """Begins to add up ``train_loss`` and ``train_z_loss`` anew."""
        for sums in self._running_sums():
            sums.reset()

    def setup(self, stage: str) -> None:
        """Chooses the attention kernel for the device and precision of this run."""
        self.kernels.choose(self.trainer, stage)
        if stage == "fit" and self.block_times is None:
            self.block_times = self._measured_block()
        forget_gpu_peak(self.trainer.strategy.root_device.type)
        if stage == "fit":
            if self._layers_in_float8:
                log.info("float8   %s", self._layers_in_float8)
            if self.block_times is not None:
                self.block_times.tell(str(self.trainer.precision))

    def _measured_block(self) -> BlockTimes | None:
        device, precision = self.trainer.strategy.root_device, str(self.trainer.precision)
        asked = self.float8 is not None and not self.float8.emulate
        if not asked or device.type != "cuda" or not self.trainer.is_global_zero:
            return None
        assert self.float8 is not None
        return block_times(
            self.model,
            self.float8,
            device,
            dtype=DTYPES[precision] if precision.endswith("true") else torch.float32,
            autocast=self.trainer.precision_plugin.forward_context(),
            compiled=self._compiled,
        )

    def configure_model(self) -> None:
        """Shards the model where the strategy does that."""
        if isinstance(self.trainer.strategy, FSDP2):
            gathered_in_float8 = self.float8 is not None
            self.trainer.strategy.shard(self.model, self._deferred, gathered_in_float8)
            self._deferred = None

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        loss, nats, z_loss = self.kernels.computed(
            self._training_loss, batch.tokens, batch.targets, batch.layout
        )
        self.train_loss.update_finite(nats, batch.num_targets)
        if self.train_z_loss is not None:
            self.train_z_loss.update_finite(z_loss, batch.num_targets)
        self.step_guard.row(batch, nats)
        return spread(loss, loss.detach()) / self._token_budget

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:
        nll, predictions = self.kernels.computed(
            self._validation_loss, batch.tokens, batch.targets, batch.layout
        )
        num_bytes: Tensor | int = 0
        byte_lengths = self._byte_lengths
        if byte_lengths is not None:
            counted = batch.targets != IGNORE_INDEX
            num_bytes = byte_lengths[batch.targets.clamp(min=0)].mul(counted).sum()
        self.val_loss.update(nll, batch.num_targets, num_bytes)
        if self.val_corpora is not None:
            self.val_corpora.update(batch.corpus, nll, batch.num_targets, num_bytes)
        if self.val_answers is not None:
            self.val_answers.update(predictions, batch.targets, batch.layout)

    def on_train_start(self) -> None:
        self.step_guard.step = self.trainer.global_step

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.data_wait.row_came()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # After the callbacks: what records and checkpoints take is no wait for data.
        self.data_wait.step_ended(self.device)
        if not ends_step(self.trainer, batch_idx):
            self.trainer.should_stop = False  # the time limit asks again at the end of the step
        elif self.trainer.global_step >= self.trainer.max_steps:
            self.trainer.should_stop = True  # makes Lightning validate after the last step too

    def on_validation_end(self) -> None:
        self.data_wait.forget()

    def on_validation_epoch_end(self) -> None:
        self.has_validated = True
        metrics = self.val_loss.compute()
        self.val_loss.reset()
        if self.val_answers is not None:
            metrics |= self.val_answers.compute()
            self.val_answers.reset()
        if self.val_corpora is not None:
            metrics |= self.val_corpora.compute()
            self.val_corpora.reset()
        for name, value in metrics.items():  # already reduced over ranks
            self.log(f"val/{name}", value, logger=False)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self._make_optimizer, self.model, fused=self._is_fused())
        remember_weight_decay(optimizer.param_groups)
        log.info("optimize %s", describe_optimizer(optimizer))
        if self.float8 is not None and isinstance(self.trainer.strategy, FSDP2):
            optimizer.register_step_post_hook(lambda *_: precompute_scales(self.model))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._schedule)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        factor = 1.0 if self._weight_decay is None else self._weight_decay(self.trainer.global_step)
        set_weight_decay(optimizer.param_groups, factor)

    def _is_fused(self) -> bool:
        # Fused AdamW unscales float16 gradients itself, after they would have been clipped.
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        return on_gpu and self.trainer.precision != "16-mixed"

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        self.grad_norm = clip_gradients(optimizer, self.model.parameters(), self._max_grad_norm)
        self.step_guard.guard(optimizer, self.grad_norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["packformer"] = {"version": packformer.__version__, **self._identity}
        if self.trainer.world_size > 1:  # every rank is asked, and the first one writes
            for name in names_of_sums(checkpoint["state_dict"]):
                value = checkpoint["state_dict"][name].clone()
                checkpoint["state_dict"][name] = self.trainer.strategy.reduce(
                    value, reduce_op="sum"
                )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.scores_are_of_other_data:
            forget_scores(checkpoint, self.trainer.checkpoint_callbacks)
        follow_moved_folder(checkpoint, self.trainer.checkpoint_callbacks)
        recount_batches(checkpoint, self.trainer.accumulate_grad_batches)
        self._take_own_numbers(checkpoint)
        take_own_sums(checkpoint["state_dict"], self.state_dict(), keep=self.trainer.is_global_zero)

    def _take_own_numbers(self, checkpoint: dict[str, Any]) -> None:
        for state in checkpoint["optimizer_states"]:
            remember_weight_decay(state["param_groups"])
        make, fused = self._optimizer_of(checkpoint["packformer"]), self._is_fused()
        if make is not None:
            former = build_optimizer(make, self.model, fused=fused)
            own = build_optimizer(self._make_optimizer, self.model, fused=fused)
            take_changed_numbers(checkpoint, former, own)
        follow_schedule(checkpoint, self._schedule)
