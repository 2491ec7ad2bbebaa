"""What cannot be built is told before data are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from packformer.run.build import build_data

NOTHING = """
def nothing(*args, **settings):
    return None
"""


RAISES = """
from packformer.nn import NoPosition, Rotary

def trouble(*args, **settings):
    raise ValueError("my own trouble")

def odd(*, size, **settings):
    raise ValueError(f"size ({size}) must be odd")

def bug(*args, **settings):
    raise KeyError("no value")

class Own(NoPosition):
    def __init__(self, **sizes):
        raise FileNotFoundError(2, "No such file", "table")

class Turned(Rotary):
    pass
"""


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Functions and classes of the user's that raise errors, in a module ``raises``."""
    (tmp_path / "raises.py").write_text(RAISES)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def without_data(train: Callable, tmp_path: Path) -> Callable:
    """A run whose data are an empty folder, which is told when they are read."""
    (tmp_path / "empty").mkdir()
    return lambda *overrides: train("data=text", "data.path=empty", "logger=csv", *overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.width=abc", "width (abc) must be a whole number"),
        ("model.num_heads=5", "width (192) must be divisible by model.num_heads (5)"),
        ("attention.window=0", "window (0) must be a whole number"),
        ("position.base=0", "base (0) must be a number above 0"),
        ("packing.row_length=1", "row_length (1) must be a whole number"),
        ("scheduler.warmup_steps=-1", "scheduler.warmup_steps (-1) must be"),
        ("attention.kernel=flash4", "attention kernel flash4 cannot run this variant"),
        ("+model.depth=3", "there is no setting model.depth: model takes vocab_size, "),
        (
            "+attention.depth=3",
            "there is no setting attention.depth: attention takes head_dim, num",
        ),
        ("+position.depth=3", "there is no setting position.depth: position takes base, scaling"),
        (
            "+optimizer.lr=1",
            "there is no setting optimizer.lr: did you mean optimizer.learning_rate?",
        ),
        ("+loader.num_worker=1", "did you mean loader.num_workers?"),
        (
            "+callbacks.records.x=1",
            "there is no setting callbacks.records.x: callbacks.records takes",
        ),
        (
            "trainer.strategy=foo",
            "trainer.strategy (foo) must be one of auto, ddp, ddp_find_unused",
        ),
        ("+trainer.max_time=abc", "trainer.max_time (abc) must be DAYS:HOURS:MINUTES"),
        ("callbacks.last_checkpoint.every_minutes=0", "every_minutes (0) must be a number above 0"),
        ("attention._target_=nowhere.Mine", "attention._target_ (nowhere.Mine) cannot be imported"),
        (
            "model._target_=packformer.model.GPTT",
            "model._target_ (packformer.model.GPTT) does not exist: did you mean packformer.model.",
        ),
    ],
)
def test_it_is_told_before_data_are_read(
    without_data: Callable, override: str, message: str
) -> None:
    done = without_data(override)
    assert done.code == 1
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_a_field_of_ones_own_kernel_is_told_before_data_are_read(
    without_data: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "windless.py").write_text(
        "from dataclasses import replace\n"
        "from packformer.attention import KERNELS\n"
        "mine = replace(KERNELS['reference'], name='mine', features={'windw'})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    done = without_data("attention.kernel=windless.mine")
    assert done.code == 1
    assert "attention.kernel (windless.mine) cannot be imported: Kernel.features ('wi" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("position", ["rotary", "learned", "none", "alibi"])
@pytest.mark.parametrize("model", ["tiny", "gpt_1b"])
def test_what_can_be_built_comes_to_the_data(
    without_data: Callable, position: str, model: str
) -> None:
    done = without_data(f"position={position}", f"model={model}", "attention=mha")
    assert "empty holds no file" in done.err


def test_a_class_that_takes_anything_is_not_asked_for_names(
    without_data: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "from packformer.model import SelfAttention\n"
        "def attention(width, num_heads, **settings):\n"
        "    settings.pop('extra')\n"
        "    return SelfAttention(width, num_heads, **settings)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    done = without_data("attention._target_=mine.attention", "+attention.extra=1")
    assert "empty holds no file" in done.err


@pytest.mark.parametrize("override", ["model", "attention", "position", "optimizer"])
def test_a_function_needs_no_partial(without_data: Callable, override: str) -> None:
    done = without_data(f"++{override}._partial_=false")
    assert "empty holds no file" in done.err


def test_a_loader_needs_no_partial() -> None:
    with initialize_config_module("packformer.conf", version_base="1.3"):
        config = compose("config", ["data=copying", "++loader._partial_=false"])
    assert build_data(config).row_length == 1024


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("model", "model._target_ made NoneType: it must make a GPT"),
        ("packing", "packing._target_ made NoneType: it must make a PackingSettings"),
        ("attention", "attention (nothing) returned NoneType: it must return a SelfAttention"),
        ("position", "position (nothing) returned NoneType: it must return a Position"),
        ("optimizer", "optimizer (nothing) returned NoneType: it must return a torch optimizer"),
        ("scheduler", "scheduler (nothing) returned NoneType: it must return a factor"),
    ],
)
def test_what_makes_nothing_is_named(
    without_data: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    group: str,
    message: str,
) -> None:
    (tmp_path / "makes_nothing.py").write_text(NOTHING)
    monkeypatch.syspath_prepend(tmp_path)
    done = without_data(f"{group}._target_=makes_nothing.nothing")
    assert done.err.startswith(f"error: {message}")
    assert len(done.err.splitlines()) == 1
    assert done.code == 1


