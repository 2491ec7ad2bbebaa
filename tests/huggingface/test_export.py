"""Exported folders: what ``transformers`` makes of them, and what is refused."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import run
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from packformer.corpus.tokenizer import document_marks, train_bpe
from packformer.huggingface import Read, export, read, verify
from packformer.model import GPT, SelfAttention
from packformer.nn import ALiBi, Learned, NoPosition, Rotary

transformers = pytest.importorskip("transformers")

SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
FORMS = [
    *product(["llama"], [{}, {"num_kv_heads": 1}, {"head_dim": 14}], [None, SCALING], [True]),
    *product(["mistral"], [{"window": 5}, {"window": 1}], [None, SCALING], [False]),
    *product(["qwen3"], [{"qk_norm": True}, {"qk_norm": True, "window": 7}], [None], [True]),
]


def make_model(
    attention: Any = None, position: Any = Rotary, tied: bool = True, **options: Any
) -> GPT:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"num_layers": 2, "width": 48, "num_heads": 6, "norm_eps": 1e-5}
    model = GPT(
        300,
        64,
        attention=attention or partial(SelfAttention, num_kv_heads=2),
        position=position,
        tie_embeddings=tied,
        init_std=0.2,
        **{**sizes, **options},
    )
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["a text", "another one"], 290)


@pytest.mark.parametrize(("kind", "attention", "scaling", "tied"), FORMS)
def test_transformers_computes_what_packformer_does(
    kind: str, attention: dict, scaling: dict | None, tied: bool, tmp_path: Path
) -> None:
    model = make_model(
        partial(SelfAttention, **{"num_kv_heads": 2, **attention}),
        partial(Rotary, scaling=scaling, base=500.0),
        tied,
    )
    assert export(model, None, tmp_path / "folder").model_type == kind
    found = verify(tmp_path / "folder")
    assert max(found.lengths) == 64
    assert found.difference <= 1e-5
    assert found.with_own_angles <= 1e-5
    again = read(tmp_path / "folder").model
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_width_that_the_heads_do_not_divide_has_a_form_too(tmp_path: Path) -> None:
    model = make_model(partial(SelfAttention, head_dim=6), width=50)
    assert export(model, None, tmp_path / "folder").model_type == "mistral"
    verify(tmp_path / "folder")


def test_sharp_attention_over_long_documents_does_not_fail_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers rounds angles of rotary positions, the more the later the position."""
    monkeypatch.setattr(sys.modules["packformer.huggingface.verify"], "_LONGEST", 1500)
    model = make_model()
    with torch.no_grad():
        for layer in model.layers:
            layer.qkv.weight *= 2
    model.extend(1500)
    export(model, None, tmp_path / "folder")
    found = verify(tmp_path / "folder")
    assert max(found.lengths) == 1500
    assert found.difference <= 1e-5 < found.with_own_angles


