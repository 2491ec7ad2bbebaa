"""Every script of docs/library.md runs and does what the page says."""

import re
from pathlib import Path

import pytest
import torch

import packformer

PAGE = (Path(__file__).parents[1] / "docs" / "library.md").read_text(encoding="utf-8")
ATTENTION, TRAINING, OTHER, LOADING = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def run(script):
    names: dict = {}
    exec(compile(script, "docs/library.md", "exec"), names)
    return names


def test_attention():
    names = run(ATTENTION)
    assert names["out"].shape == names["q"].shape == names["q"].grad.shape


def test_training():
    torch.manual_seed(0)
    names = run(TRAINING)
    assert names["loss"] < 1.0


def test_another_attention():
    (layer, _) = run(OTHER)["model"].layers
    assert (layer.num_kv_heads, layer.window) == (2, 64)


def test_a_run_is_loaded(train, small, tmp_path, capsys):
    done = train("+experiment=gqa", *small)
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "runs").iterdir()
    names = run(LOADING.replace("RUN_FOLDER", str(folder)))
    assert names["logits"].isfinite().all()
    assert re.search(r"tensor\(\d\.\d+\)", capsys.readouterr().out)

    best = folder / "checkpoints" / "best.ckpt"
    saved = torch.load(best, weights_only=True)["state_dict"]
    for model in (names["model"], packformer.load(best).model):
        for name, value in model.state_dict().items():
            assert torch.equal(value, saved[f"model.{name}"])

    (folder / "tokenizer.json").unlink()
    assert packformer.load(folder).tokenizer is None
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("num_layers: ", "num_layers: 1"))
    with pytest.raises(ValueError, match=r"says model.num_layers=\d+, and the checkpoint has \d"):
        packformer.load(folder)
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"config.yaml, line 2, is no YAML"):
        packformer.load(folder)
    (folder / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"best.ckpt lies in no run folder"):
        packformer.load(folder)
    best.write_bytes(best.read_bytes()[:-100])
    with pytest.raises(ValueError, match="no config.yaml above it"):
        packformer.load(best)
    (folder / "config.yaml").write_text(config)
    with pytest.raises(ValueError, match="is truncated, damaged or no checkpoint"):
        packformer.load(best)


def test_what_is_no_run_is_told(tmp_path):
    for path in (3, None, ["runs"]):
        with pytest.raises(ValueError, match=r"path \(.*\) must be a run folder or a checkpoint"):
            packformer.load(path)
    with pytest.raises(ValueError, match="nowhere does not exist: give a run folder"):
        packformer.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no checkpoint: give a run folder"):
        packformer.load(tmp_path)


def test_a_tokenizer_of_another_run_is_refused(train, small, tmp_path):
    done = train("+experiment=gqa", *small)
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "runs").iterdir()
    tokenizer = packformer.load(folder).tokenizer
    tokenizer.add_tokens([f"<{n}>" for n in range(500)])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"tokenizer.json has 8\d\d ids, more than the model's"):
        packformer.load(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"is no tokenizer.json"):
        packformer.load(folder)
