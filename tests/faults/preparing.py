"""``packformer prepare`` at whose changes of files the disk is full, or the process killed.

As a script, ``preparing.py --every N`` does this at one in N of them, and prints how many ended as
they should: a full disk with one line that names the folder and the room, nothing unfinished left,
another corpus untouched; and in the end, by the same command, the corpus that was never disturbed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import faults  # type: ignore[import-not-found]

from packformer.corpus import Input, Preparation, prepare
from packformer.corpus import preparation as module

ROOM = 10  # bytes that can still be written
_HELPERS = {".lock", ".progress.jsonl", "tokenizer.json"}


def _content(folder: Path) -> dict[str, bytes]:
    files = folder.iterdir() if folder.is_dir() else ()
    return {file.name: file.read_bytes() for file in files if file.name != ".lock"}


def _wrong(folder: Path) -> str:
    """What is wrong with what a full disk left."""
    left = set(_content(folder))
    if "manifest.json" in left:
        return ""  # it is compared with the whole one
    journal = folder / ".progress.jsonl"
    parts = [json.loads(line) for line in journal.read_text().splitlines()[1:]] if left else []
    shards = (part[side] for part in parts for side in ("train", "validation"))
    finished = {shard["file"] for shard in shards if shard}
    if left and not finished:
        return f"left without a finished part: {', '.join(sorted(left))}"
    strange = left - finished - _HELPERS
    return f"left unfinished: {', '.join(sorted(strange))}" if strange else ""


def main(every: int) -> int:
    right = count = 0
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        texts = place / "texts.jsonl"
        lines = (f"word{n} and word{n % 7} again, number {n * n % 11}" for n in range(120))
        texts.write_text("\n".join(json.dumps({"text": line}) for line in lines))
        module._MIB, module._BATCH_DOCUMENTS = 1000, 20  # several parts
        folder, former = place / "out", place / "former"

        def work(output: Path = folder) -> None:
            try:
                prepare(Preparation(Input((str(texts),)), output, vocab_size=270, shard_mib=1))
            except ValueError as error:
                told = rf"cannot write {output}/\S+ \(.*\): {output} has .* MiB left, and .* needed"
                if not re.match(told, str(error)):
                    raise
                raise OSError from error  # as planned

        work(former)
        whole = _content(former)
        for operation, fault in faults.each(faults.operations(work, place), every=every):
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
            try:
                faults.end_of(work, place, operation, fault, room=ROOM)
                wrong = _wrong(folder) if fault is faults.Fault.FULL_DISK else ""
                work()
            except (AssertionError, OSError) as error:
                wrong = f"it ended with {error or error.__cause__}"
            if not wrong and (_content(folder), _content(former)) != (whole, whole):
                wrong = "another corpus"
            right += not wrong
            if wrong:
                print(f"{fault.value} {operation}: {wrong}", file=sys.stderr, flush=True)
    print(f"prepare: {right} of {count} faults left what the same command completes")
    return int(right < count)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="ignored: nothing is drawn")
    sys.exit(main(parser.parse_args().every))
