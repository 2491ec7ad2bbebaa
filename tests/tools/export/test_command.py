"""``packformer export``: a run becomes a folder of transformers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import forks
import pytest
import torch

import packformer
from packformer import PackedLayout, huggingface
from packformer.cli import main


@pytest.fixture
def run_folder(train: Callable, small: list[str], tmp_path: Path) -> Callable[..., Path]:
    """Trains for a moment; the run's folder."""

    def make(*settings: str) -> Path:
        done = train(*small, "output_dir=runs", *settings)
        assert done.code == 0, done.err
        (folder,) = (tmp_path / "runs").iterdir()
        return folder

    return make


def failure(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 1
    err = capsys.readouterr().err.strip()
    assert err.startswith("error: ")
    assert "\n" not in err
    return err


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", ["attention=mqa", "attention.head_dim=6"]),
        ("mistral", ["attention.window=9", "model.tie_embeddings=false"]),
        ("qwen3", ["attention=mha", "attention.qk_norm=true"]),
    ],
)
def test_a_trained_model_is_written_checked_and_read_back(
    kind: str,
    settings: list[str],
    run_folder: Callable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("transformers")
    run = run_folder(*settings)
    main(["export", str(run), str(tmp_path / "folder")])
    out = capsys.readouterr().out
    assert f"wrote {tmp_path / 'folder'}: {kind}, " in out
    assert "checked with transformers " in out
    assert sorted(file.name for file in (tmp_path / "folder").iterdir()) == [
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    ]
    card = (tmp_path / "folder" / "README.md").read_text()
    loss = json.loads((run / "summary.json").read_text())["val/loss"]
    assert f"| validation loss | {loss:.4f} nats per token |" in card
    one, other = packformer.load(run), packformer.load(tmp_path / "folder")
    assert one.tokenizer is not None
    assert other.tokenizer is not None
    text = "word1 word2"
    assert one.tokenizer.encode(text).ids == other.tokenizer.encode(text).ids[1:]
    tokens = torch.arange(20)[None]
    layout = PackedLayout.from_lengths([12, 8])
    with torch.no_grad():
        assert torch.equal(one.model(tokens, layout), other.model(tokens, layout))


def test_a_folder_that_differs_is_removed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "source"  # a folder of transformers may be written anew, too
    model = packformer.GPT(300, 64, num_layers=1, width=48, num_heads=2, position=packformer.Rotary)
    huggingface.export(model, None, run)

    def differs(folder: Path) -> None:
        raise ValueError(f"{folder}: logits differ")

    monkeypatch.setattr(huggingface, "can_verify", lambda: True)
    monkeypatch.setattr(huggingface, "verify", differs)
    told = failure("export", str(run), str(tmp_path / "new"), capsys=capsys)
    assert told == "error: the export failed its check and was removed: logits differ"
    assert not (tmp_path / "new").exists()
    main(["export", str(run), str(tmp_path / "new"), "--no-verify"])
    assert "not checked: --no-verify" in capsys.readouterr().out
    monkeypatch.setattr(huggingface, "can_verify", lambda: False)
    main(["export", str(run), str(tmp_path / "newer")])
    assert "not checked: transformers is not installed (pip install" in capsys.readouterr().out


def test_weights_that_are_not_finite_are_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, new = tmp_path / "source", tmp_path / "new"
    model = packformer.GPT(300, 64, num_layers=1, width=48, num_heads=2, position=packformer.Rotary)
    torch.nn.init.constant_(model.norm.weight, torch.nan)
    huggingface.export(model, None, source)
    for command in (["export", str(source), str(new)], ["import", str(source), "--no-verify"]):
        told = failure(*command, capsys=capsys)
        assert f"{source} is of no use: norm.weight holds NaN or infinite values; take" in told
    assert not new.exists()


def test_what_cannot_be_exported_is_told_in_one_line(
    run_folder: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder("position=alibi")
    new = str(tmp_path / "new")
    assert "position (ALiBi) has no form in" in failure("export", str(run), new, capsys=capsys)
    assert "exists: choose another" in failure("export", str(run), str(run), capsys=capsys)
    nowhere = failure("export", str(tmp_path / "nowhere"), new, capsys=capsys)
    assert "nowhere does not exist: give a run folder, a checkpoint of one, or a fold" in nowhere
    for checkpoint in (run / "checkpoints").iterdir():
        checkpoint.unlink()
    assert "holds no checkpoint: give" in failure("export", str(run), new, capsys=capsys)
    assert not Path(new).exists()


def test_a_run_without_text_is_written_without_a_tokenizer(
    train: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    assert train("+debug=fast", "data=sorting").code == 0
    (run,) = (tmp_path / "runs").iterdir()
    main(["export", str(run), str(tmp_path / "new")])
    assert "without a tokenizer: the model has none" in capsys.readouterr().out
    assert packformer.load(tmp_path / "new").tokenizer is None


def export_and_import(run: str) -> None:
    """In a process that has imported neither, whose packages may be in ``site``."""
    sys.path.insert(0, "site")
    for command in (["export", run, "folder"], ["import", "folder"]):
        for name in [*sys.modules]:
            if name.partition(".")[0] in ("transformers", "torchao"):
                del sys.modules[name]
        main(command)


def test_transformers_imports_no_torchao(run_folder: Callable, tmp_path: Path) -> None:
    """It would with every model, and torchao tells what it lacks on a machine."""
    pytest.importorskip("transformers")
    run = run_folder("attention=mqa")
    package = tmp_path / "site" / "torchao"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('raise ImportError("torchao is imported")\n')
    metadata = tmp_path / "site" / "torchao-99.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: torchao\nVersion: 99.0\n")
    code, out = forks.run(export_and_import, str(run), cwd=tmp_path, timeout=120)
    assert code == 0, out
    assert out.count("checked with transformers ") == 2
    assert "torchao" not in out
