"""The model card: what a run was and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from packformer.huggingface.form import Form

_FIGURES = {
    "val/loss": ("validation loss", "{:.4f} nats per token"),
    "val/perplexity": ("perplexity", "{:.2f}"),
    "val/bits_per_byte": ("bits per byte", "{:.4f}"),
    "val/exact_match": ("exact match", "{:.2%} of documents"),
    "steps": ("optimizer steps", "{:,}"),
    "tokens_seen": ("tokens seen", "{:,}"),
    "tokens_per_second": ("tokens per second", "{:,.0f}"),
    "precision": ("precision", "{}"),
    "device": ("device", "{}"),
}
_OF_THE_MACHINE = ("output_dir", "resume", "logger", "callbacks")


def model_card(
    form: Form, settings: Mapping[str, Any], figures: Mapping[str, Any], *, parameters: int
) -> str:
    """A ``README.md`` in the form that the Hugging Face hub reads.

    Args:
        form: of the model.
        settings: the run's configuration, plain types only.
        figures: the run's summary; empty if it has not finished.
        parameters: of the model.
    """
    name = figures.get("name") or settings.get("name") or "model"
    kept = {key: value for key, value in settings.items() if key not in _OF_THE_MACHINE}
    rows = [
        ("parameters", f"{parameters:,}"),
        ("longest document", f"{form.max_position:,} tokens"),
        *(
            (label, shape.format(figures[key]))
            for key, (label, shape) in _FIGURES.items()
            if figures.get(key) is not None
        ),
    ]
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: text-generation",
            "tags:",
            "- packformer",
            f"- {form.model_type}",
            "---",
            "",
            f"# {name}",
            "",
            f"Trained with packformer on packed documents, in the layout of {form.model_type}.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {label} | {value} |" for label, value in rows),
            "",
            "```python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
            "```",
            "",
            "## Settings",
            "",
            "```yaml",
            yaml.safe_dump(kept, sort_keys=False).rstrip(),
            "```",
            "",
        ]
    )
