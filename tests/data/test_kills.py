"""The stream of rows after a process was killed, again and again."""

import hashlib
import json
import os
import random
import signal
import time
import traceback
from itertools import islice

import pytest
from forks import run

from packformer.corpus import Input, Preparation, prepare
from packformer.data import PackedDataModule, PackingSettings, TokenShards

PACKING = PackingSettings(256, 64, lookahead=16)
ROWS, CHECKPOINT_EVERY, VALIDATE_EVERY = 450, 3, 9  # a checkpoint follows each validation
KILLS = {0: 25, 1: 20, 3: 12}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    rng = random.Random(3)
    texts = [
        " ".join(rng.choices(["packed", "row", "of"], k=rng.randint(1, 60))) for _ in range(160)
    ]
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    made = folder / "corpus"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("packformer.corpus.preparation._MIB", 3000)  # several shards
        given = Input((str(file),))
        prepare(Preparation(given, made, vocab_size=300, validation_fraction=0.2, shard_mib=1))
    return made


@pytest.fixture(scope="module")
def unbroken(corpus):
    return list(islice(module(corpus, 0).train_dataloader(), ROWS))


def module(corpus, num_workers):
    return PackedDataModule(
        TokenShards(str(corpus), shards_at_once=2), PACKING, num_workers=num_workers, seed=5
    )


def digest(batch):
    content = batch.tokens.numpy().tobytes() + batch.targets.numpy().tobytes()
    return hashlib.sha256(content + str(batch.lengths).encode()).hexdigest()


def train(corpus, num_workers, folder):
    """Rows as a run takes them: noted, and a checkpoint of the position now and then."""
    data, step = module(corpus, num_workers), 0
    checkpoint = folder / "checkpoint.json"
    if checkpoint.exists():
        state = json.loads(checkpoint.read_text())
        step = state["step"]
        data.load_state_dict(state["data"])
    with (folder / "rows.txt").open("a") as log:
        for batch in data.train_dataloader():
            step += 1
            data.packer_state = batch.packer_state
            log.write(f"{step} {digest(batch)}\n")
            log.flush()
            if step % VALIDATE_EVERY == 0:
                list(islice(data.val_dataloader(), 2))
            if step % CHECKPOINT_EVERY == 0:
                unfinished = folder / "checkpoint.new"
                unfinished.write_text(json.dumps({"step": step, "data": data.state_dict()}))
                unfinished.replace(checkpoint)
            time.sleep(0.001)


def start(*arguments):
    """``train`` in a process of its own, the leader of its group."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            train(*arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def count(log):
    return log.read_bytes().count(b"\n") if log.exists() else 0


def kill_at_random(corpus, num_workers, folder):
    log = folder / "rows.txt"
    rng = random.Random(num_workers)
    for _ in range(KILLS[num_workers]):
        rows = count(log) + rng.randint(1, 12)
        child = start(corpus, num_workers, folder)
        try:
            deadline = time.monotonic() + 60
            while count(log) < rows:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.003))
        finally:
            os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "it was to run until killed"


@pytest.mark.parametrize("num_workers", list(KILLS))
def test_killed_at_random_the_rows_are_those_of_the_unbroken_run(
    corpus, unbroken, tmp_path, num_workers
):
    # A fork of this process would take longer, the more tests have run.
    code, out = run(kill_at_random, corpus, num_workers, tmp_path, cwd=tmp_path, timeout=600)
    assert code == 0, out
    wanted = {str(step): digest(batch) for step, batch in enumerate(unbroken, start=1)}
    lines = [line.split() for line in (tmp_path / "rows.txt").read_text().splitlines()]
    whole = [line for line in lines if len(line) == 2 and len(line[1]) == 64]
    last = max(int(step) for step, _ in whole)
    assert unbroken[last - 1].packer_state["cursors"][0]["epoch"] >= 1
    assert [step for step, found in whole if wanted[step] != found] == []
    assert {int(step) for step, _ in whole} == set(range(1, last + 1))
