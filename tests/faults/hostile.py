"""Hostile files, by name: what is damaged or planted, and the command that reads it.

``try_hostile.py`` tries all of them.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

MARKER = "ran"
"""What a payload makes in the folder of its case."""
UNCHANGED = "unchanged"
"""Kind of the cases in which nothing is hostile."""
CANARY = "canary-3c5a1e"
"""What files outside of the folder of the case hold."""


@dataclass(frozen=True)
class Material:
    """Whole files that cases begin with.

    Attributes:
        run: folder of a run.
        model: the same as a folder of transformers.
        corpus: that was prepared.
        text: a file.
    """

    run: Path
    model: Path
    corpus: Path
    text: Path


@dataclass(frozen=True)
class Case:
    """A hostile file, and who reads it.

    Attributes:
        name: of the case.
        kind: of the file.
        arguments: of ``packformer``.
        build: makes the files in an empty folder.
    """

    name: str
    kind: str
    arguments: tuple[str, ...]
    build: Callable[[Path, Material], None]


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (MARKER,)


_TRAIN = ("train", "+debug=fast", "output_dir=runs")
_SHARDS = (*_TRAIN, "data=shards", "data.path=corpus")
_UNCHECKED = (*_SHARDS, "data.verify=false")
_TEXT = (*_TRAIN, "data=text", "data.path=text.txt")
_GENERATE = ("generate", "run", "word1", "--max-new-tokens", "4")
_GENERATE_MODEL = ("generate", "model", "word1", "--max-new-tokens", "4")


def cases() -> list[Case]:
    """All of them."""
    return [
        *_whole(),
        *_manifests(),
        *_shards(),
        *_checkpoints(),
        *_configurations(),
        *_models(),
        *_rest(),
    ]


def _copied(source: str, change: Callable[[Path], None]) -> Callable[[Path, Material], None]:
    def build(folder: Path, material: Material) -> None:
        shutil.copytree(getattr(material, source), folder / source, symlinks=True)
        shutil.copyfile(material.text, folder / "text.txt")
        change(folder / source)

    return build


def _changed_json(file: Path, change: Callable[[Any], Any]) -> None:
    values = json.loads(file.read_text())
    file.write_text(json.dumps(change(values)))


def _whole() -> Iterator[Case]:
    """Files that nobody changed: what reads them must not fail for another reason."""

    def unchanged(folder: Path) -> None:
        pass

    for source, arguments in (
        ("corpus", _SHARDS),
        ("corpus", _UNCHECKED),
        ("run", _GENERATE),
        ("run", _RESUME),
        ("run", (*_TEXT, "init_from=run")),
        ("run", ("export", "run", "out")),
        ("model", _GENERATE_MODEL),
        ("model", (*_TEXT, "init_from=model")),
    ):
        name = f"whole {source}: {' '.join(arguments)}"
        yield Case(name, UNCHANGED, arguments, _copied(source, unchanged))


def _manifests() -> Iterator[Case]:
    def shard(**changes: Any) -> Callable[[Any], Any]:
        def change(values: Any) -> Any:
            values["train"][0].update(changes)
            return values

        return change

    def top(**changes: Any) -> Callable[[Any], Any]:
        return lambda values: {**values, **changes}

    changes: dict[str, Callable[[Any], Any]] = {
        "file above the folder": shard(file="../outside.tokens"),
        "absolute file": shard(file="/etc/passwd"),
        "file with a zero byte": shard(file="a\0b"),
        "empty file name": shard(file=""),
        "sha256 is a path": shard(sha256="/tmp/x"),
        "sha256 is a number": shard(sha256=7),
        "tokenizer_sha256 is a path": top(tokenizer_sha256="../../x"),
        "negative documents": shard(documents=-1),
        "tokens beyond the file": shard(tokens=10**15),
        "tokens as text": shard(tokens="many"),
        "tokens as a list": shard(tokens=[1]),
        "documents true": shard(documents=True),
        "more documents than tokens": shard(documents=10**6, tokens=5),
        "no tokens": shard(documents=0, tokens=0),
        "vocabulary of 4 billion": top(vocab_size=2**32, dtype="uint32"),
        "vocabulary of 65,536": top(vocab_size=2**16),
        "vocabulary of nothing": top(vocab_size=0),
        "dtype object": top(dtype="object"),
        "dtype float64": top(dtype="float64"),
        "remarks that clear the screen": top(remarks=["\x1b[2J\x1b]0;x\x07"]),
        "remarks without end": top(remarks=["x" * 10**6]),
        "fraction not a number": top(validation_fraction="a"),
        "left_out as text": top(left_out="x"),
        "shards as text": top(train="x"),
        "a list": lambda values: [values],
        "unknown fields": top(__class__="x"),
    }
    for name, change in changes.items():
        build = _copied("corpus", lambda f, c=change: _changed_json(f / "manifest.json", c))  # type: ignore[misc]
        yield Case(f"manifest: {name}", "corpus", _SHARDS, build)
    texts: dict[str, bytes] = {
        "nested 200,000 deep": b"[" * 200_000,
        "a number of 5,000 digits": b'{"format": ' + b"1" * 5000 + b"}",
        "no text": b"\xff\xfe\x00" * 100,
        "empty": b"",
    }
    for name, text in texts.items():
        build = _copied("corpus", lambda f, t=text: _write(f / "manifest.json", t))  # type: ignore[misc]
        yield Case(f"manifest: {name}", "corpus", _SHARDS, build)


def _write(file: Path, content: bytes) -> None:
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def _first_shard(corpus: Path) -> Path:
    return corpus / json.loads((corpus / "manifest.json").read_text())["train"][0]["file"]


def _rehash(corpus: Path, **changes: Any) -> None:
    """Has the manifest fit the first shard."""
    import hashlib

    digest = hashlib.sha256(_first_shard(corpus).read_bytes()).hexdigest()

    def change(values: Any) -> Any:
        values["train"][0].update(sha256=digest, **changes)
        return values

    _changed_json(corpus / "manifest.json", change)


def _shards() -> Iterator[Case]:
    def patched(place: int, content: bytes) -> Callable[[Path], None]:
        def change(corpus: Path) -> None:
            file = _first_shard(corpus)
            data = bytearray(file.read_bytes())
            at = place if place >= 0 else len(data) + place
            data[at : at + len(content)] = content
            file.write_bytes(data)
            _rehash(corpus)

        return change

    def linked(name: str) -> Callable[[Path], None]:
        def change(corpus: Path) -> None:
            file = _first_shard(corpus) if name == "shard" else corpus / name
            outside = corpus.parent.parent / "outside" / file.name
            shutil.move(file, outside)
            file.symlink_to(outside)

        return change

    def sparse(corpus: Path) -> None:
        with _first_shard(corpus).open("wb") as stream:
            stream.truncate(2**41 + 8)

        def change(values: Any) -> Any:
            values["train"][0].update(documents=1, tokens=2**40)
            return values

        _changed_json(corpus / "manifest.json", change)

    def pipe(corpus: Path) -> None:
        file = _first_shard(corpus)
        file.unlink()
        os.mkfifo(file)

    changes: dict[str, Callable[[Path], None]] = {
        "ids of 65,535": patched(2, b"\xff\xff"),
        "ends that descend": patched(-16, bytes([255] * 8)),
        "ends of zero": patched(-16, bytes(8)),
        "a link out of the folder": linked("shard"),
        "a tokenizer that is a link out of the folder": linked("tokenizer.json"),
    }
    for name, change in changes.items():
        build = _copied("corpus", change)
        yield Case(f"shard: {name}", "corpus", _SHARDS, build)
        yield Case(f"shard, not verified: {name}", "corpus", _UNCHECKED, build)
    yield Case("shard: a hole of 2 TiB", "corpus", _SHARDS, _copied("corpus", sparse))
    yield Case("shard: a pipe", "corpus", _SHARDS, _copied("corpus", pipe))
    yield Case(
        "shard: inspected, ids of 65,535",
        "corpus",
        ("inspect", "corpus"),
        _copied("corpus", patched(2, b"\xff\xff")),
    )


def _checkpoints() -> Iterator[Case]:
    def saved(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
        def build(run: Path) -> None:
            file = run / "checkpoints" / "last.ckpt"
            checkpoint = torch.load(file, weights_only=True)
            (run / "checkpoints" / "best.ckpt").unlink(missing_ok=True)
            torch.save(change(checkpoint), file)

        return build

    def with_shards(**changes: Any) -> Callable[[dict[str, Any]], Any]:
        described = {"path": ["state_dict", "model.x"], "shape": [1], "dtype": "float32"}
        whole = {"folder": "a", "files": {".metadata": [1, 1]}, "tensors": {"x": described}}
        return lambda checkpoint: {**checkpoint, "shards": {**whole, **changes}}

    def replaced(content: bytes) -> Callable[[Path], None]:
        def build(run: Path) -> None:
            for name in ("best", "last"):
                _write(run / "checkpoints" / f"{name}.ckpt", content)

        return build

    def zipped(compressed: bool, pickled: bytes, times: int = 1) -> Callable[[Path], None]:
        def build(run: Path) -> None:
            kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
            for name in ("best", "last"):
                file = run / "checkpoints" / f"{name}.ckpt"
                with zipfile.ZipFile(file, "w", kind) as archive:
                    archive.writestr("archive/data.pkl", pickled)
                    archive.writestr("archive/version", "3")
                    for number in range(times - 1):
                        archive.writestr(f"archive/data/{number}", bytes(2**27))

        return build

    def table(run: Path) -> None:
        folder = run / "checkpoints" / "shards" / "a"
        folder.mkdir(parents=True)
        content = pickle.dumps(_Payload())
        (folder / ".metadata").write_bytes(content)
        import zlib

        files = {".metadata": [len(content), zlib.crc32(content)]}
        described = {"path": ["state_dict", "model.x"], "shape": [1], "dtype": "float32"}
        saved(
            with_shards(files=files, tensors={"x": {**described, "shape": [0]}}),
        )(run)

    def claimed(checkpoint: dict[str, Any]) -> Any:
        state = dict(checkpoint["state_dict"])
        state["model.embedding.weight"] = torch.zeros(1).expand(10**9, 64)
        return {**checkpoint, "state_dict": state}

    changes: dict[str, Callable[[Path], None]] = {
        "a pickle that runs": replaced(pickle.dumps(_Payload())),
        "an archive whose pickle runs": zipped(False, pickle.dumps(_Payload())),
        "a module that runs": saved(lambda c: {**c, "x": _Payload()}),
        "a table of parts that runs": table,
        "an archive that unpacks to 4 GiB": zipped(True, pickle.dumps({}), 32),
        "shards in a folder above": saved(with_shards(folder="../../../outside")),
        "shards in an absolute folder": saved(with_shards(folder="/etc")),
        "parts above the folder": saved(with_shards(files={"../x": [1, 1]})),
        "parts of negative size": saved(with_shards(files={".metadata": [-1, 1]})),
        "shards as text": saved(lambda c: {**c, "shards": "x"}),
        "a tensor of 10^15 values in shards": saved(
            with_shards(
                tensors={"x": {"path": ["state_dict", "a"], "shape": [10**15], "dtype": "int8"}}
            )
        ),
        "a tensor that repeats one value 64 billion times": saved(claimed),
        "weights as text": saved(lambda c: {**c, "state_dict": "x"}),
        "weights of numbers": saved(lambda c: {**c, "state_dict": {"model.norm.weight": 3}}),
        "no weights": saved(lambda c: {**c, "state_dict": {}}),
        "a list": saved(lambda c: [c]),
        "a step as text": saved(lambda c: {**c, "global_step": "x"}),
        "no place in the data": saved(lambda c: {**c, "PackedDataModule": 3}),
        "text": replaced(b"x" * 1000),
        "empty": replaced(b""),
        "zeros": replaced(bytes(2**20)),
    }
    for name, change in changes.items():
        build = _copied("run", change)
        yield Case(f"checkpoint: {name}", "checkpoint", _GENERATE, build)
    for name in ("a step as text", "no place in the data", "shards in a folder above"):
        build = _copied("run", changes[name])
        yield Case(f"checkpoint, resumed: {name}", "checkpoint", ("train", "resume=run"), build)
    build = _copied("run", changes["an archive whose pickle runs"])
    resumed = ("train", "resume=run/checkpoints/last.ckpt")
    yield Case("checkpoint, resumed: an archive whose pickle runs", "checkpoint", resumed, build)


def _configurations() -> Iterator[Case]:
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
        changes[name] = lambda run, t=text: _write(run / "config.yaml", t)  # type: ignore[misc]
    for name, change in changes.items():
        yield Case(f"config.yaml: {name}", "configuration", _GENERATE, _copied("run", change))
    for name in ("model is os.system", "model is run.evil.f", "a target within a setting"):
        for setting in ("resume", "init_from"):
            arguments = (*_TEXT, f"{setting}=run") if setting == "init_from" else _RESUME
            build = _copied("run", changes[name])
            yield Case(f"config.yaml, {setting}: {name}", "configuration", arguments, build)
    for name in ("nested 100,000 deep", "aliases that multiply", "40 MB"):
        beside = (*_TEXT[:2], "output_dir=.", "resume=auto", *_TEXT[3:], "trainer.max_steps=x")
        yield Case(
            f"config.yaml, beside: {name}", "configuration", beside, _copied("run", changes[name])
        )


_RESUME = ("train", "resume=run")


def _models() -> Iterator[Case]:
    def config(**changes: Any) -> Callable[[Path], None]:
        return lambda model: _changed_json(model / "config.json", lambda v: {**v, **changes})

    def index(names: Any) -> Callable[[Path], None]:
        def build(model: Path) -> None:
            text = json.dumps({"weight_map": {"model.norm.weight": names}})
            (model / "model.safetensors.index.json").write_text(text)

        return build

    def linked(model: Path) -> None:
        outside = model.parent.parent / "outside" / "model.safetensors"
        shutil.move(model / "model.safetensors", outside)
        (model / "model.safetensors").symlink_to(outside)

    def header(text: bytes, size: int | None = None) -> Callable[[Path], None]:
        content = struct.pack("<Q", len(text) if size is None else size) + text
        return lambda model: _write(model / "model.safetensors", content)

    changes: dict[str, Callable[[Path], None]] = {
        "10^12 positions": config(max_position_embeddings=10**12),
        "10^9 layers": config(num_hidden_layers=10**9),
        "a width of 10^12": config(hidden_size=10**12),
        "a vocabulary of 10^12": config(vocab_size=10**12),
        "heads as text": config(num_attention_heads="4"),
        "key heads as text": config(num_key_value_heads="x"),
        "a head size that is a list": config(head_dim=[16]),
        "a rotary base as text": config(rope_theta="x"),
        "an infinite rotary base": config(rope_theta=float("inf")),
        "rotary settings as text": config(rope_scaling={"rope_type": "llama3", "factor": "x"}),
        "code of its own": config(auto_map={"AutoModelForCausalLM": "evil.Model"}),
        "an unknown architecture": config(model_type="../x"),
        "an index above the folder": index("../../outside/model.safetensors"),
        "an index of an absolute file": index("/etc/passwd"),
        "an index of numbers": index(3),
        "an index as text": lambda m: _write(m / "model.safetensors.index.json", b"{"),
        "an index nested 200,000 deep": lambda m: _write(
            m / "model.safetensors.index.json", b"[" * 200_000
        ),
        "a link out of the folder": linked,
        "a header of 2^60 bytes": header(b"{}", 2**60),
        "a header that is no JSON": header(b"x" * 100),
        "tensors that overlap": header(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            b'"b":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'
        ),
        "config.json nested 200,000 deep": lambda m: _write(m / "config.json", b"[" * 200_000),
        "config.json is a list": lambda m: _write(m / "config.json", b"[]"),
        "config.json is no text": lambda m: _write(m / "config.json", b"\xff\xfe\x00"),
        "tokenizer_config.json nested 200,000 deep": lambda m: _write(
            m / "tokenizer_config.json", b"[" * 200_000
        ),
    }
    for name, change in changes.items():
        build = _copied("model", change)
        yield Case(f"model: {name}", "folder of transformers", _GENERATE_MODEL, build)
    for name in ("10^9 layers", "10^12 positions", "a link out of the folder"):
        build = _copied("model", changes[name])
        arguments = (*_TEXT, "init_from=model")
        yield Case(f"model, init_from: {name}", "folder of transformers", arguments, build)


def _rest() -> Iterator[Case]:
    def tokenizer(change: Callable[[Any], Any]) -> Callable[[Path], None]:
        return lambda folder: _changed_json(folder / "tokenizer.json", change)

    def high(values: Any) -> Any:
        values["model"]["vocab"]["word"] = 2**32 - 1
        return values

    def top(**changes: Any) -> Callable[[Any], Any]:
        return lambda values: {**values, **changes}

    slow = {"type": "Split", "pattern": {"Regex": "((a|a)*)*b"}, "behavior": "Isolated"}
    changes: dict[str, Callable[[Path], None]] = {
        "garbage": lambda f: _write(f / "tokenizer.json", b"\x00garbage"),
        "a list": lambda f: _write(f / "tokenizer.json", b"[]"),
        "nested 200,000 deep": lambda f: _write(f / "tokenizer.json", b"[" * 200_000),
        "an id of 4 billion": tokenizer(high),
        "no vocabulary": tokenizer(
            top(model={"type": "BPE", "vocab": {}, "merges": []}, added_tokens=[])
        ),
        "a pattern that takes for ever": tokenizer(top(pre_tokenizer={**slow, "invert": False})),
        "a pattern that is none": tokenizer(
            top(pre_tokenizer={**slow, "pattern": {"Regex": "("}, "invert": False})
        ),
    }
    for name, change in changes.items():
        for source, arguments in (("run", _GENERATE), ("model", _GENERATE_MODEL)):
            build = _copied(source, change)
            yield Case(f"tokenizer of a {source}: {name}", "tokenizer", arguments, build)

        def beside(corpus: Path, change: Callable[[Path], None] = change) -> None:
            change(corpus)
            import hashlib

            digest = hashlib.sha256((corpus / "tokenizer.json").read_bytes()).hexdigest()
            _changed_json(corpus / "manifest.json", lambda v: {**v, "tokenizer_sha256": digest})

        build = _copied("corpus", beside)
        yield Case(f"tokenizer of a corpus: {name}", "tokenizer", _SHARDS, build)
    files: dict[str, tuple[str, bytes]] = {
        "summary.json nested": ("summary.json", b"[" * 200_000),
        "summary.json of text": ("summary.json", b'{"val/loss": "x", "name": 3}'),
        "environment.json nested": ("environment.json", b"[" * 200_000),
        "environment.json of numbers": ("environment.json", b'{"tokenizer_sha256": 3}'),
    }
    for name, (file, content) in files.items():
        build = _copied("run", lambda f, n=file, c=content: _write(f / n, c))  # type: ignore[misc]
        yield Case(f"run folder: {name}", "run folder", ("export", "run", "out"), build)
    metrics = {"of text": b"step,val/loss\n1,x\n", "of 300,000 columns": b"step" + b",a" * 300_000}
    for name, content in metrics.items():
        build = _copied("run", lambda f, c=content: _write(f / "metrics.csv", c))  # type: ignore[misc]
        yield Case(f"run folder: metrics.csv {name}", "run folder", _RESUME, build)
