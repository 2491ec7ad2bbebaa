"""What pages, comments and tools tell of the kernels is what the kernels say of themselves."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from packformer.attention import FEATURES, KERNELS, select_kernel
from packformer.attention.kernels import BY_PREFERENCE
from packformer.attention.proof.verdicts import machine
from packformer.command_line.checks import CHOICES
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


def rivals(device, *features, without=()):
    """The kernels that ``auto`` times for a variant, where all but some are there and right."""
    found = []
    for kernel in BY_PREFERENCE:
        fits = device in kernel.devices and set(features) <= kernel.features
        if fits and kernel.name not in without and not {*kernel.slower_than} & {*found}:
            found.append(kernel.name)
    return found


def competing(page, heading):
    """Kernels named in each row of the table below a heading; those after a semicolon apart."""
    text = page.split(heading)[1].split("\n\n")[0]
    rows = [line.split("|")[2] for line in text.splitlines()[2:]]
    return [[re.findall(r"`(\w+)`", part) for part in row.split(";")] for row in rows]


def test_the_pages_tell_which_kernels_compete():
    plain = rivals("cuda", without=["flash4"])
    other = [rivals("cuda", name, without=["flash4"]) for name in ("alibi", "soft_cap")]
    others = [rivals("cuda", name, without=["flash4"]) for name in ("bias", "score_mod")]
    assert other[0] == other[1] == others[0] == others[1]
    assert rivals("cuda") == ["flash4"]
    cpu = rivals("cpu")
    found = competing(PAGE, "| machine | kernels |")
    assert found == [[["flash4", *plain]], [plain, other[0]], [cpu]]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = competing(readme, "| machine | kernels that compete |")
    assert found == [[plain], [other[0]], [["flash4"]], [cpu]]
    assert {"alibi", "given_alibi", "soft_cap"} <= KERNELS["flash4"].features
    assert "learned_alibi" not in KERNELS["flash4"].features  # "except with learned slopes"


def test_verdicts_depend_on_every_package_a_kernel_computes_with():
    packages = {package for kernel in KERNELS.values() for package in kernel.packages}
    assert {"xformers", "flash-attn-4", "nvidia-cutlass-dsl", "triton"} == packages
    assert packages | {"torch"} <= set(machine("cpu"))


def test_a_docstring_lists_no_kernels():
    named = [name for name in KERNELS if re.search(rf"\b{name}\b", select_kernel.__doc__)]
    assert named == ["reference"]


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
