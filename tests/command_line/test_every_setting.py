"""Every setting has a rule, which is checked before torch is imported."""

from __future__ import annotations

import inspect
import pickle
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from packformer.command_line.checks import check_configuration
from packformer.command_line.early import CLASSES
from packformer.command_line.grammar import read_value
from packformer.corpus.formats import FORMATS
from packformer.corpus.readers.tables import QUOTINGS
from packformer.corpus.tokenizer import MIN_VOCAB, MOST_VOCAB
from packformer.requirements import TEXT_FILES, VOCABULARY
from packformer.run.strategies import STRATEGIES
from packformer.run.targets import imported

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))
import wrong_settings

EXPERIMENTS = sorted(
    file.stem for file in (Path(__file__).parents[2] / "conf" / "experiment").glob("*.yaml")
)
_OF_THE_RUN = {
    *("width", "num_heads", "head_dim", "max_position", "attention", "position"),
    *("model", "params", "step", "data_set", "packing", "folder", "name", "group", "config"),
}


def _compose(words: tuple[str, ...]) -> Any:
    with initialize_config_module("packformer.conf", version_base="1.3"):
        return compose("config", list(words))


_all_wrong = cache(wrong_settings.all_wrong)


def _refusal(config: Any) -> str | None:
    try:
        check_configuration(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    except ValueError as error:
        return f"error: {error}"
    return None


@pytest.mark.parametrize(
    "choices", [choices for choices, _ in wrong_settings.CHOICES], ids=" ".join
)
def test_every_wrong_value_is_one_line_that_names_the_setting(choices: tuple[str, ...]) -> None:
    config = pickle.dumps(_compose(choices))
    fallen = []
    for wrong in _all_wrong():
        of_a_leaf = wrong.kind not in ("misspelt", "relation") and "group" not in wrong.kind
        if wrong.choices != choices or not of_a_leaf:
            continue
        name, _, value = wrong.words[0].partition("=")
        changed = pickle.loads(config)  # in a sixth of the time of a copy
        OmegaConf.update(changed, name, read_value(value), merge=False)
        told = _refusal(changed)
        verdict = wrong_settings.judge(wrong, int(told is not None), told or "")
        if verdict != "clear":
            fallen.append(f"{wrong.words[0]}: {verdict} {told}")
    assert not fallen, "\n".join(fallen)


@pytest.mark.parametrize("target", [t for t, known in CLASSES.items() if known.complete])
def test_the_rules_are_of_all_settings_of_a_class(target: str) -> None:
    parameters = set(inspect.signature(imported("x", target)).parameters)
    assert set(CLASSES[target].rules) - _OF_THE_RUN == parameters - _OF_THE_RUN


def test_the_words_are_those_there_are() -> None:
    for name, words in {"format": FORMATS, "quoting": QUOTINGS}.items():
        assert TEXT_FILES[name].text == f"one of {', '.join(words)}"
    assert VOCABULARY.holds(MIN_VOCAB)
    assert not VOCABULARY.holds(MIN_VOCAB - 1)
    assert VOCABULARY.most == MOST_VOCAB


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_pass(experiment: str) -> None:
    config = _compose((f"+experiment={experiment}",))
    if OmegaConf.missing_keys(config):
        config.data.path = str(Path(__file__))
    assert _refusal(config) is None


RIGHT = {
    "model.vocab_size": [None, 1, 50304],
    "model.num_layers": [1, 7, 96],
    "model.width": [12, 960],
    "model.hidden_width": [None, 1, 1000],
    "model.norm_eps": [None, 1e-12, 0.1],
    "model.init_std": [0, 1, 0.5],
    "model.embedding_std": [None],
    "attention.head_dim": [None, 2, 128],
    "attention.num_kv_heads": [None, 1, 3, 6],
    "attention.window": [None, 1, 10**6],
    "attention.soft_cap": [None, 1, 50.0],
    "position.base": [1, 5e5],
    "packing.max_document_length": [None, 2, 10**6],
    "packing.row_length": [2, 10**6],
    "loader.num_workers": [0, 64],
    "optimizer.learning_rate": [1, 1e-12],
    "optimizer.weight_decay": [0, 1],
    "optimizer.beta1": [0, 0.999],
    "optimizer.embedding_rate_factor": [1, 0.1, 30],
    "scheduler.num_steps": [1, 10**9],
    "scheduler.warmup_steps": [0, 10**6],
    "scheduler.final_factor": [0, 1],
    "trainer.max_steps": [1, 10**9],
    "trainer.rows_per_step": [1, 4096],
    "trainer.devices": [1, "auto", -1, [0, 1]],
    "trainer.strategy": [*STRATEGIES, {"_target_": "packformer.training.DDP"}, None],
    "max_grad_norm": [None, 1e-3, 10],
    "seed": [0, 2**32 - 1],
    "compile": [True, False, "auto", "blocks"],
    "loss_chunk": ["auto", 1, 10**6],
    "z_loss": [None, 1e-5, 1],
    "weight_decay_schedule": ["constant", "learning_rate", "linear", "cosine"],
    "callbacks.samples.prompts": [None, [], ["Once"]],
    "callbacks.samples.temperature": [0, 2.5],
    "callbacks.last_checkpoint.every_minutes": [0.1, 600],
    "callbacks.records": [None],
    "logger.wandb": [None],
    "logger.wandb.tags": [["a", "b"]],
    "name": ["x", 7, "a b"],
}


@pytest.mark.parametrize("setting", RIGHT)
def test_right_values_pass(setting: str) -> None:
    config = _compose(("data=copying",))
    for value in RIGHT[setting]:
        changed = config.copy()
        if setting == "trainer.devices":
            changed.trainer.rows_per_step = 2
        if setting == "scheduler.num_steps":
            changed.scheduler.warmup_steps = 0
        OmegaConf.update(changed, setting, value, merge=False)
        assert _refusal(changed) is None, value