@pytest.mark.parametrize("wrong", ["weight", "base", "window"])
def test_the_check_sees_what_is_wrong(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(make_model(partial(SelfAttention, window=30)), None, tmp_path / "folder")
    model = read(tmp_path / "folder").model
    with torch.no_grad():
        if wrong == "weight":
            model.norm.weight[3] += 1e-3
        elif wrong == "base":
            model.position.frequencies[3] *= 1 + 1e-5
        else:
            model.layers[1].window = 31
    module = sys.modules["packformer.huggingface.verify"]
    monkeypatch.setattr(module, "read", lambda folder: Read(model, None))
    what = "rotary frequencies" if wrong == "base" else "logits"
    with pytest.raises(ValueError, match=rf"{what} differ by \S+ from those of transformers"):
        verify(tmp_path / "folder")


def test_weights_over_the_size_of_a_file_go_into_several(tmp_path: Path) -> None:
    model = make_model()
    export(model, None, tmp_path / "one")
    export(model, None, tmp_path / "several", shard_bytes=30_000)
    assert [file.name for file in (tmp_path / "one").glob("*.safetensors*")] == [
        "model.safetensors"
    ]
    files = sorted((tmp_path / "several").glob("model-*.safetensors"))
    assert [file.name for file in files] == [
        f"model-{n:05}-of-{len(files):05}.safetensors" for n in range(1, len(files) + 1)
    ]
    tensors = [load_file(file) for file in files]
    sizes = [sum(t.nbytes for t in of_file.values()) for of_file in tensors]
    assert all(size <= 30_000 or len(t) == 1 for size, t in zip(sizes, tensors, strict=True))
    index = json.loads((tmp_path / "several" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(sizes)
    assert index["weight_map"] == {
        name: file.name for file, of_file in zip(files, tensors, strict=True) for name in of_file
    }
    assert verify(tmp_path / "several").difference <= 1e-5


def test_the_tokenizer_begins_texts_as_documents_begin(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    export(make_model(), tokenizer, tmp_path / "folder", card="# mine\n")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    marks = document_marks(tokenizer)
    assert marks is not None
    assert theirs("a text").input_ids == [marks[0], *tokenizer.encode("a text").ids]
    assert (theirs.bos_token_id, theirs.eos_token_id) == marks
    assert theirs.model_max_length == 64
    assert theirs.decode(theirs("a text").input_ids, skip_special_tokens=True) == "a text"
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    assert (model.generation_config.bos_token_id, model.generation_config.eos_token_id) == marks
    out = model.generate(**theirs("a", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert out.shape[1] <= len(theirs("a").input_ids) + 3
    assert (tmp_path / "folder" / "README.md").read_text() == "# mine\n"
    again = read(tmp_path / "folder").tokenizer
    assert again is not None
    assert document_marks(again) == marks
    assert again.encode("a text", add_special_tokens=False).ids == tokenizer.encode("a text").ids


class _OwnPosition(Rotary):
    pass


class _OwnAttention(SelfAttention):
    pass


def _own_scores(score: Any, batch: Any, head: Any, q_index: Any, kv_index: Any) -> Any:
    return score


def _layers(*options: dict) -> list[Any]:
    return [partial(SelfAttention, **{"num_kv_heads": 2, **option}) for option in options]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "alibi": ({"position": ALiBi}, r"position \(ALiBi\) has no form in transformers.*position=rot"),
    "learned": ({"position": Learned}, r"position \(Learned\) has no form"),
    "none": ({"position": NoPosition}, r"position \(NoPosition\) has no form"),
    "own position": ({"position": _OwnPosition}, r"position \(_OwnPosition\) has no form"),
    "own attention": ({"attention": _OwnAttention}, r"attention \(_OwnAttention\) is your own and"),
    "soft cap": (
        {"attention": partial(SelfAttention, soft_cap=30.0)},
        r"attention.soft_cap \(30.0\) has no form in transformers: set it to null",
    ),
    "score function": (
        {"attention": partial(SelfAttention, score_mod=_own_scores)},
        r"attention.score_mod \(_own_scores\) has no form in transformers: set it to null",
    ),
    "value embeddings": (
        {"attention": _layers({}, {"value_embeddings": True})},
        r"attention.value_embeddings \(true\) has no form in transformers: train with .*=false",
    ),
    "windows": (
        {"attention": _layers({"window": 4}, {})},
        "attention.window is 4 in layer 0 and None in layer 1; a model whose layers differ has no",
    ),
    "heads": (
        {"attention": _layers({}, {"num_kv_heads": 1})},
        "attention.num_kv_heads is 2 in layer 0 and 1 in layer 1",
    ),
    "norms": (
        {"attention": _layers({}, {"qk_norm": True})},
        "attention.qk_norm is False in layer 0 and True in layer 1",
    ),
    "bases": (
        {"position": [Rotary, partial(Rotary, base=500.0)]},
        "layers differ in their position scheme, which has no form in transformers: use layers=al",
    ),
    "epsilons": (
        {"attention": partial(SelfAttention, qk_norm=True), "norm_eps": None},
        r"model.norm_eps \(null\) gives .* another epsilon .* train with model.norm_eps=1e-5",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_form_is_refused_with_the_setting_at_fault(name: str, tmp_path: Path) -> None:
    options, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as refused:
        export(make_model(**options), None, tmp_path / "folder")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "dangling link"])
def test_what_is_there_is_not_written_to(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "there"
    if kind == "file":
        place.write_text("mine")
    elif kind == "dangling link":
        place.symlink_to(tmp_path / "nowhere")
    else:
        place.mkdir()
        if kind == "folder":
            (place / "mine").touch()
    with pytest.raises(ValueError, match="there exists: choose another folder, or remove it"):
        export(make_model(), None, place)
    assert list(tmp_path.iterdir()) == [place]


def test_a_folder_that_cannot_be_made_is_told_without_a_word_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match=rf"x/y cannot be made: {file} is no folder; choose"):
        export(make_model(), None, file / "x" / "y")
    monkeypatch.setattr("os.access", lambda place, how: False)
    told = rf"new/x cannot be made: you may not write to {tmp_path}; choose"
    with pytest.raises(ValueError, match=told):
        export(make_model(), None, tmp_path / "new" / "x")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("number", "message"),
    [(28, r"\(No space left on device\): .* MiB left$"), (5, r"\(Input/output error\)$")],
)
def test_an_error_of_the_library_keeps_its_reason(
    number: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: object, **named: object) -> None:
        raise SafetensorError(f"Error while serializing: I/O error: words (os error {number})")

    monkeypatch.setattr("packformer.huggingface.shards.save_file", fails)
    with pytest.raises(OSError, match=message) as told:
        export(make_model(), None, tmp_path / "folder")
    assert told.value.errno == number
    assert list(tmp_path.iterdir()) == []


def export_without_room_then_be_killed(folder: Path) -> None:
    room, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, most))
    try:
        export(make_model(), None, folder)
    except OSError as error:
        print(error, os.listdir(folder.parent), flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))
    module: Any = sys.modules["packformer.huggingface.export"]
    module._generation = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
    export(make_model(), None, folder)


@pytest.mark.platform
def test_a_full_disk_leaves_nothing_and_a_kill_no_half_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    code, out = run(export_without_room_then_be_killed, folder, cwd=tmp_path, timeout=60)
    assert code == -signal.SIGKILL, out
    assert out.startswith(f"cannot write {folder} (")
    assert out.endswith(" MiB left []\n")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".folder.")
    export(make_model(), None, folder)
    verify(folder)


def test_files_have_the_rights_of_others_made_here(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    (tmp_path / "own").mkdir()
    export(make_model(), train_bpe(["a"], 290), tmp_path / "folder", card="")
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "own").stat().st_mode
    for file in (tmp_path / "folder").iterdir():
        assert file.stat().st_mode == (tmp_path / "mine").stat().st_mode, file.name


def test_a_model_of_ones_own_is_refused(tmp_path: Path) -> None:
    model = make_model()
    model.__class__ = type("Deep", (GPT,), {})
    with pytest.raises(ValueError, match=r"model \(Deep\) is your own and has no form"):
        export(model, None, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
