"""``packformer eval``."""

import csv
import errno
import json
import shutil

import pytest

from packformer.cli import main

pytestmark = pytest.mark.usefixtures("blank")


def figures(folder):
    with (folder / "eval.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return [row for row in rows if row["part"] == "all"], rows


@pytest.mark.usefixtures("drawn")
def test_the_loss_of_a_runs_own_validation_is_found_again(runs, texts, tmp_path, capsys):
    main(["eval", str(runs[0]), str(texts), "--split", "validation", "--output", str(tmp_path)])
    (found,), _ = figures(tmp_path)
    summary = json.loads((runs[0] / "summary.json").read_text())
    assert float(found["loss"]) == pytest.approx(summary["val/loss"], rel=1e-6)
    assert float(found["bits_per_byte"]) == pytest.approx(summary["val/bits_per_byte"], rel=1e-6)
    assert (tmp_path / "eval.png").stat().st_size > 10_000
    out = capsys.readouterr().out
    assert "rotary, trained on documents of up to 64 tokens" in out
    assert f"weights  {runs[0] / 'checkpoints' / 'best.ckpt'}" in out


def test_every_byte_of_a_text_is_scored(runs, tmp_path, capsys):
    documents = ["", "a", "word1 " * 40, "ünïcode 💡", "word2 " * 200]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
    (tmp_path / "texts.jsonl").write_text(lines)
    main(["eval", *map(str, runs), str(tmp_path / "texts.jsonl"), "--output", str(tmp_path)])
    totals, rows = figures(tmp_path)
    assert [row["run"] for row in totals] == ["rotary", "learned"]
    for row in totals:
        assert int(row["bytes"]) == sum(len(text.encode()) for text in documents)
        assert int(row["documents"]) == 4
        for part in ("length", "position"):
            spans = [one for one in rows if (one["part"], one["run"]) == (part, row["run"])]
            for name in ("tokens", "bytes"):
                assert sum(int(one[name]) for one in spans) == int(row[name])
    out = capsys.readouterr().out
    assert "left out: 1 empty" in out
    assert "split    2 documents longer than 64 tokens: scored in pieces" in out
    assert "all runs" in out


def test_documents_beyond_training_are_scored_whole_where_positions_reach(runs, tmp_path, capsys):
    (tmp_path / "long.txt").write_text("word1 word2 " * 60)
    more = ["--max-length", "1000", "--row-length", "64", "--output", str(tmp_path / "eval")]
    main(["eval", str(runs[0]), str(tmp_path / "long.txt"), *more])
    assert "split" not in capsys.readouterr().out
    _, rows = figures(tmp_path / "eval")
    assert any(row["part"] == "position" and int(row["first"]) > 64 for row in rows)
    with pytest.raises(SystemExit):
        main(["eval", str(runs[0]), str(tmp_path / "long.txt"), *more])
    assert "has an eval.csv: name another folder" in " ".join(capsys.readouterr().err.split())
    more[-1] = str(tmp_path / "learned")
    with pytest.raises(SystemExit):
        main(["eval", str(runs[1]), str(tmp_path / "long.txt"), *more])
    error = capsys.readouterr().err
    assert "longer than in training (64), and Learned knows no positions beyond" in error
    assert error.count("\n") == 1
    more[-1] = str(tmp_path / "both")
    with pytest.raises(SystemExit):
        main(["eval", *map(str, runs), str(tmp_path / "long.txt"), *more])
    out, error = capsys.readouterr()
    assert f"{runs[1]}: documents of " in error
    assert "tokens/s" not in out, "the first was scored before the second was refused"


def test_a_corpus_of_the_runs_tokenizer_is_scored(runs, texts, tmp_path, capsys):
    tokenizer = ["--tokenizer", str(runs[0] / "tokenizer.json")]
    corpus = str(tmp_path / "corpus")
    main(["prepare", str(texts), "--output", corpus, *tokenizer, "--validation-fraction", "0.2"])
    counts = {}
    for split in ("auto", "validation", "train", "all"):
        output = ["--split", split, "--output", str(tmp_path / split)]
        main(["eval", str(runs[0]), corpus, *output])
        (found,), _ = figures(tmp_path / split)
        counts[split] = int(found["documents"])
    assert counts["auto"] == counts["validation"] > 0
    assert counts["train"] + counts["validation"] == counts["all"] == 60


def test_an_exported_run_has_its_figures(runs, texts, tmp_path):
    tokenizer = ["--tokenizer", str(runs[0] / "tokenizer.json")]
    main(["prepare", str(texts), "--output", str(tmp_path / "corpus"), *tokenizer])
    main(["export", str(runs[0]), str(tmp_path / "exported"), "--no-verify"])
    models = [str(runs[0]), str(tmp_path / "exported")]
    main(["eval", *models, str(tmp_path / "corpus"), "--output", str(tmp_path / "eval")])
    ours, exported = figures(tmp_path / "eval")[0]
    assert float(exported["loss"]) == pytest.approx(float(ours["loss"]), rel=1e-6)
    assert exported["bytes"] == ours["bytes"]


def test_a_corpus_of_another_tokenizer_is_refused(runs, texts, tmp_path, capsys):
    corpus = str(tmp_path / "corpus")
    main(["prepare", str(texts), "--output", corpus, "--vocab-size", "280"])
    message(capsys, ["eval", str(runs[0]), corpus], "corpus holds ids of another tokenizer than")


def message(capsys, arguments, expected):
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    error = capsys.readouterr().err
    assert caught.value.code == 1
    assert expected in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--max-length", "1"], "--max-length (1) must be a whole number from 2 up"),
        (["--row-length", "0"], "--row-length (0) must be a whole number from 2 up"),
        (["--field", "body"], "has no field 'body'"),
    ],
)
def test_what_is_out_of_range_is_named(runs, tmp_path, monkeypatch, capsys, more, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "word"}\n')
    message(capsys, ["eval", str(runs[0]), "a.jsonl", *more], expected)
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_what_is_missing_is_named(runs, texts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run, text = str(runs[0]), str(texts)
    message(capsys, ["eval", "nowhere", text], "nowhere does not exist: give a run folder")
    message(capsys, ["eval", run, "nowhere"], "nowhere does not exist: give a file, folder")
    message(capsys, ["eval", run, run, text], "a run is given twice")
    message(capsys, ["eval", run, text, "--output", "/dev/null/eval"], "/dev/null/eval")
    message(capsys, ["eval", run, "nowhere", text, "--output", "first"], "nowhere does not exist")
    assert not (tmp_path / "first").exists()
    (tmp_path / "file").touch()
    message(capsys, ["eval", run, text, "--output", "file"], "--output (file) must be a folder")
    message(capsys, ["eval", run, "file"], "holds no document")
    without = shutil.copytree(run, tmp_path / "without")
    (without / "tokenizer.json").unlink()
    message(capsys, ["eval", str(without), text], "without has no tokenizer.json, so no text can")


def test_a_full_disk_leaves_whole_files_or_no_folder(runs, texts, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(csv.DictWriter, "writerows", full)
        with pytest.raises(SystemExit):
            main(["eval", str(runs[0]), str(texts), "--output", str(tmp_path / "new")])
    told = capsys.readouterr().err
    assert f"cannot write {tmp_path}/new/eval.csv (No space left on device): " in told
    assert "MiB left" in told
    assert list(tmp_path.iterdir()) == []
