"""Hostile configurations of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from .case import (
    GENERATE,
    MARKER,
    RESUME,
    TEXT,
    Case,
    copied,
    write,
)

_CSV = "lightning.pytorch.loggers.CSVLogger"


def _saving(**settings: str) -> dict[str, str]:
    return {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", **settings}


def configurations() -> Iterator[Case]:
    def with_settings(**changes: dict[str, Any]) -> Callable[[Path], None]:
        def build(run: Path) -> None:
            file = run / "config.yaml"
            config = yaml.safe_load(file.read_text())
            for group, settings in changes.items():
                config[group] = {**config[group], **settings}
            file.write_text(yaml.safe_dump(config))
            (run / "evil.py").write_text(f"import os\nos.mkdir({MARKER!r})\ndef f(*a, **k): ...\n")

        return build

    named = {
        f"{group} is {target}": with_settings(**{group: {"_target_": target}})
        for group, target in (
            ("model", "os.system"),
            ("model", "run.evil.f"),
            ("attention", "run.evil.f"),
            ("position", "packformer.cache.os.mkdir"),
            ("packing", "builtins.exec"),
        )
    }
    changes: dict[str, Callable[[Path], None]] = {
        **named,
        "a score function of its own": with_settings(attention={"score_mod": "run.evil.f"}),
        "a kernel of its own": with_settings(attention={"kernel": "run.evil.f"}),
        "a target within a setting": with_settings(
            model={"init_std": {"_target_": "os.mkdir", "path": MARKER}}
        ),
        "a value of the environment": with_settings(model={"width": "${oc.env:HOME}"}),
        "10^9 layers": with_settings(model={"num_layers": 10**9}),
        "a width of 10^9": with_settings(model={"width": 10**9}),
        "documents of 10^12 tokens": with_settings(packing={"max_document_length": 10**12}),
        "a width as text": with_settings(model={"width": "wide"}),
        "a negative number of heads": with_settings(model={"num_heads": -4}),
    }
    outside = "../outside"
    places: dict[str, dict[str, dict[str, Any]]] = {
        "checkpoints outside": {"callbacks": {"checkpoint": _saving(dirpath=outside)}},
        "a checkpoint named outside": {
            "callbacks": {"checkpoint": _saving(filename="../../../outside/best")}
        },
        "metrics outside": {"logger": {"x": {"_target_": _CSV, "save_dir": outside}}},
        "metrics named outside": {
            "logger": {"x": {"_target_": _CSV, "save_dir": None, "name": "../../outside"}}
        },
    }
    for name, settings in places.items():
        arguments = (*RESUME, "trainer.max_steps=9")
        build = copied("run", with_settings(**settings))
        yield Case(f"config.yaml: {name}", "configuration", arguments, build)
    texts: dict[str, bytes] = {
        "nested 100,000 deep": b"[" * 100_000,
        "nested 1,000 deep": b"a: " + b"[" * 1000 + b"]" * 1000,
        "aliases that multiply": b"a: &a [x,x]\n"
        + b"".join(b"%c: &%c [*%c,*%c,*%c]\n" % (c + 1, c + 1, c, c, c) for c in range(97, 121)),
        "a tag that runs": b"model: !!python/object/apply:os.mkdir [ran]\n",
        "40 MB": b"a: '" + b"x" * 40 * 10**6 + b"'",
        "a number of 5,000 digits": b"a: " + b"9" * 5000,
        "no text": b"\x00\xff\xfe" * 50,
        "a list": b"[1, 2]",
    }
    for name, text in texts.items():
        changes[name] = lambda run, t=text: write(run / "config.yaml", t)  # type: ignore[misc]
    for name, change in changes.items():
        yield Case(f"config.yaml: {name}", "configuration", GENERATE, copied("run", change))
    for name in ("model is os.system", "model is run.evil.f", "a target within a setting"):
        for setting in ("resume", "init_from"):
            arguments = (*TEXT, f"{setting}=run") if setting == "init_from" else RESUME
            build = copied("run", changes[name])
            yield Case(f"config.yaml, {setting}: {name}", "configuration", arguments, build)
    for name in ("nested 100,000 deep", "aliases that multiply", "40 MB"):
        beside = (*TEXT[:2], "output_dir=.", "resume=auto", *TEXT[3:], "trainer.max_steps=x")
        yield Case(
            f"config.yaml, beside: {name}", "configuration", beside, copied("run", changes[name])
        )
