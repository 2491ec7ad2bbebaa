"""Prompts of a command line, and what a model makes of them."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

from packformer.counted import counted
from packformer.generation import Generation, Report, Sampling, TextStream, encode_prompt
from packformer.generation.decoder import reach
from packformer.generation.text import end_of_text, printable, text_of
from packformer.model import GPT
from packformer.run.load import load
from packformer.tools.generate.lines import Lines
from packformer.tools.generate.prompts import Records

log = logging.getLogger(__name__)


def run(
    options: argparse.Namespace,
    records: Records | None,
    output: Path | None,
    device: str,
    dtype: torch.dtype,
) -> None:
    """Continues prompts; asks for some if there are none.

    Args:
        options: of the command, checked.
        records: of the prompts; None to ask for them.
        output: file for what is written; None to print it.
        device: ``"cpu"`` or ``"cuda"``.
        dtype: to compute in.

    Raises:
        ValueError: if an option, a prompt or the run cannot be used; nothing is written then.
    """
    sampling = Sampling(options.temperature, options.top_k, options.top_p, options.seed)
    model, tokenizer = load(options.model)
    if tokenizer is None:
        raise ValueError(
            f"{options.model} has no tokenizer.json: put that of its text there, if it was trained "
            "on text"
        )
    session = _Session(
        model.to(device=device, dtype=dtype), tokenizer, sampling, _stop(options.stop, tokenizer),
        options.max_new_tokens, options.compile,
    )  # fmt: skip
    try:
        if records is None:
            session.ask()
        else:
            _continue(session, options, records, output)
    except (RuntimeError, MemoryError) as error:  # of a GPU, of torch on a CPU, of Python
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        raise ValueError(
            f"--max-new-tokens ({options.max_new_tokens:,}) and --batch-size "
            f"({options.batch_size:,}) need more memory than {device} has: lower one of them"
        ) from error


def _continue(
    session: _Session,
    options: argparse.Namespace,
    records: Records,
    output: Path | None,
) -> None:
    """Continues all prompts; prints what comes, or writes it to a file."""
    prompts = [session.encode(record[options.field], where) for where, record in records]
    session.reach(max(map(len, prompts)) + options.max_new_tokens - 1)
    given = [record for _, record in records]
    if len(prompts) == 1 and output is None:
        session.continue_one(given[0][options.field], prompts[0])
        session.tell()
        return
    lines = None if output is None else Lines(output, given)
    for first in range(0, len(prompts), options.batch_size):
        batch = slice(first, first + options.batch_size)
        made = session.continue_many(prompts[batch], first)
        if lines is not None:
            lines.add(given[batch], made)
            continue
        for record, (text, _, _) in zip(given[batch], made, strict=True):
            print(printable(f"{record[options.field]}{text}\n"))
    session.tell()


def _stop(given: Sequence[str] | None, tokenizer: Tokenizer) -> list[int]:
    if given is None:
        return end_of_text(tokenizer)
    tokens = []
    for text in given:
        token = tokenizer.token_to_id(text)
        if token is None and text.isdecimal():
            token = int(text)
        if token is None or token >= tokenizer.get_vocab_size():
            raise ValueError(f"--stop ({text}) is no token of the vocabulary: give one token")
        tokens.append(token)
    return tokens


class _Session:
    """A model, and how it is asked."""

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        sampling: Sampling,
        stop: Sequence[int],
        max_new_tokens: int,
        compiled: bool,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._sampling, self._stop = sampling, stop
        self._max_new_tokens, self._compiled = max_new_tokens, compiled
        self._report = Report()

    def reach(self, longest: int) -> None:
        """Makes positions of so many tokens usable; raises as ``decoder.reach``."""
        reach(self._model, longest)

    def encode(self, text: str, where: str) -> list[int]:
        try:
            return encode_prompt(self._tokenizer, text)
        except ValueError as error:
            raise ValueError(f"{where} {error}".replace("the prompt is", "is")) from error

    def _generation(self, prompts: Sequence[list[int]], first: int, watched: bool) -> Generation:
        return Generation(
            self._model,
            prompts,
            max_new_tokens=self._max_new_tokens,
            sampling=self._sampling,
            stop_tokens=self._stop,
            numbers=range(first, first + len(prompts)),
            compiled=self._compiled,
            watched=watched,
        )

    def continue_one(self, text: str, prompt: list[int]) -> None:
        """Prints the prompt, and its continuation as it appears."""
        sys.stdout.write(printable(text))
        generation = self._generation([prompt], 0, watched=True)
        written = TextStream(self._tokenizer, after=prompt)
        for (token,) in generation:
            if token is not None and token not in self._stop:
                sys.stdout.write(printable(written.add(token)))
                sys.stdout.flush()
        print(printable(written.end()), flush=True)
        self._report.add(generation.report)

    def continue_many(
        self, prompts: Sequence[list[int]], first: int
    ) -> list[tuple[str, int, bool]]:
        """Of each prompt its new text, the number of new tokens, and whether a stop token ended it.

        Args:
            prompts: token ids of each.
            first: number of the first one, among all.
        """
        generation = self._generation(prompts, first, watched=False)
        new: list[list[int]] = [[] for _ in prompts]
        for tokens in generation:
            for kept, token in zip(new, tokens, strict=True):
                if token is not None:
                    kept.append(token)
        self._report.add(generation.report)
        results = []
        for prompt, made in zip(prompts, new, strict=True):
            stopped = made[-1] in self._stop
            text = text_of(self._tokenizer, made[: len(made) - stopped], after=prompt)
            results.append((text, len(made), stopped))
        return results

    def ask(self) -> None:
        """Asks for prompts until there is none; the numbers of each are those of the first."""
        print("one prompt after another; Ctrl-D ends", file=sys.stderr)
        while True:
            try:
                text = input("> ")
            except EOFError:
                print()
                return
            if text:
                self._report = Report()
                try:
                    self.continue_one(text, encode_prompt(self._tokenizer, text))
                except ValueError as error:
                    print(f"error: {error}", file=sys.stderr)
                    continue
                self.tell()

    def tell(self) -> None:
        """Says what it took."""
        report = self._report
        log.info(
            "%s and %s in %.2f s (%s tokens/s), the first after %.0f ms; keys and values took %s",
            counted(report.prompt_tokens, "token") + " read",
            f"{report.new_tokens:,} written",
            report.first_token_seconds + report.decode_seconds,
            f"{report.tokens_per_second:,.0f}",
            1e3 * report.first_token_seconds,
            _size(report.cache_bytes),
        )


def _size(num_bytes: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"
