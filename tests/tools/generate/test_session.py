"""``packformer generate``, as it is called."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import unicodedata
from pathlib import Path

import pytest
import torch

from packformer import load
from packformer.cli import main
from packformer.generation import encode_prompt, generate
from packformer.generation.text import printable
from packformer.nn import Rotary
from packformer.tools.generate.lines import Lines


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    words = ["the", "moon", "sees", "a", "small", "boat", "and", "sings", "of", "salt"]
    texts = [" ".join(words[n % 9 :] + words[: n % 9]) for n in range(60)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "songs.jsonl").write_text(lines, encoding="utf-8")
    command = (
        f"train +experiment=gqa data=text data.path={folder}/songs.jsonl data.vocab_size=300 "
        "model.num_layers=2 model.width=32 model.num_heads=4 packing.row_length=128 logger=csv "
        "trainer.max_steps=8 trainer.validate_every_n_steps=8 trainer.accelerator=cpu "
        f"output_dir={folder}/runs"
    )
    main(command.split())
    (made,) = (folder / "runs").iterdir()
    return made


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    main(["generate", *map(str, arguments), "--device", "cpu"])
    return capsys.readouterr().out


def failed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(["generate", *map(str, arguments), "--device", "cpu"])
    assert exit_.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_a_prompt_is_printed_with_what_follows(run: Path, capsys, caplog) -> None:
    caplog.set_level("INFO", "packformer")
    options = ("the moon", "--temperature", 0, "--max-new-tokens", 12)
    model, tokenizer = load(run)
    prompt = encode_prompt(tokenizer, "the moon")
    eos = tokenizer.token_to_id("<|eos|>")
    (new,) = generate(model, [prompt], max_new_tokens=12, stop_tokens=[eos])
    assert told(capsys, run, *options) == printable(f"the moon{tokenizer.decode(new)}\n")
    report = caplog.messages[-1]
    assert f"{len(prompt)} tokens read and {len(new)} written in" in report
    assert "tokens/s" in report
    num_bytes = model.kv_cache_bytes(len(prompt) + 11, 4)
    assert report.endswith(f"keys and values took {num_bytes / 1024:.1f} KiB")


def test_prompts_of_a_file_keep_their_fields_and_order(run: Path, tmp_path: Path, capsys) -> None:
    given = [{"id": n, "question": "sings of " + "salt " * n} for n in range(7)]
    file, output = tmp_path / "prompts.jsonl", tmp_path / "new.jsonl"
    file.write_text("\n".join(json.dumps(each) for each in given) + "\n\n", encoding="utf-8")
    options = ("--field", "question", "--max-new-tokens", 9, "--output", output)
    assert told(capsys, run, "--prompts", file, *options, "--batch-size", 3) == ""
    written = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [{"id": r["id"], "question": r["question"]} for r in written] == given
    assert all(r["stopped"] or r["new_tokens"] == 9 for r in written)
    _, tokenizer = load(run)
    assert all(isinstance(r["text"], str) for r in written)
    assert printable(written[0]["text"]) == told(
        capsys, run, given[0]["question"], "--max-new-tokens", 9
    ).removeprefix(given[0]["question"]).removesuffix("\n")


@pytest.mark.parametrize("number", [1, 2])
def test_a_terminal_gets_no_control_characters(run: Path, tmp_path: Path, capsys, number) -> None:
    """A model may write any, and a prompt may hold some; a file gets the text as it is."""
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "new.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": "a\x1b[2Jb"}) + "\n" for _ in range(number)))
    options = ("--prompts", prompts, "--max-new-tokens", 20, "--temperature", 5)
    out = told(capsys, run, *options)
    assert "a\\x1b[2Jb" in out
    assert not [c for c in out if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    told(capsys, run, *options, "--output", output)
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["prompt"] for line in written] == ["a\x1b[2Jb"] * number
    assert printable("a\x1b[2Jb" + written[0]["text"]) in out


def test_standard_input_is_one_prompt(run: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a small\nboat"))
    out = told(capsys, run, "--max-new-tokens", 3)
    assert out.startswith("a small\nboat")


def test_at_a_terminal_prompts_are_asked_for(run: Path, capsys, monkeypatch) -> None:
    answers = iter(["the moon", "", "a small"])

    def answer(_: str) -> str:
        try:
            return next(answers)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)
    out = told(capsys, run, "--max-new-tokens", 3)
    assert "the moon" in out
    assert "a small" in out


def test_a_token_of_ones_own_ends_a_text(run: Path, capsys) -> None:
    options = ("the moon", "--temperature", 0, "--max-new-tokens", 12)
    _, tokenizer = load(run)
    whole = told(capsys, run, *options).removeprefix("the moon").removesuffix("\n")
    token = tokenizer.encode(whole, add_special_tokens=False).ids[1]
    short = told(capsys, run, *options, "--stop", token).removeprefix("the moon")
    assert whole.startswith(short.removesuffix("\n"))
    assert len(short) < len(whole)


def test_an_empty_prompt_begins_a_document(run: Path, capsys, monkeypatch, tmp_path) -> None:
    told(capsys, run, "", "--max-new-tokens", 5, "--output", tmp_path / "made.jsonl")
    made = json.loads((tmp_path / "made.jsonl").read_text())
    assert made["prompt"] == ""
    assert made["new_tokens"] > 0
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert "standard input is empty: give a prompt" in failed(capsys, run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--prompts", "x.jsonl"], "prompts are given both here and in --prompts"),
        (["--prompts", "nowhere.jsonl"], "--prompts (nowhere.jsonl) cannot be read"),
        (["a", "--stop", "no such token"], "--stop (no such token) is no token"),
        (["a", "--max-new-tokens", "0"], "--max-new-tokens (0) must be"),
        (["a", "--batch-size", "0"], "--batch-size (0) must be"),
        (["a", "--top-p", "2"], "--top-p (2.0) must be at most 1"),
        (["a", "--temperature", "-1"], "--temperature (-1.0) must be"),
        (["a", "--output", "nowhere/x.jsonl"], "--output (nowhere/x.jsonl) lies in no folder"),
    ],
)
def test_bad_input_is_one_line(run: Path, capsys, arguments, message) -> None:
    err = failed(capsys, run, *arguments)
    assert message in err
    assert err.count("\n") == 1


def test_bad_prompts_name_their_line(run: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "prompts.jsonl"
    for line, message in [
        ('{"prompt": ', "line 2, cannot be read as JSON"),
        ('{"text": "a"}', 'line 2, has no text in a field "prompt"'),
        ("3", 'line 2, has no text in a field "prompt"'),
    ]:
        file.write_text('{"prompt": "a"}\n' + line, encoding="utf-8")
        assert message in failed(capsys, run, "--prompts", file)
    file.write_text("\n")
    assert "holds no prompt" in failed(capsys, run, "--prompts", file)


def test_prompts_that_are_no_file_are_not_waited_for(run: Path, tmp_path: Path, capsys) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name in (tmp_path / "pipe.jsonl", tmp_path, "/dev/zero"):
        message = f"--prompts ({name}) is a folder, pipe, socket or device: give a file"
        assert message in failed(capsys, run, "--prompts", name)


def test_an_output_that_exists_is_kept(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "kept.jsonl").write_text("kept")
    assert "exists: name another file" in failed(
        capsys, run, "a", "--output", tmp_path / "kept.jsonl"
    )
    assert (tmp_path / "kept.jsonl").read_text() == "kept"


def test_fields_of_the_prompts_are_never_overwritten(run: Path, tmp_path: Path, capsys) -> None:
    file, output = tmp_path / "prompts.jsonl", tmp_path / "new.jsonl"
    records = [{"text": "the moon"}, {"text": "a", "stopped": "by the sea"}]
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    told(capsys, run, "--prompts", file, "--field", "text", "--output", output)
    made = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    for record, found in zip(records, made, strict=True):
        results = {"generated_text", "generated_new_tokens", "generated_stopped"}
        assert found.keys() == record.keys() | results
        assert {name: found[name] for name in record} == record


def test_a_prompt_that_is_too_long_leaves_no_output(
    run: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    def ends(scheme: Rotary, max_position: int) -> None:
        raise ValueError("positions end")

    monkeypatch.setattr(Rotary, "extend", ends)
    output = tmp_path / "new.jsonl"
    options = ("a", "the moon " * 100, "--batch-size", 1, "--output", output)
    assert "more than the 128 of training, and positions end" in failed(capsys, run, *options)
    assert not output.exists()


def test_too_little_memory_names_what_asks_for_it(run: Path, capsys, monkeypatch) -> None:
    def fails(*given: object, **named: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr("packformer.generation.decoder.KVCache", fails)
    told = "--max-new-tokens (200) and --batch-size (64) need more memory than cpu has: lower one"
    assert told in failed(capsys, run, "a", "b")


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_full_disk_keeps_the_lines_of_before(kept: int, tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "new.jsonl"
    records = [{"prompt": "数据"}] * 3
    lines = Lines(file, records)
    for _ in range(kept):
        lines.add(records[:1], [("x", 1, False)])
    before = file.read_bytes() if kept else b""

    class Full(io.FileIO):
        def write(self, data):
            super().write(bytes(data)[:5])
            raise OSError(errno.ENOSPC, "No space left on device")

    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, mode: Full(path, mode) if mode in ("ab", "xb") else opened(path, mode),
    )
    with pytest.raises(ValueError, match=rf"new.jsonl\): No space left on device: {kept} of 3 te"):
        lines.add(records[:1], [("x", 1, False)])
    assert (file.read_bytes() if kept else b"") == before
    assert file.exists() == bool(kept)


def test_a_folder_that_is_no_run_is_told(tmp_path: Path, capsys) -> None:
    assert "holds no checkpoint" in failed(capsys, tmp_path, "a")


def test_the_dtype_is_the_one_asked_for(run: Path, capsys, monkeypatch) -> None:
    seen: list[torch.dtype] = []
    original = torch.nn.Module.to

    def to(self, *arguments, **options):  # type: ignore[no-untyped-def]
        seen.append(options.get("dtype"))
        return original(self, *arguments, **options)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    told(capsys, run, "a", "--max-new-tokens", 2, "--dtype", "bfloat16")
    assert torch.bfloat16 in seen


def test_prompts_may_follow_options(run: Path, capsys) -> None:
    options = ("--max-new-tokens", 3, "--temperature", 0)
    first = told(capsys, run, "the moon", "a tree", *options)
    assert told(capsys, run, *options, "the moon", "a tree") == first
    assert told(capsys, run, "the moon", *options, "a tree") == first
