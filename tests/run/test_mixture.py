"""A run on several corpora tells the loss of each."""

import csv
import json

import pytest

from packformer.corpus import Input, Preparation, prepare


@pytest.fixture
def corpora(tmp_path):
    """Two folders of one name; the second ten times the first."""
    folders = []
    for name, count, word in [("old", 40, "packed row of"), ("new", 400, "model loss token")]:
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"text": f"{word} {n}"}) + "\n" for n in range(count)))
        tokenizer = folders[0] / "tokenizer.json" if folders else None
        folders.append(tmp_path / name / "corpus")
        prepare(
            Preparation(
                Input((str(file),)),
                folders[-1],
                vocab_size=300,
                tokenizer=tokenizer,
                validation_fraction=0.3,
                workers=1,
            )
        )
    return folders


@pytest.mark.parametrize("rows", ["null", "2"])
def test_each_corpus_has_its_loss_beside_that_of_all(train, corpora, rows):
    finished = train(
        "+debug=fast",
        "data=shards",
        f"data.path=[{','.join(map(str, corpora))}]",
        "packing.row_length=256",
        f"loader.validation_rows={rows}",
        "logger=csv",
        "objective=val/loss/old/corpus",
        "output_dir=runs",
    )
    assert finished.code == 0, finished.err
    (folder,) = (corpora[0].parents[1] / "runs").iterdir()
    with (folder / "metrics.csv").open() as stream:
        last = [row for row in csv.DictReader(stream) if row["val/loss"]][-1]
    losses = [float(last[f"val/loss/{name}/corpus"]) for name in ("old", "new")]
    assert min(losses) < float(last["val/loss"]) < max(losses)
    assert float(last["val/bits_per_byte/old/corpus"]) > 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["val/loss/new/corpus"] == pytest.approx(losses[1])
    for name in ("old", "new"):
        assert f"│   {name}/corpus" in finished.out
