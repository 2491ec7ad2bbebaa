"""Every part that docs/extending.md adds from outside the package trains, and a kernel."""

import csv
import inspect
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = "from my_parts import mine\n"
DOCS = Path(__file__).parents[1] / "docs"
KERNEL = (DOCS / "attention.md").read_text(encoding="utf-8").partition("## A kernel of your own\n")
PAGE = (DOCS / "extending.md").read_text(encoding="utf-8") + "".join(KERNEL[1:])
FILES = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [
    shlex.split(line)[3:]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
]


def listed(section):
    """What the first column of a section's table names, without arguments."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)", cell)]


def test_the_page_lists_every_hook_of_a_position_scheme():
    from packformer.nn import Position

    made_of_them = {"scores", "locate", "own_scores"}
    hooks = {name for name in vars(Position) if not name.startswith("_")} - made_of_them
    assert set(listed("A position scheme")) == hooks - {"rotation"} | {"alibi_slopes"}


def test_the_page_lists_what_sources_and_tasks_need():
    from packformer.data.checked_splits import _OF_A_SOURCE
    from packformer.data.tasks import _OF_A_TASK

    assert tuple(listed("A data source")) == _OF_A_SOURCE
    assert tuple(listed("A task")) == (*_OF_A_TASK, "prepare")
    parts = ", ".join(f"`{name}`" for name in listed("A task"))
    assert f"| [task](#a-task) | a dataclass with {parts} | `data=` |" in PAGE


def test_the_page_lists_what_a_kernel_gets():
    from packformer.attention.kernel import KernelFunction

    (_, *arguments) = inspect.signature(KernelFunction.__call__).parameters
    assert listed("A kernel of your own") == arguments


@pytest.fixture
def _parts(tmp_path, monkeypatch):
    """The files of the page, in an empty folder."""
    for name, text in FILES:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as stream:
            stream.write(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_parts", None)


def losses(folder):
    with next(folder.glob("*/metrics.csv")).open() as stream:
        return [float(row["train/loss"]) for row in csv.DictReader(stream) if row["train/loss"]]


@pytest.mark.usefixtures("_parts")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_part_of_ones_own_trains(train, small, tmp_path, command):
    own_data = any(setting.startswith("data=") for setting in command)
    settings = [s for s in small if not (own_data and s.startswith("data"))]
    done = train(*settings, *command, "trainer.max_steps=10")
    assert done.code == 0, done.err
    found = losses(tmp_path / "runs")
    assert len(found) == 10
    assert found[-1] < found[0]


@pytest.mark.usefixtures("_parts")
def test_positions_of_a_scheme_restart_in_every_document():
    from my_parts import Sinusoidal

    from packformer import GPT, PackedLayout

    model = GPT(9, 8, num_layers=1, width=16, num_heads=2, position=Sinusoidal)
    tokens = torch.tensor([[1, 2, 3, 1, 2, 3]])
    logits = model(tokens, PackedLayout.from_lengths([3, 3]))
    assert torch.equal(logits[0, :3], logits[0, 3:])
    assert not torch.allclose(model(tokens, PackedLayout.from_lengths([6]))[0, 3:], logits[0, 3:])


@pytest.mark.usefixtures("_parts")
def test_a_scheme_that_extends_reads_longer_documents():
    from my_parts import Sinusoidal

    from packformer import GPT, PackedLayout

    model = GPT(9, 8, num_layers=1, width=16, num_heads=2, position=Sinusoidal)
    tokens = torch.arange(24)[None] % 9
    before = model(tokens[:, :8], PackedLayout.from_lengths([8]))
    model.extend(24)
    after = model(tokens, PackedLayout.from_lengths([24]))
    torch.testing.assert_close(after[:, :8], before)


@pytest.mark.usefixtures("_parts")
def test_a_score_term_is_trained_and_documents_stay_apart():
    from my_parts import Forgetful

    from packformer import GPT, PackedLayout, SelfAttention

    def attention(width, num_heads):
        return SelfAttention(width, num_heads, kernel="reference")

    torch.manual_seed(0)
    model = GPT(
        9, 8, num_layers=1, width=16, num_heads=2, attention=attention, position=Forgetful
    ).double()
    tokens = torch.tensor([[1, 2, 3, 4, 1, 2, 3, 4]])
    logits = model(tokens, PackedLayout.from_lengths([4, 4]))
    assert torch.allclose(logits[0, :4], logits[0, 4:], rtol=1e-12)
    logits.square().sum().backward()
    assert model.position.rate.grad.isfinite().all()
    assert (model.position.rate.grad != 0).all()
    with torch.no_grad():
        model.position.rate.fill_(3)
    assert not torch.allclose(model(tokens, PackedLayout.from_lengths([4, 4])), logits)


@pytest.mark.usefixtures("_parts")
def test_a_score_term_that_is_not_finite_for_hidden_pairs_is_told(train, small, tmp_path):
    file, right = tmp_path / "my_parts.py", ".clamp(min=0)"
    text = file.read_text()
    assert right in text
    file.write_text(text.replace(right, ""))
    command = ["--config-dir", "my_conf", "position=forgetful", "attention.kernel=reference"]
    done = train(*small, *command)
    assert done.code == 1
    assert "optimizer steps in a row were skipped" in done.err
    assert "or mend Forgetful.score_mod: values and gradients must be finite for" in done.err


@pytest.mark.usefixtures("_parts")
@pytest.mark.parametrize(("factor", "status"), [("", "ok"), (" * 1.1", "wrong")])
def test_a_kernel_of_ones_own_is_proved(train, small, tmp_path, capsys, caplog, factor, status):
    file, right = tmp_path / "my_parts.py", "layout, scoring).to(q.dtype)"
    text = file.read_text()
    assert right in text
    file.write_text(text.replace(right, right + factor))
    (script,) = re.findall(rf"```python\n({SCRIPT}.*?)```", PAGE, flags=re.DOTALL)
    exec(script, {})
    assert capsys.readouterr().out.startswith(f"{status} {{")
    done = train(*small, "attention.kernel=my_parts.mine")
    assert done.code == 0, done.err
    (summary,) = (tmp_path / "runs").glob("*/summary.json")
    told = "proved" if status == "ok" else "although it errs by out "
    kernel = json.loads(summary.read_text())["kernel"]
    assert kernel.startswith(f"mine (slow and exact): as requested, {told}")
    assert ("attention kernel mine errs" in caplog.text) is (status == "wrong")
