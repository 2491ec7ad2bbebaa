"""``init_from``: a run starts from weights, with their settings and their tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import packformer
from packformer.command_line.composition import compose
from packformer.corpus.tokenizer import BOS, EOS, train_bpe
from packformer.huggingface import export
from packformer.model import GPT, SelfAttention
from packformer.nn import Rotary

STILL = ("optimizer.learning_rate=1e-30", "optimizer.weight_decay=0", "trainer.max_steps=1")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Other data."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(30):
        words = [f"other{(number * 3 + i) % 17}" for i in range(30 + number)]
        (folder / f"{number:02}.txt").write_text(" ".join(words))
    return folder


@pytest.fixture
def own_data(texts: Path) -> list[str]:
    return ["+debug=fast", "data=text", f"data.path={texts}", "output_dir=new"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An exported model: 2 layers of 3 heads of 8, one of them for keys and values."""
    torch.manual_seed(0)
    model = GPT(
        320,
        64,
        num_layers=2,
        width=32,
        num_heads=3,
        hidden_width=40,
        attention=lambda width, heads: SelfAttention(width, heads, num_kv_heads=1, head_dim=8),
        position=Rotary,
        tie_embeddings=False,
        norm_eps=1e-6,
    )
    export(model, train_bpe(["other1 other2 some words"] * 9, 290), tmp_path / "folder")
    return tmp_path / "folder"


def nothing_is_left() -> bool:
    return not Path("new").exists() or not any(Path("new").iterdir())


def only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def test_a_run_starts_from_an_exported_model_on_other_data(
    train: Callable, own_data: list[str], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "packformer")
    done = train(*own_data, f"init_from={folder}", *STILL)
    assert done.code == 0, done.err
    given, new = packformer.load(folder), packformer.load(only(Path("new")))
    for told in (
        f"start    {folder}: {given.model.num_parameters():,} weights and the model's settings are",
        "start    its tokenizer is that of the data (",
        "start    optimizer, schedule, step and order of the data begin anew",
        "documents of up to 256 tokens: the weights were trained on up to 64",
    ):
        assert told in caplog.text
    for name, tensor in given.model.state_dict().items():
        assert torch.equal(new.model.state_dict()[name], tensor), name
    assert new.tokenizer is not None
    assert given.tokenizer is not None
    assert new.tokenizer.get_vocab() == given.tokenizer.get_vocab()
    config = yaml.safe_load((only(Path("new")) / "config.yaml").read_text())
    assert config["model"]["num_layers"] == 2
    assert config["model"]["vocab_size"] == 320
    assert config["attention"]["head_dim"] == 8
    assert config["init_from"] == str(folder)


@pytest.mark.parametrize(
    "settings",
    [
        ["+experiment=local_global", "+layers.L.attention.qk_norm=true", "model.num_layers=3"],
        ["position=alibi", "attention=mqa", "attention.soft_cap=5", "model.width=40"],
    ],
    ids=["layers that differ", "alibi"],
)
def test_a_run_starts_from_a_run_of_any_variant(
    settings: list[str], train: Callable, small: list[str], own_data: list[str], tmp_path: Path
) -> None:
    done = train(*small, *settings)
    assert done.code == 0, done.err
    former = only(tmp_path / "runs")
    last = former / "checkpoints" / "last.ckpt"
    done = train(*own_data, f"init_from={last if 'position=alibi' in settings else former}", *STILL)
    assert done.code == 0, done.err
    one, other = packformer.load(former), packformer.load(only(Path("new")))
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], tensor), name


def test_patterns_that_make_the_same_layers_agree(
    train: Callable, small: list[str], own_data: list[str], tmp_path: Path
) -> None:
    mixed = ["+experiment=local_global", "layers.pattern=SSLSL", "model.num_layers=5"]
    done = train(*small, *mixed, "trainer.max_steps=1")
    assert done.code == 0, done.err
    former = only(tmp_path / "runs")
    started = [override for override in own_data if override != "+debug=fast"]
    started += [f"init_from={former}"]
    for agree in (
        ["layers.pattern=SSL"],
        ["layers.pattern=SSLSL"],
        ["layers=local_global", "layers.pattern=SSL"],
        ["layers=local_global", "layers.pattern=SSL", "model.num_layers=5"],
    ):
        taken = compose([*started, *agree])
        assert (taken.model.num_layers, taken.layers.pattern) == (5, "SSLSL")
        assert taken.layers.S.attention.window == 128
    for differ, told in {
        ("layers.pattern=SL",): "chosen: layers.pattern is SSLSL there and SL here: leave",
        ("layers.pattern=SSLSS",): "chosen: layers.pattern is SSLSL there and SSLSS here: leave",
        ("layers.pattern=SSL", "model.num_layers=4"): "chosen: model.num_layers is 5 there and 4",
        ("layers=local_global", "layers.pattern=SSL", "layers.S.attention.window=64"): (
            "chosen: layers.S.attention.window is 128 there and 64 here: leave them out"
        ),
    }.items():
        with pytest.raises(ValueError, match="brings its settings along") as refused:
            compose([*started, *differ])
        assert told in str(refused.value)


