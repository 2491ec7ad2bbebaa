"""``packformer import``: what a folder of transformers holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from packformer.cli import main
from packformer.corpus.tokenizer import num_ids, train_bpe
from packformer.huggingface import export
from packformer.model import GPT
from packformer.nn import Rotary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = GPT(300, 64, num_layers=2, width=48, num_heads=2, position=Rotary)
    export(model, train_bpe(["a text"], 270), tmp_path / "folder")
    return tmp_path / "folder"


def test_it_says_what_the_model_is_and_how_to_train(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    main(["import", str(folder)])
    out = capsys.readouterr().out
    ids = num_ids(train_bpe(["a text"], 270))
    words = " ".join(out.replace("│", " ").split())
    for told in (
        "architecture llama",
        "weights float32",
        "model.num_layers 2",
        "model.tie_embeddings true",
        "attention.window null",
        "position.base 10000.0",
        f"vocabulary 300 ids: {300 - ids} more than the tokenizer has, which no text uses",
        f"tokenizer {ids} ids; documents begin with <|bos|> and end with <|eos|>",
        "checked with transformers",
    ):
        assert told in words
    assert f"packformer train init_from={folder} data=text data.path=my_texts" in out


def test_a_foreign_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["import", str(tmp_path)])
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path} holds no config.json: give a folder of transformers")
    assert err.count("\n") == 1
