"""New tokens for many prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from packformer.generation.decoder import Decoder
from packformer.generation.prompts import Prompts, as_lists
from packformer.generation.sampling import Sampling
from packformer.model import GPT
from packformer.settings import check_whole

_CHECKED_EVERY = 16  # steps, where nobody watches: asking a GPU for what it wrote makes it wait


@dataclass
class Report:
    """What a generation took.

    Attributes:
        prompt_tokens: that were read.
        new_tokens: that were written, stop tokens included.
        first_token_seconds: until every prompt had its first new token.
        decode_seconds: from then on.
        decode_steps: in that time, each one token for every sequence of a batch.
        recorded_steps: of ``decode_steps``, those that a CUDA graph was made of.
        recording_seconds: of ``decode_seconds``, what these and the recording took.
        cache_bytes: keys and values, at most.
    """

    prompt_tokens: int = 0
    new_tokens: int = 0
    first_token_seconds: float = 0.0
    decode_seconds: float = 0.0
    decode_steps: int = 0
    recorded_steps: int = 0
    recording_seconds: float = 0.0
    cache_bytes: int = 0

    @property
    def tokens_per_second(self) -> float:
        """New tokens over the whole time; 0 if there are none."""
        seconds = self.first_token_seconds + self.decode_seconds
        return self.new_tokens / seconds if seconds else 0.0

    @property
    def step_seconds(self) -> float:
        """A step's mean, the recorded ones left out; 0 if there was no other."""
        steps = self.decode_steps - self.recorded_steps
        return (self.decode_seconds - self.recording_seconds) / steps if steps else 0.0

    def add(self, other: Report) -> None:
        """Adds a later batch."""
        most = max(self.cache_bytes, other.cache_bytes)
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        self.cache_bytes = most


class Generation:
    """New tokens of one batch of prompts, step by step.

    Iterating yields, per step, one new token for each prompt, or None once it has ended.

    Args:
        model: in evaluation mode, on the device and in the dtype to compute with.
        prompts: token ids of each, at least one: sequences, or an int64 tensor ``[B, L]``, or
            ``[L]`` for one prompt.
        max_new_tokens: at most this many new tokens for each prompt.
        sampling: how they are drawn; by default the likeliest.
        stop_tokens: a sequence ends with the first of these that is drawn.
        numbers: of the prompts, which their random numbers depend on; by default from 0 up.
        compiled: see ``Decoder``.
        replayed: whether a CUDA graph replays the step, on a GPU.
        watched: whether each step is yielded as it is made, or several at once, which is faster
            on a GPU.

    Attributes:
        report: complete once the iteration is.

    Raises:
        ValueError: if there is no prompt, one is empty or no sequence of token ids, a token is none
            of the model's, or a sequence could become longer than the model can read.
    """

    def __init__(
        self,
        model: GPT,
        prompts: Prompts,
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        stop_tokens: Collection[int] = (),
        numbers: Sequence[int] | None = None,
        compiled: bool = False,
        replayed: bool = True,
        watched: bool = True,
    ) -> None:
        check_whole("max_new_tokens", max_new_tokens, at_least=1)
        self._prompts = as_lists(prompts, model.vocab_size)
        self._steps = max_new_tokens
        self._sampling = sampling or Sampling()
        self._stop = frozenset(stop_tokens)
        self._watched = watched
        self._replayed = replayed
        # The last new token is never read again.
        capacities = [len(prompt) + max_new_tokens - 1 for prompt in self._prompts]
        self._decoder = Decoder(model, capacities, compiled=compiled)
        device, shape = self._decoder.device, (max_new_tokens, len(self._prompts))
        randoms = self._sampling.randoms(numbers or range(len(self._prompts)), max_new_tokens)
        # On the device, as the step's number: a replayed step reads nothing of the host.
        self._randoms = randoms.to(device)
        self._new = torch.zeros(shape, dtype=torch.int64, device=device)
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        self.report = Report(
            prompt_tokens=sum(map(len, self._prompts)), cache_bytes=self._decoder.cache.num_bytes
        )

    def __iter__(self) -> Iterator[list[int | None]]:
        start = time.perf_counter()
        self._choose(self._decoder.read(self._prompts))
        ended = [False] * len(self._prompts)
        yield from self._tell(0, 1, ended)
        self.report.first_token_seconds = time.perf_counter() - start
        start = time.perf_counter()
        advance: Callable[[], None] = self._advance
        told = 1
        for made in range(2, self._steps + 1):
            if all(ended):
                break
            advance()
            self.report.decode_steps += 1
            if made == 2 and self._replayed and self._decoder.device.type == "cuda":
                advance = self._recorded()
                self.report.recorded_steps = 1
                self.report.recording_seconds = time.perf_counter() - start
            if self._watched or made % _CHECKED_EVERY == 0 or made == self._steps:
                yield from self._tell(told, made, ended)
                told = made
        self.report.decode_seconds = time.perf_counter() - start

    def _choose(self, logits_BV: Tensor) -> None:
        random_B = self._randoms[self._step].squeeze(0)
        tokens_B = self._sampling.choose(logits_BV, random_B)
        self._new.index_copy_(0, self._step, tokens_B[None])

    def _advance(self) -> None:
        tokens_B = self._new[self._step].squeeze(0)
        logits_BV = self._decoder.step(tokens_B)
        self._step.add_(1)
        self._choose(logits_BV)

    def _recorded(self) -> Callable[[], None]:
        """The step as a CUDA graph: one launch instead of hundreds."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            self._advance()
        return graph.replay

    def _tell(self, first: int, end: int, ended: list[bool]) -> Iterator[list[int | None]]:
        for row in self._new[first:end].tolist():
            told = [None if over else token for over, token in zip(ended, row, strict=True)]
            if all(ended):
                return
            self.report.new_tokens += sum(token is not None for token in told)
            for number, token in enumerate(told):
                ended[number] |= token in self._stop
            yield told


def generate(
    model: GPT,
    prompts: Prompts,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop_tokens: Collection[int] = (),
    batch_size: int = 64,
) -> list[list[int]]:
    """Generates new tokens for each prompt. They do not depend on the other prompts.

    Args:
        model: in evaluation mode, on the device and in the dtype to compute with.
        prompts: token ids of each, at least one: sequences, or an int64 tensor ``[B, L]``, or
            ``[L]`` for one prompt.
        max_new_tokens: at most this many new tokens for each prompt.
        temperature: see ``Sampling``, as ``top_k``, ``top_p`` and ``seed``.
        top_k: draws only from this many of the likeliest tokens.
        top_p: draws only from the likeliest tokens that together have this probability.
        seed: of the random numbers.
        stop_tokens: a sequence ends with the first of these that is drawn.
        batch_size: prompts that are continued together.

    Returns:
        Token ids of what follows each prompt, without the prompt: 1 to ``max_new_tokens``, the
        last a stop token if one was drawn.

    Raises:
        ValueError: if an argument does not fit, see ``Generation`` and ``Sampling``.
    """
    check_whole("batch_size", batch_size, at_least=1)
    rows = as_lists(prompts, model.vocab_size)
    sampling = Sampling(temperature, top_k, top_p, seed)
    new: list[list[int]] = [[] for _ in rows]
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        numbers = range(first, first + len(batch))
        steps = Generation(
            model,
            batch,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop_tokens=stop_tokens,
            numbers=numbers,
            watched=False,
        )
        for tokens in steps:
            for number, token in zip(numbers, tokens, strict=True):
                if token is not None:
                    new[number].append(token)
    return new
