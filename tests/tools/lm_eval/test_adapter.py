"""lm-evaluation-harness gets the numbers that its own adapter gives for the same weights."""

import json
from functools import partial

import pytest
import torch
import yaml
from tokenizers import Tokenizer

from packformer.corpus.tokenizer import train_bpe
from packformer.huggingface import export
from packformer.model import GPT
from packformer.nn import Learned, Rotary

WIDTH, HEADS, LAYERS, HIDDEN, LONGEST = 32, 2, 2, 64, 48
TEXTS = [
    f"the {a} {b} sees the {b} {a} of the house. "
    for a in ("red", "old")
    for b in ["cat", "dog", "ox"]
]
CONTEXTS = ["the red", "", "an old cat sees", "the house of the dog " * 9, "ü💡"]
TASKS = {
    "local_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "local_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "local_writing": {
        "output_type": "generate_until",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["o", "."], "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, 290)


@pytest.fixture(scope="module")
def model(tokenizer) -> GPT:
    torch.manual_seed(0)
    sizes = {"num_layers": LAYERS, "width": WIDTH, "num_heads": HEADS, "hidden_width": HIDDEN}
    return GPT(tokenizer.get_vocab_size(), LONGEST, position=Rotary, init_std=0.3, **sizes).eval()


@pytest.fixture(scope="module")
def exported(model, tokenizer, tmp_path_factory):
    """The folder that transformers opens."""
    folder = tmp_path_factory.mktemp("models") / "exported"
    export(model, tokenizer, folder)
    return str(folder)


@pytest.fixture(scope="module")
def adapter(model, tokenizer):
    """Makes ours. Imports of lm-eval take seconds: they wait for the tests that need them."""
    from packformer.tools.lm_eval.adapter import PackformerLM

    return partial(PackformerLM, model, tokenizer)


@pytest.fixture(scope="module")
def theirs(exported):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=exported, dtype="float32", device="cpu", batch_size=3)


def requests(kind, *arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


@pytest.mark.parametrize("row_length", [2, 40, 4096])
def test_likelihoods_are_theirs(adapter, theirs, row_length):
    ours = adapter(row_length=row_length)
    asked = requests(
        "loglikelihood",
        *((context, text) for context in CONTEXTS for text in (" cat", " dog sees", " ", "💡.")),
    )
    found = ours.loglikelihood(asked, disable_tqdm=True)
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    assert [f[0] for f in found] == pytest.approx([e[0] for e in expected], abs=1e-4)
    assert [f[1] for f in found] == [e[1] for e in expected]


def test_the_exported_folder_is_opened_with_the_same_numbers(adapter, exported):
    opened = adapter.func.create_from_arg_obj({"path": exported}, {"device": "cpu"})
    asked = requests("loglikelihood", *((context, " dog") for context in CONTEXTS))
    found, expected = (lm.loglikelihood(asked, disable_tqdm=True) for lm in (opened, adapter()))
    assert [f[0] for f in found] == pytest.approx([e[0] for e in expected], abs=1e-5)


def test_whole_texts_longer_than_the_model_reaches_are_theirs(adapter, theirs):
    ours = adapter(row_length=64, add_bos_token=False)
    theirs.add_bos_token = False
    asked = requests("loglikelihood_rolling", *((text,) for text in (*CONTEXTS[:1], *TEXTS)))
    asked += requests("loglikelihood_rolling", ("".join(TEXTS) * 4,), (CONTEXTS[4],))
    found = ours.loglikelihood_rolling(asked, disable_tqdm=True)
    expected = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    theirs.add_bos_token = None
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-4)
    with_bos = adapter().loglikelihood_rolling(asked, disable_tqdm=True)
    assert with_bos == pytest.approx(found, rel=1e-6), "the first token was predicted too"


@pytest.fixture
def tasks(tmp_path):
    """Tasks on a file of this folder; nothing is looked for on a network."""
    records = [
        {"context": context, "choices": [" cat", " dog", " the house."], "answer": 1, "text": text}
        for context, text in zip([*CONTEXTS, "the old"], TEXTS, strict=True)
        if context
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "texts.jsonl").write_text(lines)
    for name, settings in TASKS.items():
        source = {
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(tmp_path / "texts.jsonl")},
                "cache_dir": str(tmp_path / "cache"),
            },
            "test_split": "test",
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **source, **settings}))
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(tmp_path), include_defaults=False)


