"""What pages, comments and tools tell of the kernels is what the kernels say of themselves."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from packformer.attention import FEATURES, KERNELS
from packformer.run.checks import CHOICES
from packformer.tools.doctor.examination import VARIANTS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "attention.md").read_text(encoding="utf-8")
NAMES = {"cpu": "CPU", "cuda": "CUDA"}
DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
COLUMNS = {
    "window": ["window"],
    "grouped": ["grouped"],
    "ALiBi: published / given / learned": ["alibi", "given_alibi", "learned_alibi"],
    "soft-cap": ["soft_cap"],
    "bias tensor": ["bias"],
    "score function": ["score_mod"],
}


def table():
    """The page's table: what stands in each column, by kernel."""
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    start = next(n for n, line in enumerate(lines) if line.startswith("| kernel | devices |"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:]]
    kernels = rows[2 : 2 + len(KERNELS)]
    return {row[0].strip("`"): dict(zip(rows[0], row, strict=True)) for row in kernels}


def test_the_page_lists_all_kernels():
    assert list(table()) == list(KERNELS)


@pytest.mark.parametrize("name", KERNELS)
def test_the_page_tells_what_the_kernel_supports(name):
    kernel, row = KERNELS[name], table()[name]
    devices = row["devices"].split(", ")
    assert {NAMES[d] for d in kernel.devices} == {d for d in devices if d in NAMES.values()}
    shown = {DTYPES.get(dtype, "fp64") for dtype in kernel.dtypes}
    assert row["dtypes"] == "all" if len(shown) == 4 else set(row["dtypes"].split(", ")) == shown
    sizes = kernel.head_dims
    step = f", by {sizes.step}" if sizes.step > 1 else ""
    described = "any" if sizes == range(1, 4097) else f"{sizes[0]} to {sizes[-1]}{step}"
    assert row["head sizes"] == described
    for column, features in COLUMNS.items():
        cells = [cell.strip() for cell in row[column].split("/")]
        cells += [""] * (len(features) - len(cells))
        supported = ["yes" if feature in kernel.features else "" for feature in features]
        assert cells == supported, column


def test_every_feature_has_a_column():
    listed = {feature for features in COLUMNS.values() for feature in features}
    assert listed | {"learned_bias"} == set(FEATURES)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "conf" / "attention").glob("*.yaml")), ids=lambda path: path.stem
)
def test_comments_of_the_configuration_name_all_kernels(path):
    text = path.read_text(encoding="utf-8")
    (comment,) = re.findall(r"^kernel: auto +# auto: [^|]*\| (.*)$", text, flags=re.MULTILINE)
    assert comment.split(" | ") == list(KERNELS)
    assert yaml.safe_load(text)["kernel"] == "auto"


def test_the_choices_of_a_run_are_the_kernels():
    assert CHOICES["attention.kernel"] == ("auto", *KERNELS)


def test_the_doctor_examines_every_feature():
    assert frozenset().union(*VARIANTS.values()) == set(FEATURES)
