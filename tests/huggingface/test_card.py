"""The model card."""

from __future__ import annotations

import yaml

from packformer.huggingface import form_of_model, model_card
from packformer.model import GPT
from packformer.nn import Rotary


def test_the_card_has_the_figures_and_the_settings_of_the_run() -> None:
    model = GPT(300, 64, num_layers=1, width=48, num_heads=2, position=Rotary)
    settings = {"name": "mine", "model": {"width": 48}, "output_dir": "/home/me", "logger": None}
    figures = {"val/loss": 1.23456, "steps": 1000, "val/exact_match": None, "folder": "/home/me"}
    card = model_card(form_of_model(model), settings, figures, parameters=27_000)
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["packformer", "llama"],
    }
    for row in (
        "# mine",
        "| parameters | 27,000 |",
        "| validation loss | 1.2346 nats per token |",
        "| optimizer steps | 1,000 |",
    ):
        assert row in text.splitlines()
    block = text.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(block) == {"name": "mine", "model": {"width": 48}}
    assert "/home/me" not in card
    assert "exact match" not in card


def test_a_run_that_has_not_finished_has_a_card() -> None:
    model = GPT(300, 64, num_layers=1, width=48, num_heads=2, position=Rotary)
    assert "# model" in model_card(form_of_model(model), {}, {}, parameters=1)