@pytest.mark.parametrize(
    "group", ["model", "packing", "attention", "position", "optimizer", "scheduler", "data"]
)
def test_what_raises_an_error_of_its_own_is_named(
    without_data: Callable, raising: None, group: str
) -> None:
    done = without_data(f"{group}._target_=raises.trouble")
    assert done.err == f"error: {group} (trouble): my own trouble\n"


def test_a_callback_or_logger_that_raises_an_error_of_its_own_is_named(
    train: Callable, small: list[str], raising: None
) -> None:
    for group in ("callbacks", "logger"):
        done = train(*small, "logger=csv", f"+{group}.mine._target_=raises.trouble")
        assert done.err.splitlines()[-1] == f"error: {group}.mine (trouble): my own trouble"
    done = train(*small, "+callbacks.mine._target_=raises.bug")
    assert done.err.splitlines()[-1] == "error: callbacks.mine (bug): KeyError: 'no value'"


def test_layers_of_a_letter_that_raise_an_error_of_their_own_are_named(
    without_data: Callable, raising: None
) -> None:
    own = "++layers.S.position={_target_: raises.Own}"
    done = without_data("layers=local_global", own)
    assert done.err == "error: layers.S: position (Own): [Errno 2] No such file: 'table'\n"


@pytest.mark.parametrize("target", ["packformer.nn.Rotary", "raises.Turned"])
def test_what_packformer_raises_is_told_as_it_is(
    without_data: Callable, raising: None, target: str
) -> None:
    done = without_data("position=rotary", f"position._target_={target}", "position.base=0")
    assert done.err == "error: position.base (0) must be a number above 0\n"


def test_an_error_that_names_a_setting_is_told_as_it_is(
    without_data: Callable, raising: None
) -> None:
    done = without_data("position=none", "position._target_=raises.odd", "+position.size=4")
    assert done.err == "error: size (4) must be odd\n"


def test_a_loader_that_raises_an_error_of_its_own_is_named(raising: None) -> None:
    with initialize_config_module("packformer.conf", version_base="1.3"):
        config = compose("config", ["data=copying", "loader._target_=raises.trouble"])
    with pytest.raises(ValueError, match=r"^loader \(trouble\): my own trouble$"):
        build_data(config)


def test_a_loader_that_makes_nothing_is_named() -> None:
    with initialize_config_module("packformer.conf", version_base="1.3"):
        config = compose("config", ["data=copying", f"loader._target_={__name__}.no_loader"])
    with pytest.raises(ValueError, match=r"loader._target_ made NoneType: it must make a Packed"):
        build_data(config)


def no_loader(*args: object, **settings: object) -> None:
    """Makes no loader."""


SCHEMES = """
import torch
from packformer.nn import Position

class Own(Position):
    def __init__(self, *, width, num_heads, head_dim, max_position):
        super().__init__()

class Wider(Own):
    def embed(self, x_BMD, position_ids):
        return torch.cat([x_BMD, x_BMD], dim=-1)

class Flat(Own):
    def embed(self, x_BMD, position_ids):
        return x_BMD[0]

class Nothing(Own):
    def embed(self, x_BMD, position_ids):
        x_BMD + 1

class NoSuper(Position):
    def __init__(self, *, width, num_heads, head_dim, max_position):
        self.width = width

class Reading(Own):
    def embed(self, x_BMD, position_ids):
        return x_BMD * int(position_ids.max())

class Counted(Own):
    def embed(self, x_BMD, position_ids):
        return x_BMD + position_ids[:, None]
"""


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (
            "Wider",
            "(Wider): embed made [1, 2, 384] of token embeddings [1, 2, 192]: it must return",
        ),
        ("Flat", "position (Flat): embed made [2, 192] of token embeddings [1, 2, 192]"),
        ("Nothing", "position (Nothing): embed made NoneType of token embeddings [1, 2, 192]"),
        ("NoSuper", "position (NoSuper): __init__ must call super().__init__() before all else"),
        ("Reading", "empty holds no file"),
        ("Counted", "empty holds no file"),
    ],
)
def test_a_scheme_makes_token_embeddings_of_the_same_shape(
    without_data: Callable,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    scheme: str,
    message: str,
) -> None:
    (tmp_path / "my_schemes.py").write_text(SCHEMES)
    monkeypatch.syspath_prepend(tmp_path)
    done = without_data("position=none", f"position._target_=my_schemes.{scheme}")
    assert message in done.err
    assert len(done.err.splitlines()) == 1


