"""What the model writes while it is trained: shown, kept, and without a trace in the training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer

from packformer import load
from packformer.batch import PackedBatch
from packformer.corpus.tokenizer import document_marks, train_bpe
from packformer.data import Documents
from packformer.data.packing import Piece
from packformer.data.rows import collate_row
from packformer.generation import encode_prompt
from packformer.run.samples import Samples

Train = Callable[..., object]


def run_of(tmp_path: Path, number: int = -1) -> Path:
    return sorted((tmp_path / "runs").iterdir())[number]


def samples_of(folder: Path) -> list[dict]:
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_same_prompts_are_continued_after_every_validation(
    train, small, tmp_path, corpus
) -> None:
    done = train("+experiment=gqa", *small)
    assert done.code == 0, done.err
    samples = samples_of(run_of(tmp_path))
    assert [s["step"] for s in samples] == [2, 2, 4, 4]
    first, second = samples[0]["prompt"], samples[1]["prompt"]
    assert [s["prompt"] for s in samples] == [first, second] * 2
    assert first != second
    texts = [file.read_text() for file in corpus.iterdir()]
    assert first
    assert second
    assert any(text.startswith(first) for text in texts)
    assert any(second in text for text in texts)  # of the one that was cut, the tail


def row_of(documents: list[list[int]], cuts: list[tuple[int, int, int]]) -> PackedBatch:
    """A row of 64 tokens; the pieces that ``cuts`` name by document, start and length."""
    pieces = [Piece(length, n, document, start) for n, (document, start, length) in enumerate(cuts)]
    return collate_row(
        Documents(documents), pieces, row_length=64, max_seqlen=16, max_documents=8, packer_state={}
    )


def prompts_of(*rows: PackedBatch, tokenizer: Tokenizer) -> list[list[int]]:
    """What is continued after a validation of these rows."""
    samples = Samples()
    samples._tokenizer = tokenizer
    for number, row in enumerate(rows):
        samples.on_validation_batch_start(None, None, row, number)  # type: ignore[arg-type]
    samples._every = 2  # of which this is the first: nothing is written yet
    samples.on_validation_end(SimpleNamespace(state=SimpleNamespace(fn="fit")), None)  # type: ignore[arg-type]
    return samples._prompts


def test_prompts_are_beginnings_of_documents_not_padding() -> None:
    tokenizer = train_bpe(["the moon and the sea"], 300)
    marks = document_marks(tokenizer)
    assert marks is not None
    begin, end = marks
    assert begin == 0  # as is padding
    long, short = [begin, *range(50, 80), end], [begin, 40, 41, end]
    nothing, other = [begin, end], [begin, *range(90, 99), end]
    documents = [long, short, nothing, other]
    later_pieces = row_of(documents, [(0, 16, 16)])
    assert prompts_of(later_pieces, tokenizer=tokenizer) == []
    begins = row_of(documents, [(2, 0, 2), (1, 0, 4), (0, 16, 16)])
    follows = row_of(documents, [(0, 0, 16), (3, 0, 11)])
    found = prompts_of(later_pieces, begins, follows, tokenizer=tokenizer)
    assert found == [[begin, 40, 41], long[:8]]


def test_a_tail_is_continued_for_want_of_beginnings() -> None:
    tokenizer = train_bpe(["the moon"], 300)
    tail, begins = [50, 51, 52, 1], [0, 60, 61, 1]
    row = row_of([tail, begins], [(0, 0, 4), (1, 0, 4)])
    assert prompts_of(row, tokenizer=tokenizer) == [[0, 60, 61], [50, 51, 52]]


def test_a_row_without_documents_has_no_beginning() -> None:
    tokenizer = train_bpe(["the moon"], 300)
    assert prompts_of(row_of([[0, 40, 1]], []), tokenizer=tokenizer) == []


def test_of_one_text_the_tail_is_continued(train, small, tmp_path) -> None:
    text = " ".join(f"word{n * n % 53}" for n in range(2000))
    (tmp_path / "book.txt").write_text(text)
    done = train(*small, f"data.path={tmp_path}/book.txt", "trainer.max_steps=2")
    assert done.code == 0, done.err
    samples = samples_of(run_of(tmp_path))
    assert samples
    assert all(s["prompt"] and s["prompt"] in text for s in samples)


def test_training_is_the_same_without(train, small, tmp_path) -> None:
    for more in ([], ["callbacks.samples=null"]):
        assert train("+experiment=gqa", *small, "logger=csv", *more).code == 0
    with_samples, without = (run_of(tmp_path, n) for n in (0, 1))
    assert not (without / "samples.jsonl").exists()

    def losses(folder: Path) -> list[str]:
        lines = (folder / "metrics.csv").read_text().splitlines()
        names = lines[0].split(",")
        kept = [n for n, name in enumerate(names) if "loss" in name or "norm" in name]
        return [",".join(line.split(",")[n] for n in kept) for line in lines]

    assert losses(with_samples) == losses(without)


def test_prompts_of_ones_own_every_second_validation(train, small, tmp_path) -> None:
    options = ["callbacks.samples.prompts=[the moon,a]", "callbacks.samples.every_n_validations=2"]
    done = train("+experiment=gqa", *small, *options, "callbacks.samples.max_new_tokens=5")
    assert done.code == 0, done.err
    samples = samples_of(run_of(tmp_path))
    assert [(s["step"], s["prompt"]) for s in samples] == [(4, "the moon"), (4, "a")]


@pytest.mark.parametrize("experiment", ["alibi", "local_global", "sliding_window"])
def test_other_variants_are_sampled_too(train, small, tmp_path, experiment) -> None:
    assert train(f"+experiment={experiment}", *small).code == 0
    assert len(samples_of(run_of(tmp_path))) == 4


def test_learned_positions_end_where_documents_may(train, small, tmp_path) -> None:
    options = ["position=learned", "callbacks.samples.max_new_tokens=5000"]
    done = train("+experiment=mha", *small, *options)
    assert done.code == 0, done.err
    assert len(samples_of(run_of(tmp_path))) == 4


def test_a_prompt_that_is_too_long_is_left_out_alone(train, small, tmp_path, caplog) -> None:
    prompts = f"callbacks.samples.prompts=[the moon,{'moon ' * 400},a]"
    done = train("+experiment=mha", *small, "position=learned", prompts)
    assert done.code == 0, done.err
    samples = samples_of(run_of(tmp_path))
    assert [s["prompt"] for s in samples] == ["the moon", "a"] * 2
    told = [line for line in caplog.messages if line.startswith("without")]
    assert len(told) == 1, told
    assert "without  samples of prompt 2 (callbacks.samples.prompts): it has" in told[0]


def test_a_long_prompt_leaves_the_others_their_room(train, small, tmp_path) -> None:
    options = ["+experiment=mha", *small, "position=learned", "callbacks.samples.temperature=0"]
    options += ["callbacks.samples.max_new_tokens=9", "trainer.max_steps=2"]
    done = train(*options, "callbacks.samples.prompts=[the]")
    assert done.code == 0, done.err
    alone = samples_of(run_of(tmp_path))
    model, tokenizer = load(run_of(tmp_path))
    long = "q"
    while len(encode_prompt(tokenizer, long)) < model.max_position - 1:
        long += "q"
    done = train(*options, f"callbacks.samples.prompts=[the,{long}]")
    assert done.code == 0, done.err
    both = samples_of(run_of(tmp_path))
    assert [s["prompt"] for s in both] == ["the", long]
    assert both[0]["text"] == alone[0]["text"]


def test_a_task_without_text_has_no_samples(train, tmp_path) -> None:
    done = train("+experiment=copying", "+debug=fast")
    assert done.code == 0, done.err
    assert not (run_of(tmp_path) / "samples.jsonl").exists()


def test_a_sweep_samples_only_if_asked(train, small, tmp_path) -> None:
    assert train("-m", "seed=0,1", *small, "logger=csv", "trainer.max_steps=2").code == 0
    assert not list(tmp_path.glob("runs/sweeps/*/*/samples.jsonl"))
    options = ["logger=csv", "trainer.max_steps=2", "callbacks.samples.max_new_tokens=3"]
    assert train("-m", "seed=0", *small, *options).code == 0
    assert len(list(tmp_path.glob("runs/sweeps/*/*/samples.jsonl"))) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": "text"}, r"callbacks.samples.prompts \(text\) must be a list of texts"),
        ({"prompts": [""]}, r"must be a list of texts"),
        ({"every_n_validations": 0}, r"callbacks.samples.every_n_validations \(0\) must be"),
        ({"max_new_tokens": 0}, r"callbacks.samples.max_new_tokens \(0\) must be"),
        ({"temperature": -1}, r"temperature \(-1\) must be"),
    ],
)
def test_wrong_settings_are_told(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        Samples(**settings)
