"""Models that are built without memory and get their initial values later, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from packformer.model.initialization import at_the_same_time

_EMPTY = torch.ops.aten.empty.memory_format
_DRAWS = torch.Tag.nondeterministic_seeded
_OVERWRITING = {
    getattr(torch.ops.aten, name)
    for name in ("normal_", "uniform_", "fill_", "zero_", "copy_", "bernoulli_", "random_")
}


_DEPENDENT = (
    "a model that is built in shards cannot have initial values that depend on others, as those of "
    "orthogonal_ and trunc_normal_: draw them with normal_ or uniform_"
)


class _Call(NamedTuple):
    """An operator that changes a tensor in place, or draws random numbers for one that has memory.

    ``storage`` names what it changes, None for the latter; ``view`` is the part of the storage;
    ``state`` is that of the generator it draws from, None for the global one.
    """

    function: Any
    storage: int | None
    view: tuple[Any, Any, Any] | None
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    state: Tensor | None = None

    @property
    def draws(self) -> bool:
        """Whether it moves the global generator on."""
        return _DRAWS in self.function.tags and self.state is None

    def on(self, buffer: Tensor) -> None:
        """Applies it to a flat tensor that stands for the storage."""
        assert self.view is not None
        keywords = self.keywords
        if self.state is not None:
            generator = torch.Generator()
            generator.set_state(self.state)
            keywords = {**keywords, "generator": generator}
        self.function(buffer.as_strided(*self.view), *self.arguments, **keywords)

    def draw(self) -> None:
        """Draws its numbers and forgets them."""
        if self.view is None:
            self.function(*self.arguments, **self.keywords)
            return
        size, stride, _ = self.view
        scratch = torch.empty_strided(size, stride)
        self.function(scratch, *self.arguments, **self.keywords)


class Deferred(TorchDispatchMode):
    """Within it, uninitialised CPU tensors take no memory; what would fill them is written down.

    ``values`` then makes the numbers that there would have been, bit for bit: what has a generator
    of its own a few tensors at the same time, and all other draws in their order, from the state
    that the CPU's generator had. Entered again, it writes down what replaces these values, as
    ``load_state_dict`` does.

    Deferred are tensors of ``torch.empty``, as torch's layers make them. All others, such as tables
    of positions, are real from the beginning.

    Raises:
        ValueError: where initial values depend on values that were drawn before, as those of
            ``orthogonal_`` and ``trunc_normal_`` do.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[_Call] = []
        self._drawn = 0  # calls that have moved the generator on
        self._sizes: dict[int, tuple[int, torch.dtype]] = {}
        self._kept: list[Tensor] = []  # so that no address of a storage is used twice
        self._state: Tensor | None = None

    def __enter__(self) -> Deferred:
        if self._state is None:
            self._state = torch.get_rng_state()
        self._sampler = _no_rejection(nn.init._no_grad_trunc_normal_)
        self._sampler.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._sampler.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        keywords = kwargs or {}
        first = args[0] if args else None
        if func is _EMPTY and torch.device(keywords.get("device") or "cpu").type == "cpu":
            made = func(*args, **{**keywords, "device": "meta", "pin_memory": False})
            self._kept.append(made)
            elements = made.untyped_storage().nbytes() // made.itemsize
            self._sizes[_storage_of(made)] = (elements, made.dtype)
            return made
        if isinstance(first, Tensor) and _storage_of(first) in self._sizes:
            if not func._schema.is_mutable:
                return func(*args, **keywords)
            if any(isinstance(arg, Tensor) and arg.is_meta for arg in args[1:]):
                raise ValueError(_DEPENDENT)
            generator = keywords.get("generator")
            state = None if generator is None else generator.get_state()
            call = _Call(func, _storage_of(first), _view_of(first), args[1:], keywords, state)
            self._calls.append(call)
            return first
        if _DRAWS in func.tags:
            for call in self._calls[self._drawn :]:
                if call.draws:
                    call.draw()
            view = _view_of(first) if isinstance(first, Tensor) else None
            rest = args if view is None else args[1:]
            self._calls.append(_Call(func, None, view, rest, keywords))
            self._drawn = len(self._calls)
        return func(*args, **keywords)

    def names_in(self, module: nn.Module) -> dict[str, tuple[int, Any]]:
        """Which deferred storage, and which part of it, each parameter or buffer of ``module`` is.

        To be asked before the module is sharded, which replaces its parameters.
        """
        tensors = [
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        ]
        return {
            name: (_storage_of(tensor), _view_of(tensor))
            for name, tensor in tensors
            if _storage_of(tensor) in self._sizes
        }

    def values(self, places: dict[str, tuple[int, Any]]) -> Iterator[tuple[str, Tensor]]:
        """The values of each parameter or buffer, on the CPU; every name once.

        Args:
            places: from ``names_in``.
        """
        names: dict[int, list[tuple[str, Any]]] = {}
        for name, (storage, view) in places.items():
            names.setdefault(storage, []).append((name, view))
        counting = {storage: self._counting(storage) for storage in names}
        in_order = {s for s, calls in counting.items() if any(call.draws for call in calls)}

        def made(storage: int) -> tuple[int, Tensor]:
            buffer = self._empty(storage)
            for call in counting[storage]:
                call.on(buffer)
            return storage, buffer

        by_themselves = at_the_same_time(made, [s for s in names if s not in in_order])
        for storage, buffer in chain(by_themselves, self._drawn_in_order(in_order, counting)):
            for name, view in names[storage]:
                yield name, buffer.as_strided(*view)

    def _drawn_in_order(
        self, wanted: set[int], counting: dict[int, list[_Call]]
    ) -> Iterator[tuple[int, Tensor]]:
        """Storages that the global generator fills, with what it drew between them."""
        assert self._state is not None
        torch.set_rng_state(self._state)
        ends = {storage: counting[storage][-1] for storage in wanted}
        counts = {id(call) for storage in wanted for call in counting[storage]}
        buffers: dict[int, Tensor] = {}
        for call in self._calls:
            if not ends:
                return
            storage = call.storage
            if id(call) not in counts:
                if call.draws:
                    call.draw()
                continue
            assert storage is not None
            if storage not in buffers:
                buffers[storage] = self._empty(storage)
            call.on(buffers[storage])
            if call is ends[storage]:
                del ends[storage]
                yield storage, buffers.pop(storage)

    def _empty(self, storage: int) -> Tensor:
        elements, dtype = self._sizes[storage]
        return torch.empty(elements, dtype=dtype)

    def _counting(self, storage: int) -> list[_Call]:
        """The calls that what is in the storage follows from."""
        first = self._first_that_counts(storage)
        return [call for call in self._calls[first:] if call.storage == storage]

    def _first_that_counts(self, storage: int) -> int:
        """The last call that writes the whole storage whatever was there; what came before is void.

        Raises:
            ValueError: if nothing was ever written there.
        """
        found = None
        for at, call in enumerate(self._calls):
            if call.storage != storage:
                continue
            assert call.view is not None
            whole = _elements(call.view[0]) == self._sizes[storage][0]
            if found is None or (whole and call.function.overloadpacket in _OVERWRITING):
                found = at
        if found is None:
            raise ValueError("a parameter of the model has no initial values: nothing sets them")
        return found


@contextmanager
def _no_rejection(sample: Any) -> Iterator[None]:
    """Refuses what torch would leave out in silence: samples that are rejected by their values."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ValueError(_DEPENDENT)

    nn.init._no_grad_trunc_normal_ = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        nn.init._no_grad_trunc_normal_ = sample


def _storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _view_of(tensor: Tensor) -> tuple[Any, Any, Any]:
    return tuple(tensor.shape), tensor.stride(), tensor.storage_offset()


def _elements(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