ADDED = """
import torch
from torch import nn
from packformer.nn import Position

class Own(Position):
    def __init__(self, *, width, num_heads, head_dim, max_position):
        super().__init__()
        self.num_heads = num_heads

    def distance(self, position_ids):
        return (position_ids[:, None] - position_ids[None, :]).float()

class Shared(Own):
    def bias(self, position_ids):
        return self.distance(position_ids)[None]

class OfHeads(Own):
    def bias(self, position_ids):
        return self.distance(position_ids).expand(self.num_heads, -1, -1)

class Flat(Own):
    def bias(self, position_ids):
        return self.distance(position_ids)

class OfKeys(Own):
    def bias(self, position_ids):
        return position_ids.float().expand(self.num_heads, 1, -1)

class Fixed(Own):
    def bias(self, position_ids):
        return torch.zeros(1, 64, 64)

class OneHeadMore(Own):
    def bias(self, position_ids):
        return self.distance(position_ids).expand(self.num_heads + 1, -1, -1)

class Whole(Own):
    def bias(self, position_ids):
        return self.distance(position_ids)[None].long()

class Number(Own):
    def bias(self, position_ids):
        return 1.0

class TwoSlopes(Position):
    def __init__(self, *, width, num_heads, head_dim, max_position):
        super().__init__(alibi_slopes=torch.ones(2))

class Slopes(Position):
    def __init__(self, *, width, num_heads, head_dim, max_position):
        super().__init__(alibi_slopes=nn.Parameter(torch.ones(num_heads)))

class Unpublished(Position):
    def __init__(self, *, width, num_heads, head_dim, max_position):
        super().__init__(alibi_slopes="publish")

class WithMemory(Flat):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        assert float(torch.ones(1)) == 1
"""


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Position schemes that add to scores, in a module ``added``."""
    (tmp_path / "added.py").write_text(ADDED)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (
            "Flat",
            "position (Flat): bias [2, 2] must be [H or 1, M, M], here [3, 2, 2] or [1, 2, 2]",
        ),
        ("OfKeys", "position (OfKeys): bias [3, 1, 2] must be [H or 1, M, M]"),
        ("Fixed", "position (Fixed): bias [1, 64, 64] must be [H or 1, M, M]"),
        ("OneHeadMore", "position (OneHeadMore): bias [4, 2, 2] must be [H or 1, M, M]"),
        ("Whole", "position (Whole): bias (torch.int64) must be float32 or of q's dtype"),
        ("Number", "position (Number): bias (float) must be a tensor"),
        ("TwoSlopes", "position (TwoSlopes): alibi_slopes [2] must be [3], one per query head"),
        ("Unpublished", "position (Unpublished): alibi_slopes ('publish') must be 'published'"),
        ("Shared", "empty holds no file"),
        ("OfHeads", "empty holds no file"),
        ("Slopes", "empty holds no file"),
    ],
)
def test_what_a_scheme_adds_to_scores_is_checked_before_data_are_read(
    without_data: Callable, tmp_path: Path, scheme: str, message: str
) -> None:
    done = without_data(
        "position=none",
        f"position._target_=added.{scheme}",
        "model.num_heads=3",
        "attention=mha",
        "attention.kernel=reference",
    )
    assert done.code == 1
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.usefixtures("added")
def test_a_scheme_that_needs_memory_is_checked_when_it_is_built(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    done = train(*small, "position=none", "position._target_=added.WithMemory")
    assert done.code == 1
    assert "position (WithMemory): bias [2, 2] must be [H or 1, M, M]" in done.err
    assert len(done.err.splitlines()) == 1
    assert not list(tmp_path.glob("runs/*"))


def test_a_model_with_a_forward_that_training_would_not_call_is_refused(
    without_data: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "halved.py").write_text(
        "from packformer.model import GPT\n"
        "class Same(GPT):\n"
        "    def activations(self, *args):\n"
        "        return super().activations(*args)\n"
        "class Halved(GPT):\n"
        "    def forward(self, *args):\n"
        "        return super().forward(*args) / 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "empty holds no file" in without_data("model._target_=halved.Same").err
    assert without_data("model._target_=halved.Halved").err == (
        "error: model._target_ (Halved) has a forward of its own, which training does not call: "
        "give it activations of its own instead\n"
    )
