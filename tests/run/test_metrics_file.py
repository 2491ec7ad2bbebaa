"""``metrics.csv`` outlives kills and full disks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from packformer.run.metrics_file import csv_logger, read_metrics

STEPS = [1, 2, 3, 4]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of step 3, which knows of the validation after step 2."""
    file = tmp_path / "last.ckpt"
    callbacks = {"StepRecords": {"validated_step": 2}}
    torch.save({"global_step": 3, "callbacks": callbacks}, file)
    return file


def write_rows(folder: Path) -> None:
    logger = csv_logger(folder, None)
    for step in STEPS:
        logger.log_metrics({"train/loss": 1.25 / step}, step)
        logger.log_metrics({"val/loss": 2.25 / step}, step)


def rows_of(folder: Path) -> list[tuple[int, str]]:
    return [
        (int(row["step"]), "val/loss" if "val/loss" in row else "train/loss")
        for row in read_metrics(folder)
    ]


def test_rows_before_the_checkpoint_stay_and_others_follow(
    tmp_path: Path, checkpoint: Path
) -> None:
    write_rows(tmp_path)
    whole = read_metrics(tmp_path)
    logger = csv_logger(tmp_path, checkpoint)
    kept = [(1, "train/loss"), (1, "val/loss"), (2, "train/loss"), (2, "val/loss")]
    assert rows_of(tmp_path) == [*kept, (3, "train/loss")]
    logger.log_metrics({"val/loss": 0.75}, 3)
    assert read_metrics(tmp_path) == whole[:6]


def test_half_a_row_is_no_row(tmp_path: Path) -> None:
    write_rows(tmp_path)
    file = tmp_path / "metrics.csv"
    whole = read_metrics(tmp_path)
    for cut in range(1, len(file.read_bytes().splitlines()[-1]) + 2):
        file.write_bytes(file.read_bytes()[:-1])
        assert read_metrics(tmp_path) == whole[:-1], f"without the last {cut} bytes"


def test_rows_wait_for_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = csv_logger(tmp_path, None)
    logger.log_metrics({"train/loss": 1.0}, 1)
    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "open", _half_a_row)
        for step in (2, 3):
            logger.log_metrics({"train/loss": 1.0}, step)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]
    assert caplog.text.count("its rows wait for room") == 1
    logger.log_metrics({"train/loss": 1.0}, 4)
    assert [row["step"] for row in read_metrics(tmp_path)] == STEPS


def _half_a_row(file: Path, *_: object, **__: object) -> None:
    with open(file, "ab") as stream:
        stream.write(b"1.")
    raise OSError(28, "No space left on device")


def test_new_columns_are_added_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = csv_logger(tmp_path, None)
    logger.log_metrics({"train/loss": 1.0}, 1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            logger.log_metrics({"val/loss": 2.0}, 1)
    assert read_metrics(tmp_path) == [{"step": 1.0, "train/loss": 1.0}]
    logger.finalize("success")
    assert rows_of(tmp_path) == [(1, "train/loss"), (1, "val/loss")]


def test_a_file_without_rows_that_count_begins_anew(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss\n9,1.0\n")
    csv_logger(tmp_path, checkpoint).log_metrics({"train/loss": 2.0}, 4)
    assert read_metrics(tmp_path) == [{"step": 4.0, "train/loss": 2.0}]


@pytest.mark.parametrize("value", [b"\xff.25", b'"1.25', b"1.2x"])
def test_a_damaged_line_takes_no_other(
    tmp_path: Path, checkpoint: Path, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows(tmp_path)
    file = tmp_path / "metrics.csv"
    damaged = file.read_bytes().replace(b"1.25", value, 1)
    file.write_bytes(damaged + b"4," + b"9" * 200_000 + b"\n")
    csv_logger(tmp_path, checkpoint)
    assert rows_of(tmp_path) == [
        (1, "val/loss"),
        (2, "train/loss"),
        (2, "val/loss"),
        (3, "train/loss"),
    ]
    assert "metrics.csv is damaged: 2 lines left out" in caplog.text
    assert (tmp_path / "metrics-damaged.csv").read_bytes().startswith(damaged)


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b'\xfe\x00,"garbage', "1 line left out"),
        (b"\n\xfegarbage", "1 line left out"),
        (b"\xfegarbage\n\x00", "1 line left out"),
        (b'"step,train/loss\n1,2.5\n2,2.5\n', "3 lines left out"),
    ],
)
def test_what_holds_no_header_is_kept_beside_the_new_file(
    tmp_path: Path,
    checkpoint: Path,
    content: bytes,
    lines: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    csv_logger(tmp_path, checkpoint).log_metrics({"train/loss": 2.0}, 4)
    assert read_metrics(tmp_path) == [{"step": 4.0, "train/loss": 2.0}]
    assert f"metrics.csv is damaged: {lines}, and kept in metrics-damaged.csv" in caplog.text
    assert (tmp_path / "metrics-damaged.csv").read_bytes() == content


@pytest.mark.parametrize("content", ["", "\n", "step,train/loss\n", "step,train/loss\n1,2."])
def test_a_file_that_lost_all_rows_is_told(
    tmp_path: Path, checkpoint: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "metrics.csv").write_text(content)
    csv_logger(tmp_path, checkpoint).log_metrics({"train/loss": 2.0}, 4)
    assert read_metrics(tmp_path) == [{"step": 4.0, "train/loss": 2.0}]
    told = "metrics.csv holds no row: what was recorded up to step 3 is lost"
    assert told in caplog.text
    assert not (tmp_path / "metrics-damaged.csv").exists()


def test_an_empty_line_is_no_damage(
    tmp_path: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows(tmp_path)
    file = tmp_path / "metrics.csv"
    whole = read_metrics(tmp_path)
    header, *rows = file.read_text().splitlines(keepends=True)
    file.write_text("".join(["\n", header, rows[0], "\r\n", *rows[1:]]), newline="")
    assert read_metrics(tmp_path) == whole
    csv_logger(tmp_path, checkpoint)
    assert read_metrics(tmp_path) == whole[:5]
    assert not caplog.text
    assert not (tmp_path / "metrics-damaged.csv").exists()
