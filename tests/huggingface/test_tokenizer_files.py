"""Tokenizers taken along: which tokens begin and end a document."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from packformer.corpus.documents import Form, Raw
from packformer.corpus.encode import Encoder
from packformer.corpus.tokenizer import document_marks, load_tokenizer, num_ids
from packformer.huggingface import export, read
from packformer.huggingface.tokenizer_files import tokenizer_of


def foreign(*special: str) -> Tokenizer:
    """A byte-level tokenizer with special tokens of other names."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def write(tokenizer: Tokenizer, folder: Path, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("named", "config", "marks"),
    [
        ({"bos_token": "<b>", "eos_token": "<e>"}, {}, (256, 257)),
        ({"bos_token": {"content": "<b>"}, "eos_token": {"content": "<e>"}}, {}, (256, 257)),
        ({"bos_token": None, "eos_token": "<e>"}, {}, (257, 257)),
        ({}, {"bos_token_id": 256, "eos_token_id": [257, 258]}, (256, 257)),
        ({"eos_token": "<x>"}, {"bos_token_id": 256, "eos_token_id": 257}, (256, 258)),
    ],
    ids=["names", "objects", "no first token", "ids", "names before ids"],
)
def test_documents_begin_and_end_as_the_folder_says(
    named: dict, config: dict, marks: tuple[int, int], tmp_path: Path
) -> None:
    folder = write(foreign("<b>", "<e>", "<x>"), tmp_path, **named)
    tokenizer = tokenizer_of(folder, config, 300)
    assert tokenizer is not None
    assert document_marks(tokenizer) == marks
    tokenizer.save(str(tmp_path / "again.json"))  # as runs and corpora do
    again = load_tokenizer(tmp_path / "again.json")
    assert document_marks(again) == marks
    assert num_ids(again) == 259
    encoder = Encoder(again.to_str(), "text", skip_invalid=False)
    raw = Raw(b"hi <e>", "here", Form.TEXT)
    ids = encoder([raw]).ids.tolist()
    assert (ids[0], ids[-1]) == marks
    assert again.decode(ids[1:-1]) == "hi <e>"


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    folder = write(foreign("<b>"), tmp_path, bos_token="<b>", eos_token="<not there>")
    with pytest.raises(ValueError, match="does not say which token ends a text: set eos_token in"):
        tokenizer_of(folder, {}, 300)


@pytest.mark.parametrize("vocab_size", [100, 257])
def test_a_tokenizer_of_another_vocabulary_is_refused(vocab_size: int, tmp_path: Path) -> None:
    folder = write(foreign("<b>", "<e>"), tmp_path, eos_token="<e>")
    with pytest.raises(ValueError, match=rf"has 258 ids and the model {vocab_size}: it is the tok"):
        tokenizer_of(folder, {}, vocab_size)


def test_a_damaged_tokenizer_config_is_told(tmp_path: Path) -> None:
    folder = write(foreign("<b>"), tmp_path)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match="tokenizer_config.json is damaged"):
        tokenizer_of(folder, {}, 300)


def test_special_tokens_keep_their_names_from_import_to_export(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    given = write(foreign("<b>", "<e>"), folder(vocab_size=300), bos_token="<b>", eos_token="<e>")
    model, tokenizer = read(given)
    export(model, tokenizer, tmp_path / "again")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert (theirs.bos_token, theirs.eos_token) == ("<b>", "<e>")
    assert theirs("hi").input_ids[0] == 256
    assert json.loads((tmp_path / "again" / "config.json").read_text())["eos_token_id"] == 257


@pytest.mark.parametrize("odd", [3, True, ["<e>"], {"content": 3}, {}])
def test_names_that_are_no_text_name_nothing(odd: Any, tmp_path: Path) -> None:
    folder = write(foreign("<b>", "<e>"), tmp_path, eos_token=odd)
    tokenizer = tokenizer_of(folder, {"eos_token_id": 257}, 300)
    assert tokenizer is not None
    assert document_marks(tokenizer) == (257, 257)
