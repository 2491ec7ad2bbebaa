"""Imports point downwards, and each outside library is known in one place."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "packformer"
FILES = sorted(SOURCE.rglob("*.py"))

# What each part may import of packformer, beside itself.
BELOW = {
    # All but "lazy" for types.
    "__init__": {
        "attention",
        "batch",
        "data",
        "evaluation",
        "generation",
        "lazy",
        "model",
        "nn",
        "run",
    },
    "cache": set(),
    "interruption": set(),
    "lazy": set(),
    "new_folder": set(),
    "output": set(),
    "files_below": set(),
    "path_kind": set(),
    "settings": set(),
    "requirements": {"settings"},
    "threads": set(),
    "layer_pattern": {"settings"},
    "mean_loss": set(),
    "whole_file": set(),
    "nn": {"settings", "requirements"},
    "attention": {"cache", "nn", "settings", "whole_file"},
    "batch": {"attention"},
    "model": {"attention", "nn", "settings", "requirements"},
    "corpus": {"interruption", "path_kind", "settings", "whole_file"},
    "data": {
        "attention",
        "batch",
        "cache",
        "corpus",
        "interruption",
        "lazy",
        "path_kind",
        "requirements",
        "settings",
        "whole_file",
    },
    "completion": set(),
    "__main__": {"cli"},
    "cli": {
        "cache",
        "command_line",
        "completion",
        "output",
        "path_kind",
        "ranks",
        "run",
        "threads",
        "tools",
    },
    "command_line": {
        "cache",
        "compilers",
        "completion",
        "data",
        "layer_pattern",
        "output",
        "path_kind",
        "ranks",
        "requirements",
        "run",
        "settings",
        "sweeps",
        "threads",
        "whole_file",
    },
    "training": {
        "attention",
        "batch",
        "cache",
        "interruption",
        "mean_loss",
        "model",
        "requirements",
        "settings",
        "whole_file",
    },
    "generation": {"attention", "corpus", "model", "nn", "settings"},
    "evaluation": {"attention", "batch", "data", "mean_loss", "model", "settings"},
    "huggingface": {
        "attention",
        "corpus",
        "model",
        "new_folder",
        "nn",
        "requirements",
        "settings",
        "whole_file",
    },
    "ranks": {"interruption", "whole_file"},
    "compilers": {"cache", "interruption", "ranks"},
    "run": {
        "attention",
        "batch",
        "cache",
        "compilers",
        "corpus",
        "data",
        "files_below",
        "generation",
        "huggingface",
        "layer_pattern",
        "model",
        "path_kind",
        "ranks",
        "requirements",
        "settings",
        "training",
        "whole_file",
    },
    "study": {"files_below", "mean_loss", "settings", "whole_file"},
    "sweeps": {"interruption", "path_kind", "ranks", "run", "settings", "whole_file"},
    "tools": {
        "attention",
        "batch",
        "command_line",
        "corpus",
        "data",
        "generation",
        "evaluation",
        "huggingface",
        "interruption",
        "model",
        "new_folder",
        "nn",
        "path_kind",
        "requirements",
        "run",
        "settings",
        "study",
        "training",
        "whole_file",
    },
}
# Small helpers that import no part, and that every part may import.
EVERYWHERE = {"bounded", "counted", "masking"}
# Which files may import an outside library.
ONLY_IN = {
    "hydra": {"command_line", "run", "sweeps"},
    "omegaconf": {"command_line", "run", "sweeps", "tools/bench/step/bench.py"},
    "lightning": {"run", "training", "data", "ranks", "tools/bench/step/bench.py"},
    "torchao": {"training/float8.py"},
    "torchmetrics": {"training", "run/lean.py"},
    "safetensors": {"huggingface/shards.py"},
    "tokenizers": {
        *("corpus", "data", "generation", "huggingface", "tools"),
        *("run/load.py", "run/samples.py", "run/read_source.py", "run/new_data.py"),
    },
    "transformers": {
        "huggingface/verify.py",
        "tools/bench/generate/bench.py",
        "tools/bench/step/peers.py",
    },
    "rich": {"run", "sweeps", "tools"},
    "filelock": {
        "attention/proof/verdicts.py",
        "cache.py",
        "corpus/output_folder.py",
        "data/fetch.py",
        "run/lock.py",
        "run/place.py",  # for a type
    },
    "xformers": {"attention/load_xformers.py", "attention/layout.py"},  # the latter for a type
    "wandb": {"run/wandb.py"},
    "matplotlib": {"run/curve.py", "study", "tools"},
    "scipy": {"study"},
    "lm_eval": {"tools/lm_eval/adapter.py", "tools/lm_eval/command.py"},
}


@pytest.mark.parametrize(
    ("library", "word"),
    [("hydra", "Hydra"), ("omegaconf", "OmegaConf"), ("lightning", "Lightning")],
)
def test_the_page_tells_who_knows_the_libraries_of_a_run(library: str, word: str) -> None:
    page = (SOURCE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.split("\n## ")[1]
    rows = re.findall(r"^\| (`.*?) \|.*\| (.*) \|$", section, flags=re.MULTILINE)
    told = {name for names, known in rows if word in known for name in re.findall(r"\w+", names)}
    assert told == {place.split("/")[0] for place in ONLY_IN[library]}


def _imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_point_downwards(file: Path) -> None:
    place = file.relative_to(SOURCE)
    part = place.parts[0].removesuffix(".py")
    below = set() if part in EVERYWHERE else BELOW[part] | EVERYWHERE
    for name in _imports(file):
        library, *rest = name.split(".")
        # Nor a name of the front door, which stands above all parts.
        if library == "packformer" and rest and rest != ["__version__"]:
            assert rest[0] in {part, *below}, f"{place} imports {name}"
        if library in ONLY_IN:
            allowed = ONLY_IN[library]
            assert part in allowed or str(place) in allowed, f"{place} imports {name}"
