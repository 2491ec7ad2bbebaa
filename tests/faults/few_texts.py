"""Runs of a few steps that read their text several times, with settings drawn at random."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random


def texts_in(folder: Path, steps: int) -> list[str]:
    """Writes the text; returns the overrides for a run of it."""
    file = folder / "few.jsonl"
    texts = (f"word{n} and word{n % 7} again" for n in range(60))
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    size = ["packing.row_length=64", "model.num_layers=1", f"trainer.max_steps={steps}"]
    return ["+debug=fast", "data=text", f"data.path={file}", "data.vocab_size=300", *size]


def drawn(random: Random, steps: int) -> list[str]:
    """Settings on which a place in the data, or a save, depends."""
    return [
        f"packing.policy={random.choice(['best_fit', 'concatenate'])}",
        f"attention.across_documents={random.choice(['false', 'true'])}",
        f"trainer.rows_per_step={random.choice([1, 3])}",
        f"loader.num_workers={random.choice([0, 2])}",
        f"trainer.validate_every_n_steps={random.choice([1, 2, 3, steps])}",
        f"trainer.log_every_n_steps={random.choice([1, 2, 3])}",
        f"optimizer={random.choice(['adamw', 'muon'])}",
        f"callbacks.last_checkpoint.every_minutes={random.choice(['1e-9', '10'])}",
        random.choice(["callbacks.samples.max_new_tokens=3", "callbacks.samples=null"]),
        random.choice(["scheduler=cosine", "scheduler=constant", "scheduler=wsd"]),
        f"attention.value_embeddings={random.choice(['false', 'true'])}",
    ]
