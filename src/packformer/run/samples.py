"""What the model writes, after every few validations."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from tokenizers import Tokenizer

from packformer.batch import PackedBatch
from packformer.corpus.tokenizer import document_marks
from packformer.data import PackedDataModule
from packformer.generation import Generation, Sampling, encode_prompt
from packformer.generation.text import end_of_text, printable, text_of
from packformer.requirements import SAMPLES
from packformer.settings import check_settings
from packformer.training import FSDP2, TrainingModule
from packformer.training.incomplete import goes_on_without

log = logging.getLogger(__name__)

SAMPLES_FILE = "samples.jsonl"
_OPENINGS = 2  # documents whose beginnings are prompts, unless there are others
_OPENING_TOKENS = 8


class Samples(L.Callback):
    """Continues the same prompts after every few validations, to see what the model has learned.

    Each text goes to the console, into ``samples.jsonl`` in the run's folder, and as a table to W&B
    where that records the run. Training does not change by it: it draws from numbers of its own.
    Models in shards write none, because no device holds one whole.

    Args:
        prompts: texts to continue; None for the beginnings of the first documents held out; where
            they are too few, of the tail of one that was cut. One that is longer than documents may
            be is left out.
        every_n_validations: of which one is followed by samples.
        max_new_tokens: for each prompt, at most; fewer where documents may not be that long.
        temperature: see ``Sampling``, as ``top_k``, ``top_p`` and ``seed``.
        top_k: only so many of the likeliest tokens are drawn from.
        top_p: only so much probability is drawn from.
        seed: of the random numbers.

    Attributes:
        file: where samples are kept, set by the run; None for nowhere.

    Raises:
        ValueError: if a setting is out of range.
    """

    def __init__(
        self,
        prompts: Sequence[str] | None = None,
        every_n_validations: int = 1,
        max_new_tokens: int = 60,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> None:
        given = {
            "prompts": prompts,
            "every_n_validations": every_n_validations,
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
        }
        check_settings("callbacks.samples", SAMPLES, given)
        self.file: Path | None = None
        self._texts = None if prompts is None else list(prompts)
        self._every = every_n_validations
        self._max_new_tokens = max_new_tokens
        self._sampling = Sampling(temperature, top_k, top_p, seed)
        self._validations = 0
        self._tokenizer: Tokenizer | None = None
        self._prompts: list[list[int]] = []
        self._tails: list[list[int]] = []  # for want of beginnings

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if isinstance(trainer.strategy, FSDP2):
            log.info(
                "without  samples: the model is in shards; write text with packformer generate"
            )
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, PackedDataModule)
        file = data.splits.tokenizer
        self._tokenizer = None if file is None else Tokenizer.from_file(str(file))
        assert isinstance(pl_module, TrainingModule)
        if self._tokenizer is not None and self._texts is not None:
            self._prompts = _fitting(self._tokenizer, self._texts, pl_module.model.max_position)

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: PackedBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._tokenizer is None or self._texts is not None or self._validations:
            return
        if len(self._prompts) == _OPENINGS:
            return
        marks = document_marks(self._tokenizer)
        for opening in _openings(batch, end_of_text(self._tokenizer)):
            is_tail = marks is not None and opening[0] != marks[0]
            (self._tails if is_tail else self._prompts).append(opening)
        del self._prompts[_OPENINGS:], self._tails[_OPENINGS:]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._texts is None and not self._validations:
            self._prompts += self._tails[: _OPENINGS - len(self._prompts)]
        self._validations += 1
        due = self._validations % self._every == 0 and trainer.state.fn == "fit"
        if not due or not self._prompts or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, TrainingModule)
        samples = self._samples(trainer, pl_module)
        for sample in samples:
            text = " ".join(f"{sample['prompt']} => {sample['text']}".split())
            log.info("sample   %s", printable(text))
        if self.file is not None:
            with goes_on_without(SAMPLES_FILE), self.file.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(s, ensure_ascii=False) + "\n" for s in samples)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_text(
                    "samples",
                    columns=["step", "prompt", "text"],
                    data=[[s["step"], s["prompt"], s["text"]] for s in samples],
                )

    def _samples(self, trainer: L.Trainer, module: TrainingModule) -> list[dict[str, Any]]:
        tokenizer = self._tokenizer
        assert tokenizer is not None
        alike: dict[int, list[int]] = defaultdict(list)  # prompts by how many tokens may follow
        for number, prompt in enumerate(self._prompts):
            room = module.model.max_position - len(prompt) + 1
            alike[min(room, self._max_new_tokens)].append(number)
        new: list[list[int]] = [[] for _ in self._prompts]
        with trainer.precision_plugin.forward_context(), torch.no_grad():
            for most, numbers in alike.items():
                for number, tokens in zip(
                    numbers, self._written(module, numbers, most), strict=True
                ):
                    new[number] = tokens
        return [
            {
                "step": trainer.global_step,
                "prompt": text_of(tokenizer, prompt),
                "text": text_of(tokenizer, tokens, after=prompt),
            }
            for prompt, tokens in zip(self._prompts, new, strict=True)
        ]

    def _written(self, module: TrainingModule, numbers: list[int], most: int) -> list[list[int]]:
        """At most ``most`` new tokens for each of some prompts."""
        assert self._tokenizer is not None
        stop = end_of_text(self._tokenizer)
        steps = Generation(
            module.model,
            [self._prompts[number] for number in numbers],
            max_new_tokens=most,
            sampling=self._sampling,
            stop_tokens=stop,
            numbers=numbers,
            replayed=False,
        )
        new: list[list[int]] = [[] for _ in numbers]
        for tokens in steps:
            for kept, token in zip(new, tokens, strict=True):
                if token is not None and token not in stop:
                    kept.append(token)
        return new


def _openings(batch: PackedBatch, end_marks: Sequence[int]) -> list[list[int]]:
    """How the documents that begin in a row begin, without the token that ends a short one.

    Padding and later pieces of a document are left out, and documents without text. The tail of a
    document that was cut for the held-out split begins in the middle of a text.
    """
    found, start = [], 0
    for length, (_, first) in zip(batch.lengths, batch.pieces, strict=True):
        opening = batch.tokens[0, start : start + min(length, _OPENING_TOKENS)].tolist()
        start += length
        if opening[-1:] and opening[-1] in end_marks:
            opening.pop()
        if first == 0 and len(opening) > 1:
            found.append(opening)
    return found


def _fitting(tokenizer: Tokenizer, texts: Sequence[str], most: int) -> list[list[int]]:
    """Tokens of the prompts that are no longer than documents may be; tells of the others."""
    prompts = [encode_prompt(tokenizer, text) for text in texts]
    for number, prompt in enumerate(prompts, 1):
        if len(prompt) > most:
            log.warning(
                "without  samples of prompt %d (callbacks.samples.prompts): it has %s tokens, more "
                "than the %s that documents may have; shorten it",
                number,
                f"{len(prompt):,}",
                f"{most:,}",
            )
    return [prompt for prompt in prompts if len(prompt) <= most]