def test_fine_tuning_begins_at_the_loss_the_run_ended_with(
    train: Callable, small: list[str], tmp_path: Path
) -> None:
    assert train(*small, "trainer.max_steps=6", "optimizer.learning_rate=1e-2").code == 0
    former = only(tmp_path / "runs")
    ended = json.loads((former / "summary.json").read_text())["val/loss"]
    again = [*small[:-1], f"init_from={former}", "output_dir=new", *STILL]
    assert train(*again).code == 0
    begun = json.loads((only(Path("new")) / "summary.json").read_text())["val/loss"]
    assert begun == pytest.approx(ended, abs=1e-5)


def test_a_run_that_started_from_weights_goes_on(
    train: Callable,
    own_data: list[str],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PACKFORMER_CACHE", str(tmp_path / "cache"))
    assert train(*own_data, f"init_from={folder}", "trainer.max_steps=2").code == 0
    run = only(Path("new"))
    weights = packformer.load(folder).model.state_dict()
    folder.rename(folder.with_name("moved"))  # what it began with lies in the run
    shutil.rmtree(tmp_path / "cache")
    again = [*own_data, f"init_from={folder}", f"resume={run}"]
    done = train(*again, "trainer.max_steps=4")
    assert done.code == 0, done.err
    trained = packformer.load(run).model.state_dict()
    assert not torch.equal(weights["norm.weight"], trained["norm.weight"])
    (run / "summary.json").unlink()
    assert train(*own_data, "resume=auto", f"init_from={folder}", "trainer.max_steps=4").code == 0
    assert only(Path("new")) == run
    done = train(f"resume={run}", "trainer.max_steps=5")
    assert done.code == 0, done.err
    other = train(*own_data, f"resume={run}", "init_from=elsewhere", "trainer.max_steps=6")
    told = f"the run began with init_from={folder}, and init_from=elsewhere is given: repeat that"
    assert other.err == f"error: resume={run}: {told}\n"


CONTRADICTIONS = {
    "model.num_layers=4": "model.num_layers is 2 there and 4 here: leave them out",
    "model.vocab_size=512": "model.vocab_size is 320 there and 512 here",
    "attention=mha": "attention.num_kv_heads is 1 there and null here",
    "+experiment=sliding_window": "attention.window is null there and 256 here",
    "position=alibi": "is packformer.nn.Rotary there and packformer.nn.ALiBi here",
    "model=gpt_124m": "model.hidden_width is 40 there and",
    "layers=local_global": "layers.pattern is null there and SSSL here",
}


@pytest.mark.parametrize("setting", CONTRADICTIONS)
def test_a_setting_that_contradicts_the_weights_is_refused(
    setting: str, train: Callable, own_data: list[str], folder: Path
) -> None:
    done = train(*own_data, f"init_from={folder}", setting, *STILL)
    assert done.code == 1
    assert done.err.startswith(f"error: init_from ({folder}) brings its settings along, and others")
    assert CONTRADICTIONS[setting] in done.err
    assert done.err.count("\n") == 1
    assert nothing_is_left()


def test_settings_that_agree_or_that_weights_do_not_depend_on_are_the_users(
    train: Callable, own_data: list[str], folder: Path
) -> None:
    agree = ["+experiment=mqa", "model.norm_eps=1e-6"]  # one key/value head there, too
    free = ["attention.kernel=reference", "model.activation_checkpointing=full"]
    done = train(*own_data, f"init_from={folder}", *agree, *free, *STILL)
    assert done.code == 0, done.err
    config = yaml.safe_load((only(Path("new")) / "config.yaml").read_text())
    assert config["attention"]["kernel"] == "reference"
    assert config["model"]["activation_checkpointing"] == "full"


def test_tools_that_compose_a_run_take_the_settings_along(folder: Path) -> None:
    config = compose(["data=text", "data.path=nowhere", f"init_from={folder}"])
    assert config.model.num_layers == 2
    with pytest.raises(ValueError, match="model.width is 32 there and 64 here"):
        compose([f"init_from={folder}", "model.width=64"])


def test_a_tokenizer_of_another_vocabulary_is_refused(
    train: Callable, own_data: list[str], folder: Path, tmp_path: Path
) -> None:
    other = train_bpe(["entirely different"] * 9, 290)
    other.save(str(tmp_path / "other.json"))
    train_bpe([" ".join(f"{n}{n + 1}" for n in range(999))], 400).save(
        str(tmp_path / "larger.json")
    )
    told = {
        "other.json": "is not that of init_from (",
        "larger.json": f"the model of init_from ({folder}) 320: their tokenizer is another one; le",
    }
    for name, message in told.items():
        done = train(*own_data, f"init_from={folder}", f"data.tokenizer={tmp_path / name}")
        assert done.code == 1
        assert message in done.err
        assert done.err.count("\n") == 1
        assert nothing_is_left()
    own = f"data.tokenizer={folder / 'tokenizer.json'}"
    assert train(*own_data, f"init_from={folder}", own, *STILL).code == 0


@pytest.mark.parametrize("name", ["data.vocab_size", "bpe_vocab_size"])
def test_the_size_of_a_tokenizer_that_is_not_trained_is_refused(name: str, folder: Path) -> None:
    text = ["data=text", "data.path=nowhere", f"init_from={folder}"]
    with pytest.raises(ValueError, match=rf"^{name} \(300\) changes nothing, as init_from "):
        compose([*text, f"{name}=300"])


def test_a_model_without_a_tokenizer_needs_one(
    train: Callable, own_data: list[str], folder: Path, tmp_path: Path
) -> None:
    (folder / "tokenizer.json").rename(tmp_path / "kept.json")
    done = train(*own_data, f"init_from={folder}")
    assert "has no tokenizer to take along: give the one its text was" in done.err
    assert nothing_is_left()
    kept = f"data.tokenizer={tmp_path / 'kept.json'}"
    assert train(*own_data, f"init_from={folder}", kept, *STILL).code == 0


def test_learned_positions_need_documents_of_their_length(
    train: Callable, small: list[str], own_data: list[str], tmp_path: Path
) -> None:
    normed = ["position=learned", "attention.qk_norm=true", "model.norm_eps=null"]
    assert train(*small, *normed).code == 0
    former = only(tmp_path / "runs")
    done = train(*own_data, f"init_from={former}", "packing.max_document_length=99")
    assert done.code == 1
    assert "are learned, 256 of them: set packing.max_document_length=256" in done.err
    done = train(*own_data, f"init_from={former}", *STILL)
    assert done.code == 0, done.err
    one, other = packformer.load(former), packformer.load(only(Path("new")))
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nowhere",
            "nowhere) does not exist: give a run folder, a checkpoint of one, or a folder",
        ),
        ("empty", "empty) holds no checkpoint: give a run folder, a checkpoint"),
        ("half", "half holds no model.safetensors and no model.safetensors.index.json"),
        ("foreign", "model_type (gpt2) must be one of llama, mistral, qwen3"),
        ("damaged", "last.ckpt is truncated, damaged or no checkpoint of packformer"),
    ],
)
def test_what_cannot_be_started_from_is_told_in_one_line(
    name: str,
    message: str,
    train: Callable,
    own_data: list[str],
    small: list[str],
    folder: Path,
    tmp_path: Path,
) -> None:
    place = tmp_path / name
    if name == "half":
        (folder / "model.safetensors").unlink()
        folder.rename(place)
    elif name == "damaged":
        assert train(*small).code == 0
        place = only(tmp_path / "runs") / "checkpoints" / "last.ckpt"
        place.write_bytes(place.read_bytes()[:1000])
    elif name != "nowhere":
        place.mkdir()
    if name == "foreign":
        (place / "config.json").write_text('{"model_type": "gpt2"}')
    done = train(*own_data, f"init_from={place}")
    assert done.code == 1
    assert message in done.err
    assert done.err.count("\n") == 1
    assert nothing_is_left()


def test_documents_begin_and_end_as_those_of_the_folder(
    train: Callable, own_data: list[str], folder: Path
) -> None:
    """A tokenizer with other names, as Llama's: no ids are added."""
    text = (folder / "tokenizer.json").read_text()
    text = text.replace(f'"{BOS}"', '"<begin>"').replace(f'"{EOS}"', '"<end>"')
    tokenizer = {**json.loads(text), "post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    names = {"bos_token": "<begin>", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    done = train(*own_data, f"init_from={folder}", *STILL)
    assert done.code == 0, done.err
    loaded = packformer.load(only(Path("new"))).tokenizer
    assert loaded is not None
    assert loaded.get_vocab().keys() == packformer.load(folder).tokenizer.get_vocab().keys()  # type: ignore[union-attr]
    assert packformer.encode_prompt(loaded, "other1")[0] == loaded.token_to_id("<begin>")
