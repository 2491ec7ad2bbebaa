"""A packformer model as lm-evaluation-harness sees one."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from tokenizers import Tokenizer
from tqdm import tqdm

from packformer.corpus.tokenizer import document_marks
from packformer.counted import counted
from packformer.evaluation import Continuation, log_likelihoods
from packformer.generation import generate
from packformer.model import GPT
from packformer.settings import as_text, check_flag, check_whole
from packformer.tools.lm_eval.opening import opened

log = logging.getLogger(__name__)

_ROW_LENGTH = 16_384
_NEW_TOKENS = 256  # where a task does not say how many
_ARGUMENTS = ("path", "dtype", "row_length", "max_length", "add_bos_token")
_SAMPLING = ("temperature", "top_k", "top_p")
_OPTIONS = ("until", "max_gen_toks", "do_sample", *_SAMPLING)
_FIRST_TOKENS = 32  # written before a text is first searched for its end


@register_model("packformer")
class PackformerLM(TemplateLM):
    """Requests are scored and continued in packed rows; none sees another's tokens.

    Texts begin with the token that documents begin with in training. The figures are those of
    lm-eval's own ``hf`` on the exported model. With ``add_bos_token=False`` for both, so are those
    of whole texts (``loglikelihood_rolling``), of which ``hf`` by default also predicts that token.

    Args:
        model: on its device, in evaluation mode, in the dtype to compute in.
        tokenizer: of the model, with tokens that begin and end a document.
        row_length: tokens of a row.
        max_length: of context and continuation, in tokens; longer contexts lose their beginning.
            None for the longest document the model was made for.
        add_bos_token: contexts begin with that first token; else it only stands for no context.

    Raises:
        ValueError: if an argument is out of range, the tokenizer lacks such tokens, or the model
            does not reach ``max_length``.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        *,
        row_length: int = _ROW_LENGTH,
        max_length: int | None = None,
        add_bos_token: bool = True,
    ) -> None:
        super().__init__()
        check_whole("row_length", row_length, at_least=2)
        check_flag("add_bos_token", add_bos_token)
        marks = document_marks(tokenizer)
        if marks is None:
            raise ValueError(
                "the tokenizer has no tokens that begin and end a document: give the run's own"
            )
        if max_length is not None:
            check_whole("max_length", max_length, at_least=2)
            _extend(model, max_length)
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = model.max_position if max_length is None else max_length
        self._row_length = row_length
        self._add_bos = add_bos_token
        self._bos, self._eos = marks
        self._device = model.embedding.weight.device

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> PackformerLM:
        """Opens a run.

        Args:
            arg_dict: ``path``, of what ``packformer.load`` opens; ``dtype``, by default bfloat16 on
                a GPU and float32 on a CPU; and what the constructor takes.
            additional_config: ``device``, by default a GPU if there is one. ``batch_size`` has no
                meaning here: ``row_length`` is the size of a batch.

        Raises:
            ValueError: if the run cannot be opened, or has no tokenizer.
        """
        _check_known("model argument", arg_dict, _ARGUMENTS)
        options = {"path": None, "dtype": None, **arg_dict}
        path = as_text("path", options.pop("path"), "run folder, a checkpoint or an exported one")
        device = (additional_config or {}).get("device")
        model, tokenizer = opened(path, device, options.pop("dtype"))
        return cls(model, tokenizer, **options)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> PackformerLM:
        """The same from ``"path=RUN,max_length=4096"``."""
        return cls.create_from_arg_obj(
            utils.simple_parse_args_string(arg_string), additional_config
        )

    @property
    def eot_token_id(self) -> int:
        """Ends every document."""
        return self._eos

    @property
    def prefix_token_id(self) -> int:
        """Stands before a text without a context."""
        return self._bos

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Ids of a text.

        Args:
            string: the text.
            add_special_tokens: whether it begins as a document does; None for ``add_bos_token``.
            kwargs: ignored, as lm-eval's other models have more.
        """
        ids: list[int] = self.tokenizer.encode(string, add_special_tokens=False).ids
        begins = self._add_bos if add_special_tokens is None else add_special_tokens
        return [self._bos, *ids] if begins and ids[:1] != [self._bos] else ids

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        asked = [Continuation(context, tokens) for _, context, tokens in requests]
        read = (len(context) + len(tokens) - 1 for context, tokens in asked)
        self._say_what_is_cut(sum(length > self.max_length for length in read))
        with tqdm(total=len(asked), disable=disable_tqdm, desc="loglikelihood") as bar:
            found = log_likelihoods(
                self.model,
                asked,
                row_length=self._row_length,
                max_length=self.max_length,
                report=bar.update,
            )
        for (texts, *_), likelihood in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, tuple(likelihood))
        return [(nats, is_greedy) for nats, is_greedy in found]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihoods of whole texts; each token is predicted once.

        Texts longer than ``max_length`` are cut into windows, as lm-eval does it.
        """
        windows: list[tuple[None, list[int], list[int]]] = []
        counts = []
        for request in requests:
            found = utils.get_rolling_token_windows(
                self.tok_encode(request.args[0], add_special_tokens=False),
                self.prefix_token_id,
                self.max_length,
                context_len=1,
            )
            own = [(None, *utils.make_disjoint_window(window)) for window in found]
            windows += own
            counts.append(len(own))
        scored = iter(self._loglikelihood_tokens(windows, disable_tqdm))
        sums = [sum(next(scored)[0] for _ in range(count)) for count in counts]
        for request, nats in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, nats)
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continues texts up to, and without, a stop string, or the token that ends a document.

        Args:
            requests: each a context and a dictionary with ``until``, ``max_gen_toks``,
                ``do_sample``, ``temperature``, ``top_k`` and ``top_p``, or some of these.
            disable_tqdm: no progress is shown.

        Raises:
            ValueError: if there is another option, or no room for a context.
        """
        alike: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            alike[json.dumps(request.args[1], sort_keys=True)].append(number)
        found = [""] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="generate_until") as bar:
            for numbers in alike.values():
                options = requests[numbers[0]].args[1]
                contexts = [requests[number].args[0] for number in numbers]
                for number, text in zip(numbers, self._texts(contexts, options), strict=True):
                    found[number] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
                bar.update(len(numbers))
        return found

    def _texts(self, contexts: Sequence[str], options: dict[str, Any]) -> list[str]:
        given = normalize_gen_kwargs(options, _NEW_TOKENS)
        until = [stop for stop in handle_stop_sequences(given.pop("until", None), None) if stop]
        most = given.pop("max_gen_toks")
        sampling = {name: given.pop(name) for name in _SAMPLING if name in given}
        sampled = given.pop("do_sample", False)
        _check_known("generation option", given, _OPTIONS)
        if most >= self.max_length:
            raise ValueError(
                f"max_gen_toks ({most}) leaves no room for a context in {self.max_length} tokens: "
                "set a lower one"
            )
        if not sampled:
            sampling = {}
        elif "temperature" not in sampling:
            sampling["temperature"] = 1.0
        room = self.max_length - most
        prompts = [self.tok_encode(text) or [self._bos] for text in contexts]
        self._say_what_is_cut(sum(len(prompt) > room for prompt in prompts))
        return self._written([prompt[-room:] for prompt in prompts], most, until, sampling)

    def _say_what_is_cut(self, count: int) -> None:
        if count:
            log.warning(
                "%s lost the beginning: the model reads %s tokens (max_length)",
                counted(count, "context"),
                f"{self.max_length:,}",
            )

    def _written(
        self, prompts: list[list[int]], most: int, until: list[str], sampling: dict[str, Any]
    ) -> list[str]:
        """Texts of new tokens. What is written is looked at now and then, to stop where it ends."""
        new: list[list[int]] = [[] for _ in prompts]
        unfinished, length = list(range(len(prompts))), 0
        while unfinished:
            count = min(most - length, max(length, _FIRST_TOKENS))
            more = generate(
                self.model,
                [prompts[number] + new[number] for number in unfinished],
                max_new_tokens=count,
                stop_tokens=[self._eos],
                seed=length,
                **sampling,
            )
            for number, tokens in zip(unfinished, more, strict=True):
                new[number] += tokens
            length += count
            unfinished = [
                number
                for number in unfinished
                if length < most
                and self._eos not in new[number]
                and not any(stop in self._decoded(new[number]) for stop in until)
            ]
        return [_until(self._decoded(tokens), until) for tokens in new]

    def _decoded(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)


def _extend(model: GPT, max_length: int) -> None:
    reached = model.max_position
    try:
        model.extend(max_length)
    except ValueError as error:
        raise ValueError(
            f"max_length ({max_length:,}) must be at most {reached:,}, the longest document of "
            f"training: {error}; leave it out to cut contexts there"
        ) from error


def _check_known(kind: str, given: Collection[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{kind} {name} is not known: use {', '.join(known)}")


def _until(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.partition(stop)[0]
    return text
