"""Reads and writes model folders of ``transformers``, for Llama, Mistral and Qwen3."""

from packformer.huggingface.card import model_card
from packformer.huggingface.export import export
from packformer.huggingface.form import Form
from packformer.huggingface.form_of_model import form_of_model
from packformer.huggingface.read import Read, read, read_form, read_tokenizer
from packformer.huggingface.verify import TOLERANCE, Verified, can_verify, verify

__all__ = [
    "TOLERANCE",
    "Form",
    "Read",
    "Verified",
    "can_verify",
    "export",
    "form_of_model",
    "model_card",
    "read",
    "read_form",
    "read_tokenizer",
    "verify",
]
