"""The Lightning data module: a data set, packed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from packformer.batch import PackedBatch
from packformer.data.checked_splits import checked_splits
from packformer.data.loader import WatchedLoader
from packformer.data.rows import PackedRows
from packformer.data.settings import PackingSettings
from packformer.data.source import DataSet, Mixture, name_of_document
from packformer.data.text import StandardLibrary, TextFiles
from packformer.data.token_shards import TokenShards
from packformer.data.validation import ValidationRows
from packformer.data.workers import set_up_workers
from packformer.requirements import LOADER
from packformer.settings import check_settings

_SAMPLED_ROWS = 32
_HELD_OUT_BY: dict[type, str] = {  # sources of the user's hold out themselves
    TextFiles: "hold some out (data.validation_fraction)",
    StandardLibrary: "hold some out (data.validation_fraction)",
    TokenShards: "hold some out (`packformer prepare --validation-fraction`)",
}
_FORMER = {"policy": "best_fit"}  # of streams saved before there was a choice


class PackedDataModule(L.LightningDataModule):
    """Packs a data set's documents into rows of one constant shape.

    Lightning's checkpoints hold the packer's state in training. It is the one carried by the
    last batch that the model was given, however far the loader has read ahead: the state after the
    last whole optimizer step, of all ranks.

    Args:
        data_set: where documents come from.
        packing: how they become rows.
        max_documents_per_row: room of a row; None to measure it: a quarter more than the fullest
            of the first rows holds.
        validation_rows: rows of validation data, shared out by the tokens of several corpora, at
            least one of each; None for all of it.
        num_workers: loader processes; 0 packs in the training process.
        seed: of the training order.

    Attributes:
        splits: the prepared documents.
        max_documents: document slots of a row, beside those for padding.
        token_budget: counted tokens per row that losses are divided by, the mean of the first rows:
            a constant, so that every counted token weighs the same in every step.
        packer_state: after the last optimizer step; None before the end of the first.

    Raises:
        ValueError: if an argument is out of range or the data unusable.
    """

    def __init__(
        self,
        data_set: DataSet,
        packing: PackingSettings,
        *,
        max_documents_per_row: int | None = None,
        validation_rows: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        given = {
            "max_documents_per_row": max_documents_per_row,
            "validation_rows": validation_rows,
            "num_workers": num_workers,
            "seed": seed,
        }
        check_settings("loader", LOADER, given)
        if num_workers:
            set_up_workers(num_workers)
        self._validation_rows = validation_rows
        self._num_workers = num_workers
        self._seed = seed
        self.packer_state: dict[str, Any] | None = None
        self.splits = checked_splits(data_set)
        if not self.splits.validation.num_documents:
            own = f"prepare() of {type(data_set).__name__} must return some as validation"
            advice = _HELD_OUT_BY.get(type(data_set), own)
            raise ValueError(f"{self.splits.description}: no document to validate on, {advice}")
        if self.splits.scores_answers and packing.cuts:
            raise ValueError(
                f"packing.policy ({packing.policy}) would cut answers from their questions: "
                f"{self.splits.description} needs best_fit"
            )
        if self.splits.scores_answers and packing.long_documents in ("split", "truncate"):
            packing = replace(packing, long_documents="error")  # half a question has no answer
        self._packing = packing
        self.max_documents = max_documents_per_row or packing.row_length
        sample = list(islice(self._train_rows(), _SAMPLED_ROWS))
        if max_documents_per_row is None:
            fullest = max(len(batch.pieces) for batch in sample)
            self.max_documents = min(packing.most_pieces, 8 * math.ceil(fullest * 1.25 / 8))
        self.token_budget = max(1, round(sum(b.num_targets for b in sample) / len(sample)))

    @property
    def packing(self) -> PackingSettings:
        """How training documents become rows."""
        return self._packing

    @property
    def row_length(self) -> int:
        """M, tokens of a row."""
        return self._packing.row_length

    @property
    def max_seqlen(self) -> int:
        """Longest document a row can hold, in tokens."""
        return self._packing.max_seqlen

    @property
    def corpora(self) -> Sequence[str]:
        """Names of the corpora validated on, by ``PackedBatch.corpus``; () if there is but one."""
        validation = self.splits.validation
        return validation.names if isinstance(validation, Mixture) else ()

    def name_document(self, number: int, start: int) -> str:
        """What people may find a piece of a training document by.

        Args:
            number: of the document, as in ``PackedBatch.pieces``.
            start: its first token that is meant.
        """
        name = name_of_document(self.splits.train, number)
        return f"{name} from token {start}" if start else name

    def _train_rows(self) -> PackedRows:
        return PackedRows(
            self.splits.train,
            self._packing,
            max_documents=self.max_documents,
            seed=self._seed,
            start=self.packer_state,
            **self._ranks(),
            rows_per_step=self._rows_per_step(),
        )

    def _ranks(self) -> dict[str, Any]:
        if self.trainer is None:
            return {}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    def _rows_per_step(self) -> int:
        if self.trainer is None:
            return 1
        return self.trainer.world_size * self.trainer.accumulate_grad_batches

    def _loader(self, rows: PackedRows | ValidationRows) -> DataLoader[PackedBatch]:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return WatchedLoader(rows, num_workers=self._num_workers, pin_memory=on_gpu)

    def train_dataloader(self) -> DataLoader[PackedBatch]:
        return self._loader(self._train_rows())

    def val_dataloader(self) -> DataLoader[PackedBatch]:
        rows = ValidationRows(
            self.splits.validation,
            replace(self._packing, policy="best_fit"),  # documents whole, however training cuts
            max_documents=self.max_documents,
            limit=self._validation_rows,
            **self._ranks(),
        )
        return self._loader(rows)

    def on_before_batch_transfer(self, batch: PackedBatch, dataloader_idx: int) -> PackedBatch:
        # Called when the batch is about to be used, not when it is read ahead.
        if self.trainer is not None and self.trainer.training:
            self.packer_state = batch.packer_state
        return batch

    def transfer_batch_to_device(
        self, batch: PackedBatch, device: torch.device, dataloader_idx: int
    ) -> PackedBatch:
        return batch.to(device, non_blocking=True)

    @property
    def stream(self) -> dict[str, Any]:
        """What the order of training depends on: a packer's state is valid in one stream only."""
        return {
            "data": self.splits.fingerprint,
            **vars(self._packing),
            "max_document_length": self._packing.max_document_length
            if self._packing.policy == "concatenate"
            else self.max_seqlen,
            "max_documents_per_row": self.max_documents,
            "seed": self._seed,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.packer_state, "stream": self.stream}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        saved = _FORMER | state_dict.get("stream", self.stream)
        if all(saved.get(name) == value for name, value in self.stream.items()):
            self.packer_state = state_dict["position"]
        # Else the run continues with other data, from their beginning.
