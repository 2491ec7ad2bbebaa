"""Names and choices are checked before torch is imported, and against what there really is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from packformer.attention import KERNELS
from packformer.command_line.checks import CHOICES
from packformer.data.settings import LONG_DOCUMENT_POLICIES
from packformer.model.block import ACTIVATION_CHECKPOINTING
from packformer.run.build import PROFILERS
from packformer.run.device import PRECISIONS
from packformer.run.wandb import MODES, Mode


def test_the_choices_are_those_there_are() -> None:
    assert set(CHOICES["attention.kernel"]) == {"auto", *KERNELS}
    assert CHOICES["model.activation_checkpointing"] == ACTIVATION_CHECKPOINTING
    assert CHOICES["packing.long_documents"] == LONG_DOCUMENT_POLICIES
    assert CHOICES["trainer.precision"] == ("auto", *PRECISIONS)
    assert CHOICES["trainer.profiler"] == (*PROFILERS, None)
    assert CHOICES["logger.wandb.mode"] == MODES
    assert set(MODES) == {"auto", *get_args(Mode)}


WRONG = {
    "attention.kernel=flexx": "attention.kernel (flexx) must be one of auto, flash4, xformers, "
    "flex, sdpa, reference: did you mean flex?",
    "compile=1": "compile (1) must be one of auto, true, false, blocks",
    "trainer.float8=yes": "trainer.float8 (yes) must be one of false, true, emulate",
    "trainer.precision=bf16": "trainer.precision (bf16) must be one of auto, 32-true",
    "trainer.accelerator=gpus": "did you mean gpu?",
    "model.activation_checkpointing=ful": "did you mean full?",
    "packing.long_documents=null": "packing.long_documents (null) must be one of split",
    "objective=val/los": "did you mean val/loss?",
    "+trainer.profiler=x": "trainer.profiler (x) must be one of simple, advanced, pytorch, null",
    "+trainer.max_epochs=1": "trainer.max_epochs (1) cannot be set: the data have no end",
    "+trainer.gradient_clip_val=1e-12": "(1e-12) cannot be set: use max_grad_norm",
    "trainer.max_step=5": "there is no setting trainer.max_step: did you mean trainer.max_steps?",
    "trainer.max_steps=0": "trainer.max_steps (0) must be a whole number from 1 up",
    "experiment=gqa": "nothing of experiment is chosen yet, so it is added: write +experiment=gqa",
    "attention=gqq": "there is no attention=gqq: did you mean attention=gqa?",
    "+atention=gqa": "there is no setting atention: did you mean attention=gqa?",
    "seed=1,2": "a sweep over them needs -m",
    "data.path=a[1]": "write 'data.path=\"a[1]\"'",
    "callbacks.checkpoint.monitor=val/los": "callbacks.checkpoint.monitor (val/los) is not "
    "measured: did you mean val/loss?",
    "+trainer.deterministic=true": "trainer.deterministic (True) cannot be set: use deterministic=",
    "deterministic=maybe": "deterministic (maybe) must be one of true, false",
    "+trainer.detect_anomaly=1": "trainer.detect_anomaly (1) must be one of true, false",
    "trainer.num_nodes=x": "trainer.num_nodes (x) must be a whole number from 1 up",
    "name=a/b": "name (a/b) must begin with",
    "resume=/no/such/run": "resume=/no/such/run: there is no checkpoint /no/such/run; give auto",
    "loss_chunk=x": "loss_chunk (x) must be a whole number from 1 up, or auto",
    "packing.policy=concatenate data=recall": "packing.policy (concatenate) would cut answers from",
    "guard.skips_in_a_row=0": "guard.skips_in_a_row (0) must be a whole number from 1 up",
    "guard.spike_sigma=-1": "guard.spike_sigma (-1) must be a number above 0, or null",
    "guard.spike_window=3": "guard.spike_window (3) must be a whole number from 4 up",
    "+guard.patience=3": "there is no setting guard.patience",
    "guard=null": "guard (null) must hold settings",
    "max_grad_norm=0": "max_grad_norm (0) must be a number above 0",
    "resume=null": "resume (null): give auto, never",
    "resume=": "resume (empty): give auto, never",
    "guard=true": "guard (true) must hold settings: write guard.SETTING=VALUE",
    "guard={skip:1}": "there is no setting guard.skip: guard has skips_in_a_row",
    "model=''": "there is no model='': there are gpt_124m",
    "init_from=nonesuch": "init_from (nonesuch) does not exist: give a run folder",
    "+callbacks.x=5": "callbacks.x (5) must have a _target_, a callback of Lightning's",
    "+data.sed=1": "there is no setting data.sed: ",
    "optimizer.learning_rate=1e38": "optimizer.learning_rate (1e+38) must be at most 1e+09",
    "scheduler.final_factor=7": "scheduler.final_factor (7) must be at most 1",
    "loader=3": "loader (3) must hold settings: write loader.SETTING=VALUE",
    "callbacks=[1,2]": "callbacks=[1,2] must name choices: 1 is none, there are default",
    "resume=atuo": "there is no checkpoint atuo; did you mean resume=auto? Else give auto",
    "resume=folder model.num_layers=4 packing.lookahead=9": "cannot continue with other settings: "
    "model.num_layers: 6 in the run, 4 now; packing.lookahead: 8 in the run, 9 now: leave out what",
    "--cgf": "there is no option --cgf: did you mean --cfg?",
    "-cfg": "there is no option -cfg: did you mean --cfg?",
    "--cfg=jb": "option --cfg/-c: invalid choice: 'jb' (choose from 'job', 'hydra', 'all')",
    "=": "= names no setting: write NAME=VALUE, without spaces around =",
    "data=shards": "data.path is needed and not given: write data.path=my_corpus (a folder that ",
    "data=text": "data.path is needed and not given: write data.path=my_texts (a file or folder)",
    "name=${x}.txt": "name=${x}.txt refers to a setting x, and there is none: if it is meant as "
    "text, write 'name=\"\\${x}.txt\"'",
    "name=${oc.env:NONE_SUCH}": "refers to the environment variable NONE_SUCH, which is not set",
    "trainer.devices=two": "trainer.devices (two) must be a number from 1 up, auto, -1 (all GPUs)",
    "+trainer.max_time=1h": "trainer.max_time (1h) must be DAYS:HOURS:MINUTES:SECONDS: write",
    "model.width=0": "width (0) must be a whole number from 1 up",
    "model.num_heads=7": "width (192) must be divisible by model.num_heads (7)",
    "model.tie_embeddings=maybe": "tie_embeddings (maybe) must be true or false",
    "attention.num_kv_heads=4": "num_heads (6) must be divisible by attention.num_kv_heads (4)",
    "attention.head_dim=0": "head_dim (0) must be a whole number from 1 up",
    "attention.head_dim=5": "head_dim (5) must be even with rotary positions: change",
    "model.norm_eps=0": "norm_eps (0) must be a number above 0",
    "position.scaling={factor:8}": "position.scaling ({'factor': 8}) must hold factor, ",
    "attention.window=0": "window (0) must be a whole number from 1 up, or null",
    "attention.qk_norm=7": "qk_norm (7) must be true or false",
    "position.base=-1": "base (-1) must be a number above 0",
    "optimizer.learning_rate=x": "optimizer.learning_rate (x) must be a number above 0",
    "optimizer.beta2=1": "optimizer.beta2 (1) must be a number from 0 up, and below 1",
    "scheduler.warmup_steps=-1": "scheduler.warmup_steps (-1) must be a whole number from 0 up",
    "+attention.width=32": "attention.width (32) cannot be set, as the model sets it: set model.wi",
    "+attention.num_heads=32": "cannot be set, as the model sets it: set model.num_heads",
    "+position.head_dim=8": "cannot be set, as the model sets it: set attention.head_dim",
    "+position.max_position=8": "cannot be set, as the model sets it: set packing.max_document_len",
    "+model.attention=mha": "cannot be set, as the run sets it: choose attention=NAME",
    "+model.position=3": "cannot be set, as the run sets it: choose position=NAME",
    "+model.max_position=3": "cannot be set, as the run sets it: set packing.max_document_length",
    "layers.pattern=SL": "has no letter with settings of its own: write layers=local_global layers",
    "layers.pattern=SL +layers.S.attention.windw=3": "there is no setting layers.S.attention.windw:"
    " did you mean layers.S.attention.window?",
    "+layers.S.attention.window=3": "layers.S changes no layer, as layers.pattern is null: choose",
    "+logger.api_key=1234": "logger.api_key looks like a secret",
    "data=text data.path=pipe": "data.path pipe is a named pipe: give a file or folder, or pipe in",
    "data=text data.path=https://x.org/a": "data.path https://x.org/a is a URL, and text is read f",
    "data=text data.path=lost": "data.path lost is a link to nowhere, which leads nowhere: give a",
    "data=text data.path=nowhere": "data.path nowhere does not exist: give a file or folder",
    "data=text data.path=. data.tokenizer=pipe": "data.tokenizer pipe is a named pipe: give the pa",
    "data.tokenizer=folder": "data.tokenizer folder is a folder: give the path of a tokenizer.json",
    "data=shards data.path=pipe": "data.path pipe is a named pipe, no corpus of token shards: give",
    "data=shards data.path=folder": "data.path folder is no corpus of token shards, it has no mani",
    "data=shards data.path=[http://x/y,a.txt]": "data.path a.txt is a file, no corpus of token sha",
    "init_from=pipe": "init_from (pipe) is a named pipe: give a run folder, a checkpoint of one, o",
    "init_from=texts": "init_from (texts) holds no checkpoint: give a run folder",
    "init_from=a.txt": "init_from (a.txt) lies in no run folder, there is no config.yaml above .:",
    "resume=pipe": "resume=pipe is a named pipe: give auto, never, a run folder or a .ckpt file",
    "resume=pipe.ckpt": "resume=pipe.ckpt is a named pipe: give auto, never",
    "resume=pipes.ckpt": "there is no checkpoint pipes.ckpt; give auto",  # no pipe is suggested
    "callbacks.samples.prompts=[a,'']": "must be a list of texts, none of them empty, or null",
    "model.width=${model.width}": "model.width=${model.width} refers to itself: give a value, or ",
    "model.width=${.width}": "model.width=${.width} refers to itself: give a value, or leave it",
    "trainer.max_steps=${scheduler.num_steps}": "trainer.max_steps=${scheduler.num_steps} cannot be"
    " resolved: a reference leads back to itself",
    "model.width=${model}": "model.width=${model} refers to the group that it is part of: if it",
    "attention=mha/../gqa": "there is no attention=mha/../gqa: there are gqa, mha, mqa",
    "attention=./gqa": "there is no attention=./gqa: there are gqa, mha, mqa",
    "data=/my/texts": "there is no data=/my/texts: there are copying, random, ",
    "attention=mine/gqq": "there is no attention=mine/gqq: ",
    "logger=[csv,../logger/wandb]": "must name choices: ../logger/wandb is none, there are csv, ",
    "_target_=os.system": "there is no setting _target_: ",
    "+_target_=os.system": "there is no setting _target_: ",
    "optimizer._target_=os.system": "optimizer._target_ (os.system) is of Python's standard libra",
    "optimizer._target_=packformer.training.muom": "optimizer._target_ (packformer.training.muom) "
    "does not exist: did you mean packformer.training.muon?",
    "model._target_=packformer.models.GPT": "model._target_ (packformer.models.GPT) does not exist:"
    " did you mean packformer.model.GPT?",
    "optimizer._target_=none_such.Adam": "optimizer._target_ (none_such.Adam) cannot be imported: "
    "No module named 'none_such'; set PYTHONPATH to the folder that none_such lies in",
    "+optimizer._args_=[1]": "optimizer._args_ ([1]) cannot be set: packformer.training.adamw take",
    "trainer.precision=16-true trainer.accelerator=cpu": "trainer.precision (16-true) needs a GPU: "
    "on CPU use 32-true or bf16-mixed",
    "callbacks.checkpoint.filename=../../x": "callbacks.checkpoint.filename (../../x) must be a "
    "name that does not lead out of its folder, or null",
    "callbacks.checkpoint.filename=/x": "callbacks.checkpoint.filename (/x) must be a name that do",
    "logger=tensorboard logger.tensorboard.name=../x": "logger.tensorboard.name (../x) must be a w",
    "scheduler.warmup_steps=20 scheduler.num_steps=10": "scheduler.warmup_steps (20) must be below "
    "scheduler.num_steps (10)",
    "trainer.max_steps=9223372036854775808": "trainer.max_steps (9223372036854775808) must be at "
    "most 9,007,199,254,740,992",
    "hydra.run.dir=": "hydra.run.dir (empty) must be a path: . is this folder",
    "hydra.sweep.dir='' -m": "hydra.sweep.dir (empty) must be a path: . is this folder",
    "output_dir=": "output_dir (empty) must be a path: . is this folder",
    "resume=a.txt": "resume=a.txt is a file, truncated, damaged or no checkpoint: give auto, nev",
}


def test_wrong_names_and_choices_are_told_without_importing_torch(tmp_path: Path) -> None:
    """In one process, in which an import of torch is an error."""
    script = """if True:
        import contextlib, io, sys
        sys.modules["torch"] = sys.modules["lightning"] = None
        sys.path.append(sys.argv.pop(1))
        import pytest, spared
        from packformer.command_line.main import main
        for spare in spared.spare_compositions, spared.compose_once:
            spare(pytest.MonkeyPatch())
        for override in sys.argv[1:]:
            sys.argv = ["train", *override.split()]
            with contextlib.redirect_stderr(io.StringIO()) as told:
                try:
                    main()
                except SystemExit as end:
                    code = end.code
            print(code, told.getvalue().strip())
    """
    with initialize_config_module("packformer.conf", version_base="1.3"):
        other = compose(
            "config", ["model.num_layers=6", "packing.lookahead=8", "position.base=1.0"]
        )
    (tmp_path / "folder" / "checkpoints").mkdir(parents=True)
    (tmp_path / "folder" / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "texts").mkdir()
    (tmp_path / "a.txt").write_text("a text")
    (tmp_path / "lost").symlink_to("nowhere")
    for name in ("pipe", "pipe.ckpt"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "folder" / "config.yaml").write_text(OmegaConf.to_yaml(other, resolve=True))
    command = [sys.executable, "-c", script, str(Path(__file__).parents[1]), *WRONG]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert len(lines) == len(WRONG), done.stderr
    for line, message in zip(lines, WRONG.values(), strict=True):
        assert line.startswith("1 error: ")
        assert message in line


@pytest.mark.parametrize(
    ("choice", "needed"), [("data=text", "a file or folder"), ("data=shards", "a folder that")]
)
def test_a_path_that_is_not_there_is_told_with_one_that_is(
    train: Callable, tmp_path: Path, choice: str, needed: str
) -> None:
    (tmp_path / "my_corpus").mkdir()
    done = train(choice, "data.path=my_corpsu")
    assert done.code == 1
    assert "data.path my_corpsu does not exist: did you mean my_corpus?" in done.err
    done = train(choice, f"data.path={tmp_path}/nowhere/x")
    assert f"data.path {tmp_path}/nowhere/x does not exist: give {needed}" in done.err


def test_a_tokenizer_that_is_not_there_is_told(train: Callable, small: list[str]) -> None:
    done = train(*small, "data.tokenizer=tokenizer.json")
    assert "data.tokenizer tokenizer.json does not exist: give the path of" in done.err


def test_a_metric_that_a_callback_of_the_users_may_measure_can_be_watched(
    train: Callable, small: list[str]
) -> None:
    mine = "+callbacks.mine._target_=nowhere.Mine"
    done = train(*small, "callbacks.checkpoint.monitor=val/mine", mine)
    assert done.code == 1
    assert "nowhere.Mine" in done.err


def test_a_class_of_the_users_has_choices_of_its_own(train: Callable, small: list[str]) -> None:
    done = train(*small, "attention._target_=nowhere.Mine", "attention.kernel=mine")
    assert done.code == 1
    assert "must be one of" not in done.err
    assert "nowhere" in done.err
