"""Checkpoints and shards with a byte flipped or their end missing, at random places.

As a script, ``damage.py --trials N --seed S`` damages N files, and prints how many were found: of a
checkpoint, the one before is continued from; of a shard, the run does not start.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from run_folder import run_in  # type: ignore[import-not-found]

from packformer.corpus import Input, Preparation, prepare
from packformer.data import TokenShards
from packformer.run.newest import newest_whole


def flip(file: Path, draw: random.Random) -> str:
    data = bytearray(file.read_bytes())
    place, bit = draw.randrange(len(data)), draw.randrange(8)
    data[place] ^= 1 << bit
    file.write_bytes(data)
    return f"bit {bit} of byte {place} flipped"


def cut(file: Path, draw: random.Random) -> str:
    data = file.read_bytes()
    place = draw.randrange(len(data))
    file.write_bytes(data[:place])
    return f"cut off at byte {place} of {len(data)}"


def of_checkpoint(run: Path, draw: random.Random) -> str:
    """Damages ``last.ckpt`` of a run; returns what is wrong with what a resume makes of it."""
    file = run / "checkpoints" / "last.ckpt"
    told = draw.choice([flip, cut])(file, draw)
    found = newest_whole(run)
    return "" if found.name == "previous.ckpt" else f"{told}: {found.name} is continued from"


def of_shard(corpus: Path, draw: random.Random) -> str:
    """Damages a shard; returns what is wrong with what training makes of it."""
    file = draw.choice(sorted(corpus.glob("*.tokens")))
    told = draw.choice([flip, cut])(file, draw)
    try:
        TokenShards(str(corpus)).prepare()
    except ValueError as error:
        text = str(error)
        return "" if file.name in text and "\n" not in text else f"{told}: it is told as {text}"
    return f"{told}: it is not found"


def make_corpus(folder: Path) -> Path:
    texts = [" ".join(f"word{n * i % 97}" for i in range(1, 20 + n % 50)) for n in range(200)]
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    given = Input((str(file),))
    prepare(Preparation(given, folder / "corpus", vocab_size=300, validation_fraction=0.2))
    return folder / "corpus"


def main(trials: int, seed: int) -> int:
    draw = random.Random(seed)
    wrong = 0
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        (place / "tokenizer.json").write_text("{}")
        run, corpus = place / "run", make_corpus(place)
        run_in(run)
        for name, whole, damage in (
            ("checkpoints", run, of_checkpoint),
            ("shards", corpus, of_shard),
        ):
            found = 0
            for _ in range(trials // 2):
                copy = place / "copy"
                shutil.copytree(whole, copy)
                if told := damage(copy, draw):
                    print(f"{name}: {told}", flush=True)
                found += not told
                shutil.rmtree(copy)
            print(f"damaged {name}: {found} of {trials // 2} found")
            wrong += trials // 2 - found
    return int(wrong > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(main(given.trials, given.seed))
