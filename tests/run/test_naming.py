"""Names tell runs apart, are short, and fit into any file system."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from packformer.run.naming import folder_suffix, name_of
from packformer.run.of_sweep import with_fixed_settings


@pytest.mark.parametrize(
    ("overrides", "suffix"),
    [
        ([], ""),
        (["+experiment=gqa", "logger=csv", "resume=auto", "hydra.job.num=1", "name=x"], ""),
        (["trainer.max_steps=50"], "_max_steps-50"),
        (["data=text", "data.path=corpora/wiki"], "_data-text_path-corpora-wiki-HASH"),
        (["data.path=/home/me/data/wiki/"], "_path-home-me-data-wiki-HASH"),
        (
            ["data.path=/a/very/long/way/to/the/folder/of/texts"],
            "_path-...-long-way-to-the-folder-of-texts-HASH",
        ),
        (["data.path=[a b,c]"], "_path-a_b-c-HASH"),
        (["data.path=東京"], "_path-東京"),
        (["~callbacks.records"], "_records-null"),
        (["callbacks.records=null"], "_records-null"),
        (["callbacks.records.peak_tflops=null"], ""),
        (["~data.seed"], "_seed-null"),
    ],
)
def test_a_folder_tells_what_the_command_line_changed(overrides: list[str], suffix: str) -> None:
    found = folder_suffix(overrides, "RunMode.RUN")
    assert re.fullmatch(re.escape(suffix).replace("HASH", "[0-9a-f]{6}"), found)


def test_different_values_have_different_names() -> None:
    """Also those that differ in characters alone that a folder's name cannot hold."""
    values = [
        '"a=b"',
        '"a,b"',
        '"a{b"',
        "a/b",
        "/a/b",
        "a-b",
        "a_b",
        '"a b"',
        "[a,b]",
        "a.b",
        "A/b",
    ]
    names = {folder_suffix([f"data.path={value}"], "RunMode.RUN") for value in values}
    assert len(names) == len(values)
    assert "_path-a-b" in names, "what needs no replacement has no hash"


def test_a_cut_is_seen_and_never_lies_within_a_number() -> None:
    """``max_document_length=12`` for 1234567 would be another setting."""
    for width in range(1, 25):
        overrides = [f"{'x' * 30}=1", f"{'y' * width}=1", "length=1234567", "seed=123456789"]
        suffix = folder_suffix(overrides, "RunMode.RUN")
        assert len(suffix) <= 64
        assert re.search(r"\.\.\.-[0-9a-f]{6}$", suffix)
        numbers = re.findall(r"-(\d+)(?=_|\.\.\.)", suffix)
        assert set(numbers) <= {"1", "1234567", "123456789"}, suffix
    assert folder_suffix([f"data.field={'0.' + '1' * 40}"], "RunMode.RUN")[:10] == "_field-..."


def test_in_a_sweep_it_tells_what_differs() -> None:
    job = ["data=text", "data.path=a", "seed=3"]
    with with_fixed_settings(["data", "seed"]):
        assert folder_suffix(job, "RunMode.MULTIRUN") == "_path-a"
        assert folder_suffix(job, "RunMode.RUN") == "_data-text_path-a_seed-3"
    assert folder_suffix(job, "RunMode.MULTIRUN") == "_data-text_path-a_seed-3"


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["+experiment=gqa"], "gqa"),
        (["+experiment=mine"], "gqa experiment=mine"),
        (["optimizer.learning_rate=0.001"], "gqa learning_rate=0.001"),
        (["optimizer.learning_rate=0.0030421683049277314"], "gqa learning_rate=0.00304217"),
        (["seed=123456789"], "gqa seed=123456789"),
        (["data.path='a, b'", 'data.field="it\'s"'], "gqa path=a, b field=it's"),
        (["data.path='東京'"], "gqa path=東京"),
        (["data.corpora=[a,b]"], "gqa corpora=[a,b]"),
        (
            ["model.dropout=0.1", "attention.dropout=0.2"],
            "gqa model.dropout=0.1 attention.dropout=0.2",
        ),
        (["~callbacks.records", "logger=csv"], "gqa records=null logger=csv"),
        (["data.path='a  b'"], "gqa path=a b-HASH"),
        ([f"data.path={'x' * 40}"], f"gqa path=...{'x' * 32}-HASH"),
    ],
)
def test_a_job_of_a_sweep_has_the_name_of_what_differs(overrides: list[str], told: str) -> None:
    """Wherever settings stand that all jobs share, however long."""
    fixed = [f"data.key{n}={'y' * 60}" for n in range(4)]
    with with_fixed_settings([f"data.key{n}" for n in range(4)]):
        for place in range(5):
            found = name_of("gqa", [*fixed[:place], *overrides, *fixed[place:]])
            assert re.fullmatch(re.escape(told).replace("HASH", "[0-9a-f]{6}"), found)


def test_any_overrides_make_a_folder_of_bounded_length(tmp_path: Path) -> None:
    draw = random.Random(0)
    signs = [*"ab/.\\'\"$ {}[](),=:#~é東\n*?<>|%0", "/long/path/", "word" * 20]
    found = {}
    for _ in range(500):
        overrides = [
            f"data.key{number}={''.join(draw.choices(signs, k=draw.randint(0, 12)))}"
            for number in range(draw.randint(1, 8))
        ]
        suffix = folder_suffix(overrides, "RunMode.RUN")
        assert len(suffix) <= 64
        assert re.fullmatch(r"[\w.-]*", suffix)
        if len(suffix) == 64 or "/" in "".join(overrides):  # a hash tells what is missing
            assert found.setdefault(suffix, overrides) == overrides
        (tmp_path / f"x{suffix}").mkdir(exist_ok=True)


def test_runs_on_five_corpora_bear_five_names(
    train: Callable, small: list[str], tmp_path: Path, corpus: Path
) -> None:
    names = "abcde"
    for name in names:
        (tmp_path / name).symlink_to(corpus)
    settings = ["+debug=fast", "data=text", "data.vocab_size=300", "trainer.max_steps=1"]
    done = train("-m", *settings, f"data.path={','.join(names)}")
    assert done.code == 0, done.err
    folders = sorted(f.name for f in tmp_path.glob("runs/sweeps/*/*_*") if f.is_dir())
    assert folders == [f"{n}_default_path-{name}" for n, name in enumerate(names)]
    assert train(*settings, "data.path=a").code == 0
    (folder,) = tmp_path.glob("runs/2*")
    assert folder.name.endswith("_default_debug-fast_data-text_vocab_size-300_max_steps-1_path-a")


def test_the_shown_name_is_bounded(
    train: Callable, small: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    fractions = [f"{key}=0.{'1' * 30}" for key in ("max_grad_norm", "model.init_std")]
    with caplog.at_level("INFO", "packformer"):
        assert train(*small, "trainer.max_steps=1", *fractions).code == 0
    (told,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("run  ")]
    name = told.removeprefix("run      ")
    assert len(name) <= 128
    cut = r"default debug=fast data=text data\.path=.* m.*\.\.\.-[0-9a-f]{6}"
    assert re.fullmatch(cut, name)


def test_of_a_setting_given_twice_the_last_value_is_told():
    overrides = ["trainer.max_steps=60", "seed=1", "trainer.max_steps=400"]
    assert folder_suffix(overrides, "RunMode.RUN") == "_max_steps-400_seed-1"
