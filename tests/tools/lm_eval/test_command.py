"""``packformer lm-eval``."""

import sys

import pytest
import torch

from packformer.cli import main


def refused(capsys, arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_options_behind_the_run_are_lm_evals(monkeypatch):
    from packformer.tools.lm_eval import command

    seen = []
    monkeypatch.setattr(command, "cli_evaluate", lambda: seen.append(sys.argv))
    before = sys.argv
    main(["lm-eval", "runs/a", "--tasks", "mine", "--limit", "3"])
    main(["lm-eval", "runs/a", "--device", "mps"])
    run = ["lm-eval", "run", "--model", "packformer", "--model_args", "path=runs/a"]
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    assert seen == [
        [*run, "--tasks", "mine", "--limit", "3", "--device", device],
        [*run, "--device", "mps"],
    ]
    assert sys.argv is before


def test_a_run_is_opened_by_name(train, small, tmp_path):
    from lm_eval.api.registry import get_model

    import packformer.tools.lm_eval.adapter  # noqa: F401  registers the name

    assert train("+experiment=gqa", *small, "hydra.run.dir=a").code == 0
    opened = get_model("packformer").create_from_arg_string(
        f"path={tmp_path}/a,max_length=300,dtype=float64", {"device": "cpu", "batch_size": 4}
    )
    assert opened.max_length == 300
    assert opened.model.embedding.weight.dtype == torch.float64
    assert opened.tok_encode("word1")[0] == opened.prefix_token_id
    assert opened.tok_encode("word1", add_special_tokens=False)[0] != opened.prefix_token_id


def test_what_cannot_be_run_is_named(tmp_path, monkeypatch, capsys):
    from packformer.tools.lm_eval.adapter import PackformerLM

    assert "cannot read a path with , or =" in refused(capsys, ["lm-eval", "a=b", "--tasks", "c"])
    for arguments, message in (
        ({"path": "nowhere"}, "nowhere does not exist"),
        ({}, r"path \(null\) must be a run folder"),
        ({"path": "a", "dtype": "int8"}, r"dtype \(int8\) must be one of bfloat16, float16"),
        (
            {"path": "a", "rowlength": 4},
            "model argument rowlength is not known: use path",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            PackformerLM.create_from_arg_obj(arguments, {"device": "cpu"})
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"device \(cuda:0\): .* sees no CUDA GPU"):
            PackformerLM.create_from_arg_obj({"path": "nowhere"}, {"device": "cuda:0"})
    monkeypatch.setattr("packformer.tools.lm_eval.find_spec", lambda name: None)
    error = refused(capsys, ["lm-eval", "a", "--tasks", "b"])
    assert error == "error: lm-eval is not installed: pip install '.[lm-eval]'"
