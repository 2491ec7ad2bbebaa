"""Draws wrong settings of every kind, and tells how each was refused.

As processes, with a seed and a count:

    python tests/faults/wrong_settings.py --seed 0 --count 300
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

CHOICES = (  # each with the groups whose settings are drawn from it; None for all
    (("data=copying",), None),
    (("data=recall", "position=alibi", "optimizer=muon", "scheduler=constant"), None),
    (("data=random", "trainer=ddp", "logger=tensorboard"), ("data", "trainer", "logger")),
    (("data=sorting", "trainer=fsdp", "attention=mha"), ("data", "trainer", "attention")),
    (("data=text", "data.path=."), ("data",)),
    (("data=shards", "data.path=."), ("data",)),
    ((), ("data",)),
)
"""Words of the command line that choose parts."""

GROUPS = (
    *("model", "attention", "position", "layers", "data", "optimizer", "scheduler", "trainer"),
    *("logger", "callbacks"),
)
_PARTS = ("packing", "loader", "guard")  # groups without choices
_NUMBERS = ("-1", "-0.5", "1e300", "nan", "inf", "-inf", "9" * 40)
_NO_SCALAR = ("[1]", "{a:1}", "[]", "[[1,2],[3]]")
_WRONG: dict[type, tuple[str, ...]] = {  # of a setting whose default has the type
    bool: ("maybe", "7", "null", "''", "-1", "nan", *_NO_SCALAR),
    int: ("maybe", "true", "null", "''", "1.5", "0x10", *_NUMBERS, *_NO_SCALAR),
    float: ("maybe", "true", "null", "''", *_NUMBERS, *_NO_SCALAR),
    str: ("true", "null", "''", *_NO_SCALAR),
    list: ("maybe", "true", "null", "''", "7", "{a:1}", "[null]", "[[1]]"),
    type(None): ("maybe", "true", "''", "nan", "-1", "{a:1}", "[[1]]"),
}
_UNKNOWN = ("nonesuch", "1e9x")  # of settings that are one of some words
_WORDS = (
    *("attention.kernel", "model.activation_checkpointing", "packing.long_documents"),
    *("objective", "compile", "trainer.accelerator", "trainer.precision", "trainer.strategy"),
    *("data.format", "data.quoting", "logger.wandb.mode", "callbacks.checkpoint.monitor"),
    *("trainer.strategy.reduce_dtype", "loss_chunk", "resume", "weight_decay_schedule"),
)
_NOT_ZERO = (  # numbers that 0 makes no sense of
    *("model.num_layers", "model.width", "model.num_heads", "model.vocab_size"),
    *("model.hidden_width", "model.norm_eps", "attention.num_kv_heads", "attention.head_dim"),
    *("attention.window", "attention.soft_cap", "position.base", "packing.row_length"),
    *("packing.max_document_length", "packing.lookahead", "loader.validation_rows"),
    *("loader.max_documents_per_row", "optimizer.learning_rate", "optimizer.eps"),
    *("optimizer.embedding_rate_factor", "optimizer.head_rate_factor"),
    *("scheduler.num_steps", "trainer.max_steps", "trainer.rows_per_step", "trainer.num_nodes"),
    *("trainer.devices", "trainer.validate_every_n_steps", "trainer.log_every_n_steps"),
    *("max_grad_norm", "z_loss", "bpe_vocab_size", "data.num_symbols", "data.validation_documents"),
    *("guard.skips_in_a_row", "guard.spike_window", "callbacks.records.peak_tflops"),
    *("callbacks.samples.max_new_tokens", "callbacks.last_checkpoint.every_minutes"),
)
_RELATED = (  # settings that are right alone and wrong together
    *("model.num_heads=7", "attention.num_kv_heads=4", "attention.head_dim=5"),
    *("model.checkpointed_layers=9", "model.checkpointed_layers=1", "optimizer.beta1=1"),
    *("position=alibi position.slopes=[1]", "scheduler.final_factor=7", "scheduler.num_steps=0"),
    *("position=alibi position.slopes=[-1,1,1,1,1,1]", "optimizer.learning_rate=1e38"),
    *("data=copying data.min_symbols=99", "data=recall data.num_keys=2", "model.vocab_size=0"),
    *("trainer.devices=2 trainer.rows_per_step=3", "packing.row_length=1"),
    *("trainer.accumulate_grad_batches=3", "layers.pattern=SSL", "layers=local_global layers.S=1"),
    *("layers=local_global layers.S.attention.window=0", "position.scaling={factor:8}"),
    *("+callbacks.x=5", "+callbacks.x={}", "+logger.x=5", "+trainer.max_epochs=1"),
    *("+trainer.max_time=1h", "+trainer.max_time={a:1}", "+trainer.profiler=fast"),
    *("+trainer.deterministic=maybe", "+trainer.detect_anomaly=1", "~seed", "~model.width"),
    *("~optimizer", "+experiment=nonesuch", "+debug=nonesuch", "+sweep=nonesuch", "init_from=7"),
    *("init_from=true", "init_from=[1]", "init_from=''", "resume=nonesuch", "seed=1,2", "seed"),
    *(
        "=3",
        "--nonesuch",
        "model.width=",
        "model.width=${nonesuch}",
        "name=a/b",
        "name=..",
    ),
    *("callbacks.checkpoint.mode=5", "+callbacks.checkpoint.save_top_k=x", "data=text"),
)
_LEGAL = {  # draws that are right
    *("trainer.devices=-1", "trainer.strategy=null", "compile=true", "trainer.precision=null"),
    *(
        "max_grad_norm=null",
        "packing.max_document_length=null",
        "callbacks.checkpoint.monitor=null",
    ),
    *(
        "data.longest=null",
        "callbacks.checkpoint.filename=null",
        "loader.validation_rows=null",
    ),
    *("model.norm_eps=null", "trainer.float8=true", "data.weights=[]", "layers.pattern=maybe"),
    *("data.validation_fraction=null", "data.shards_at_once=null", "logger.tensorboard.version=''"),
    *("logger.tensorboard.version=null", "logger.tensorboard.name=null", "init_from=null"),
    *("guard.spike_sigma=null", "attention.num_kv_heads=null", "trainer.devices=[1]"),
    *("callbacks.last_checkpoint.every_minutes=1.5", "data.mean_length=1.5", "data.cache_gib=1.5"),
    *("trainer.strategy.bucket_mb=1.5", "logger.tensorboard.name=''"),
}
_TEXTS = (  # any word will do
    *("name", "output_dir", "data.path", "data.field", "data.tokenizer", "logger.wandb.project"),
    *("logger.wandb.entity", "logger.tensorboard.name", "logger.tensorboard.version", "init_from"),
    *("attention.score_mod", "callbacks.checkpoint.filename", "resume"),
)
_LIMIT_S = 120.0
_PROCESSOR_S = 3.0  # that a refusal may take


@dataclass(frozen=True)
class Wrong:
    """A wrong command line.

    Attributes:
        words: of it, beside those that only choose parts.
        setting: that is wrong.
        kind: of what is wrong.
        choices: what the setting needs to be there.
    """

    words: tuple[str, ...]
    setting: str
    kind: str
    choices: tuple[str, ...] = ()

    @property
    def line(self) -> list[str]:
        """All of it."""
        return [*self.choices, *self.words]


def all_wrong() -> list[Wrong]:
    """Every wrong setting that is drawn from, in an order that does not change."""
    found: dict[tuple[str, ...], Wrong] = {}
    for wrong in (*_of_leaves(), *_of_groups(), *_of_relations()):
        found.setdefault(wrong.words, wrong)
    return list(found.values())


def draw(seed: int, count: int) -> list[Wrong]:
    """``count`` of them, equally often of every setting, as far as there are."""
    chance, by_setting = random.Random(seed), dict[str, list[Wrong]]()
    for wrong in all_wrong():
        by_setting.setdefault(wrong.setting, []).append(wrong)
    drawn: list[Wrong] = []
    for of in by_setting.values():
        chance.shuffle(of)
    while len(drawn) < count and any(by_setting.values()):
        names = [name for name, of in by_setting.items() if of]
        chance.shuffle(names)
        drawn += [by_setting[name].pop() for name in names]
    return drawn[:count]


def leaves(choices: Sequence[str]) -> dict[str, Any]:
    """Every setting of a configuration, with its default."""
    with initialize_config_module("packformer.conf", version_base="1.3"):
        config = compose("config", list(choices))

    def walk(node: Any, place: str) -> Iterator[tuple[str, Any]]:
        for name, value in node.items():
            if isinstance(value, dict) and value:
                yield from walk(value, f"{place}{name}.")
            elif not str(name).startswith("_"):
                yield f"{place}{name}", value

    return dict(walk(OmegaConf.to_container(config, resolve=True), ""))


def _of_leaves() -> Iterator[Wrong]:
    for choices, groups in CHOICES:
        for setting, default in leaves(choices).items():
            if groups is not None and setting.partition(".")[0] not in groups:
                continue
            for value in _wrong_values(setting, default):
                word = f"{setting}={value}"
                if word not in _LEGAL:
                    yield Wrong((word,), setting, _kind(value), choices)
            yield _misspelt(setting, choices)


def _wrong_values(setting: str, default: Any) -> Iterator[str]:
    if setting in _TEXTS:
        yield from ("true", "''", *_NO_SCALAR[1 if setting == "data.path" else 0 :])
        return
    yield from _WRONG[type(default)]
    if setting in _WORDS:
        yield from _UNKNOWN
    if setting in _NOT_ZERO:
        yield "0"


def _misspelt(setting: str, choices: tuple[str, ...]) -> Wrong:
    """With two letters of its last name in each other's place."""
    place, _, last = setting.rpartition(".")
    middle = max(1, len(last) // 2)
    swapped = last[: middle - 1] + last[middle : middle + 1] + last[middle - 1] + last[middle + 1 :]
    swapped = swapped if swapped != last else f"{last}s"
    name = f"{place}.{swapped}" if place else swapped
    return Wrong((f"{name}=1",), name, "misspelt", choices)


def _of_groups() -> Iterator[Wrong]:
    for group in GROUPS:
        for value in ("null", "5", "nonesuch", "true", "''", "[1]", "{a:1}", "1.5", "nan"):
            word = f"{group}={value}"
            yield Wrong((word,), group, f"group: {_kind(value)}")
        yield Wrong((f"{group}s=x",), f"{group}s", "misspelt")
    for part in _PARTS:
        for value in ("null", "5", "nonesuch", "true", "''", "[1]", "{a:1}", "1.5", "nan"):
            yield Wrong((f"{part}={value}",), part, f"group: {_kind(value)}")


def _of_relations() -> Iterator[Wrong]:
    for line in _RELATED:
        words = tuple(line.split(" "))
        setting = words[-1].lstrip("+~-").partition("=")[0] or words[-1]
        yield Wrong(words, setting, "relation")


def _kind(value: str) -> str:
    kinds = {
        "null": "null",
        "''": "empty",
        "nan": "not a number",
        "inf": "infinite",
        "-inf": "infinite",
        "true": "flag",
        "0": "zero",
        "1e300": "huge",
        "9" * 40: "huge",
    }
    if value[0] == "[":
        return "list"
    if value[0] == "{":
        return "dictionary"
    return kinds.get(value, "negative" if value[0] == "-" else "wrong word")


def judge(wrong: Wrong, code: int, told: str) -> str:
    """How it was refused: ``clear``, ``unclear``, ``traceback`` or ``accepted``.

    Clear is one line that names the setting with its group, and its value unless the name alone is
    wrong.

    Args:
        wrong: what was given.
        code: that the command ended with.
        told: its standard error.
    """
    if "Traceback" in told:
        return "traceback"
    if code == 0:
        return "accepted"
    lines = told.strip().splitlines()
    if len(lines) != 1 or not lines[0].startswith("error: "):
        return "unclear"
    return "clear" if _names(wrong, lines[0]) else "unclear"


def _names(wrong: Wrong, line: str) -> bool:
    # Of `packing={a:1}` it is the name `packing.a` that is wrong.
    is_inner = wrong.kind == "group: dictionary"
    setting = f"{wrong.setting}.a" if is_inner else wrong.setting
    if not re.search(rf"(?<![\w.]){re.escape(setting)}(?![\w])", line):
        return False
    name_alone = is_inner or wrong.kind in ("misspelt", "relation")
    return name_alone or _shows(wrong.words[-1].partition("=")[2], line)


def _shows(value: str, line: str) -> bool:
    shown = {
        "true": ("(true)", "=true"),
        "''": ("empty", "''"),
        "{a:1}": ("{'a': 1}", "{a:1}"),
        "1e300": ("1e+300", "1e300"),
    }
    ways = shown.get(value, (value, value.replace(",", ", ")))
    return any(way in line for way in ways)


def _as_process(wrong: Wrong, folder: str) -> tuple[str, str, float]:
    """The verdict, what was told, and seconds of processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "train", *wrong.line]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return "hang", "", _LIMIT_S
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return judge(wrong, done.returncode, done.stderr), done.stderr.strip(), seconds


def main() -> int:
    """Runs every draw as a process and prints the table of verdicts; 1 if one fell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    options = parser.parse_args()
    table, slowest, fell = Counter[str](), 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for wrong in draw(options.seed, options.count):
            verdict, told, seconds = _as_process(wrong, folder)
            table[verdict] += 1
            slowest = max(slowest, seconds)
            if verdict != "clear" or seconds > _PROCESSOR_S:
                fell += 1
                print(
                    f"{verdict} {seconds:.1f} s  {' '.join(wrong.line)}: {told[-300:]}", flush=True
                )
    print(f"seed {options.seed}: {dict(table)}, the slowest took {slowest:.1f} s of processor time")
    return int(fell > 0)


if __name__ == "__main__":
    sys.exit(main())
