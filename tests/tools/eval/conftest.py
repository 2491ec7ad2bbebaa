"""Two runs of a second, on the same text."""

from pathlib import Path

import pytest

from packformer.command_line.main import main as train


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """A folder of short documents, none longer than 64 tokens."""
    folder = tmp_path_factory.mktemp("texts")
    for number in range(60):
        words = [f"word{(number * 7 + i * i) % 53}" for i in range(1 + number % 9)]
        (folder / f"{number:02}.txt").write_text(" ".join(words), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def runs(texts, tmp_path_factory) -> tuple[Path, Path]:
    """Folders of a rotary and a learned run, for documents of up to 64 tokens."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for position in ("rotary", "learned"):
            train(
                [
                    *("+experiment=gqa", "+debug=fast", "data=text", f"data.path={texts}"),
                    *("data.vocab_size=300", "packing.max_document_length=64"),
                    *("loader.validation_rows=null", f"position={position}"),
                    f"hydra.run.dir={folder / position}",
                ]
            )
    return folder / "rotary", folder / "learned"