def test_tasks_from_a_local_file_get_their_results(adapter, theirs, tasks):
    from lm_eval import simple_evaluate

    ours = adapter(add_bos_token=False)
    theirs.add_bos_token = False
    found, expected = (
        simple_evaluate(lm, tasks=list(TASKS), task_manager=tasks, bootstrap_iters=0)["results"]
        for lm in (ours, theirs)
    )
    theirs.add_bos_token = None
    assert found.keys() == expected.keys() == TASKS.keys()
    for name in TASKS:
        numbers = {key: value for key, value in expected[name].items() if isinstance(value, float)}
        assert len(numbers) >= 1
        for key, value in numbers.items():
            assert found[name][key] == pytest.approx(value, rel=1e-4), (name, key)


@pytest.mark.parametrize("until", [["o", "."], [], "e"])
def test_continuations_are_theirs(adapter, theirs, until):
    ours = adapter()
    asked = requests(
        "generate_until",
        *((context, {"until": until, "max_gen_toks": 40}) for context in CONTEXTS if context),
        *((context, {"until": until, "max_gen_toks": 3}) for context in CONTEXTS if context),
    )
    expected = [theirs.generate_until([one], disable_tqdm=True)[0] for one in asked]
    assert ours.generate_until(asked, disable_tqdm=True) == expected
    assert any(len(text) > 3 for text in expected)


def test_what_cannot_be_done_is_named(adapter):
    ours = adapter()
    for options, message in (
        ({"max_gen_toks": LONGEST}, r"max_gen_toks \(48\) leaves no room for a context in 48"),
        ({"max_gen_toks": 4, "num_beams": 4}, "generation option num_beams is not known"),
    ):
        with pytest.raises(ValueError, match=message):
            ours.generate_until(requests("generate_until", ("the", options)), disable_tqdm=True)
    for arguments, message in (
        ({"row_length": 1}, r"row_length \(1\) must be a whole number from 2"),
        ({"max_length": "many"}, r"max_length \(many\) must be a whole number from 2"),
        ({"add_bos_token": "no"}, r"add_bos_token \(no\) must be true or false"),
    ):
        with pytest.raises(ValueError, match=message):
            adapter(**arguments)
    with pytest.raises(ValueError, match="no tokens that begin and end a document"):
        type(ours)(ours.model, Tokenizer.from_str(ours.tokenizer.to_str().replace("|bos|", "x")))


def test_learned_positions_are_not_exceeded(adapter, tokenizer, caplog):
    ours = adapter.func
    sizes = {"num_layers": 1, "width": WIDTH, "num_heads": HEADS}
    model = GPT(tokenizer.get_vocab_size(), LONGEST, position=Learned, **sizes).eval()
    told = (
        r"^max_length \(49\) must be at most 48, the longest document of training: Learned "
        "knows no positions beyond those it was made for; leave it out to cut contexts there$"
    )
    with pytest.raises(ValueError, match=told):
        ours(model, tokenizer, max_length=LONGEST + 1)
    long = "the house of the dog " * 30
    for made in (ours(model, tokenizer), ours(model, tokenizer, max_length=LONGEST)):
        made.loglikelihood(requests("loglikelihood", (long, " cat")), disable_tqdm=True)
        made.generate_until(requests("generate_until", (long, {"max_gen_toks": 4})), True)
    cut = "1 context lost the beginning: the model reads 48 tokens (max_length)"
    assert caplog.messages == [cut] * 4


def test_contexts_that_lose_their_beginning_are_counted(adapter, caplog):
    ours = adapter(max_length=20)
    long, short = "the house of the dog " * 9, "the"
    asked = requests("loglikelihood", (long, " cat"), (short, " cat"), (long, " dog"))
    ours.loglikelihood(asked, disable_tqdm=True)
    assert "2 contexts lost the beginning: the model reads 20 tokens (max_length)" in caplog.text
    caplog.clear()
    asked = requests("generate_until", (long, {"max_gen_toks": 4}), (short, {"max_gen_toks": 4}))
    ours.generate_until(asked, disable_tqdm=True)
    assert "1 context lost the beginning" in caplog.text
    caplog.clear()
    ours.generate_until(asked[1:], disable_tqdm=True)
    ours.loglikelihood_rolling(requests("loglikelihood_rolling", (long,)), disable_tqdm=True)
    assert caplog.text == ""


def test_sampled_texts_differ_and_are_the_same_again(adapter):
    options = {"do_sample": True, "temperature": 1.5, "top_k": 20, "max_gen_toks": 40}
    asked = requests("generate_until", ("the", options), ("the", options))
    first = adapter().generate_until(asked, disable_tqdm=True)
    assert first == adapter().generate_until(asked, disable_tqdm=True)
    assert first[0] != first[1]
