"""Says what a folder of ``transformers`` holds."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from packformer import huggingface
from packformer.corpus.tokenizer import document_marks, num_ids
from packformer.counted import counted
from packformer.huggingface import Form, Read
from packformer.tools.verification import check_finite, tell_verification


def run(folder: Path, *, verified: bool) -> None:
    """Reads a folder and prints what it holds, and how to train from it.

    Raises:
        ValueError: if it cannot be read, or its logits differ from those of ``transformers``.
    """
    folder = folder.expanduser()
    read = huggingface.read(folder)
    check_finite(read.model, str(folder))
    form = huggingface.form_of_model(read.model)
    console = Console(highlight=False)
    console.print(_table(folder, form, read))
    tokenizer = "and its tokenizer" if read.tokenizer is not None else "and a tokenizer of your own"
    more = "" if read.tokenizer is not None else " data.tokenizer=TOKENIZER.json"
    del read
    try:
        tell_verification(folder, verified=verified)
    except ValueError as error:
        raise ValueError(f"{error}: do not use this folder") from error
    console.print(
        f"train from its weights, with its settings {tokenizer}:\n"
        f"  packformer train init_from={folder} data=text data.path=my_texts{more}",
        soft_wrap=True,
        markup=False,
    )


def _table(folder: Path, form: Form, read: Read) -> Table:
    table = Table(title=str(folder), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("architecture", form.model_type)
    table.add_row("parameters", f"{read.model.num_parameters():,}")
    table.add_row("weights", str(read.model.embedding.weight.dtype).removeprefix("torch."))
    table.add_row("longest document", f"{form.max_position:,} tokens")
    table.add_row("vocabulary", _vocabulary(form, read))
    table.add_row("tokenizer", _tokenizer(read))
    for group, settings in form.settings().items():
        for name, value in settings.items():
            shown = "null" if value is None else str(value)
            table.add_row(f"{group}.{name}", shown.lower() if isinstance(value, bool) else shown)
    return table


def _vocabulary(form: Form, read: Read) -> str:
    """How many ids the model has; it may have more than its tokenizer."""
    more = 0 if read.tokenizer is None else form.vocab_size - num_ids(read.tokenizer)
    room = f": {more:,} more than the tokenizer has, which no text uses" if more else ""
    return f"{counted(form.vocab_size, 'id')}{room}"


def _tokenizer(read: Read) -> str:
    if read.tokenizer is None:
        return "none: the folder has no tokenizer.json"
    marks = document_marks(read.tokenizer)
    assert marks is not None
    begin, end = (read.tokenizer.id_to_token(mark) for mark in marks)
    ids = num_ids(read.tokenizer)
    return f"{ids:,} ids; documents begin with {begin} and end with {end}"
