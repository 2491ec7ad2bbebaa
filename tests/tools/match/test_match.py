"""Variants as large as a reference: counted by the functions that a run counts with."""

import re
from dataclasses import replace

import pytest
import torch

from packformer.cli import main
from packformer.command_line.composition import compose
from packformer.command_line.variants import variants_of
from packformer.generation import KVCache
from packformer.model.flops import score_products, training_flops
from packformer.run.build import make_model
from packformer.tools.match.match import match_variants

MHA, GQA = variants_of(["+experiment=mha,gqa", "model.num_layers=2"])


def built(overrides, length=512, vocab_size=256):
    return make_model(compose(overrides), vocab_size, length)


@pytest.fixture(scope="module")
def reference():
    return built(MHA.overrides)


def test_lists_of_values_are_variants():
    found = variants_of(["+experiment=mha,gqa", "seed=1", "attention.window=null,64"])
    assert [variant.name for variant in found] == [
        *("mha attention.window=null", "mha attention.window=64"),
        *("gqa attention.window=null", "gqa attention.window=64"),
    ]
    assert found[1].overrides == ("+experiment=mha", "seed=1", "attention.window=64")
    (one,) = variants_of(["optimizer.learning_rate=2e-3", "~logger"])
    assert one.overrides == ("optimizer.learning_rate=0.002", "~logger"), "as a sweep writes them"
    with pytest.raises(
        ValueError, match=r"seed=interval\(1,3\) must list its values: write seed=1,2"
    ):
        variants_of(["seed=interval(1,3)"])
    with pytest.raises(ValueError, match=r"seed=\[ cannot be read"):
        variants_of(["seed=["])


def test_parameters_match_in_all_and_outside_of_the_embedding(reference):
    as_it_is, match = match_variants([MHA, GQA], "mha", "parameters")
    assert as_it_is.setting is None
    model = built([*GQA.overrides, *match.overrides])
    ends = model.embedding.weight.numel()
    for less in (0, ends):
        share = (model.num_parameters() - less) / (reference.num_parameters() - less)
        assert share == pytest.approx(1, abs=0.005)
    assert match.size.parameters == model.num_parameters() - ends


def test_flops_match_those_of_training(reference):
    _, match = match_variants([MHA, GQA], "mha", "flops")
    flops = [
        training_flops(model, 512, score_products(model, [512]))
        for model in (built([*GQA.overrides, *match.overrides]), reference)
    ]
    assert flops[0] == pytest.approx(flops[1], rel=0.005)
    assert match.wanted.flops * 512 == pytest.approx(
        flops[1] - 6 * reference.head.weight.numel() * 512, rel=1e-6
    )


def test_flops_of_attention_across_documents_are_those_of_rows():
    gqa, across = variants_of(["+experiment=gqa,across_documents", "packing.row_length=1024"])
    same, match = match_variants([gqa, across], gqa.name, "flops")
    assert match.value < 512  # the width of the feed-forward layer, before
    model = built([*across.overrides, *match.overrides])
    flops = training_flops(model, 1024, score_products(model, [512, 512]))
    without_head = flops - 6 * model.head.weight.numel() * 1024
    assert without_head == pytest.approx(same.wanted.flops * 1024, rel=0.005)


def test_flops_match_with_tables_of_values_and_parameters_do_where_tables_are_alike(reference):
    plain, tables = variants_of(["+experiment=gqa,value_embeddings", "model.num_layers=2"])
    _, match = match_variants([MHA, tables], "mha", "flops")
    model = built([*tables.overrides, *match.overrides])
    assert training_flops(model, 512, score_products(model, [512])) == pytest.approx(
        training_flops(reference, 512, score_products(reference, [512])), rel=0.005
    )
    numbers = sum(values.table.weight.numel() for values in model.value_embeddings)
    assert numbers == 2 * 256 * 2 * 32
    ends = model.embedding.weight.numel() + numbers
    assert match.size.parameters == model.num_parameters() - ends
    alibi = replace(tables, name="alibi", overrides=(*tables.overrides, "position=alibi"))
    _, match = match_variants([tables, alibi], tables.name, "parameters")
    assert match.setting is None
    message = (
        "cannot be matched in parameters: its tables have 128 numbers per token id and the "
        "reference's 0, and the size of the vocabulary is not known here. Match flops instead: "
        "looking up tables costs none"
    )
    with pytest.raises(ValueError, match=message):
        match_variants([plain, tables], plain.name, "parameters")


def test_a_cache_matches_by_depth_where_shared_heads_are_the_question(reference):
    _, match = match_variants([MHA, GQA], "mha", "kv_bytes")
    assert match.overrides == ("model.num_layers=6",)
    assert "parameters" in str(match), "which it changes"
    caches = [
        KVCache(model, [512], torch.bfloat16, torch.device("cpu")).num_bytes
        for model in (built([*GQA.overrides, *match.overrides]), reference)
    ]
    assert caches[0] == caches[1]


def test_a_cache_matches_by_heads_where_they_are_not(reference):
    variants = variants_of(["attention.head_dim=32,16", "attention.num_kv_heads=1"])
    whole, half = match_variants(variants, "attention.head_dim=32", "kv_bytes")
    assert whole.setting is None
    assert half.overrides == ("attention.num_kv_heads=2",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kv_bytes", "--reference", "gqa"], "mha cannot be matched in KV-cache bytes per token"),
        (["flops", "--reference", "alibi"], "reference (alibi) must be one of mha, gqa"),
        (["parameters", "model.tie_embeddings=true,false"], "so embedding and head differ"),
        (
            ["parameters", "attention.value_embeddings=false,true"],
            "its tables have 384 numbers per token id",
        ),
    ],
)
def test_what_cannot_be_matched_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(["match", arguments[0], "+experiment=mha,gqa", "model.num_layers=2", *arguments[1:]])
    assert end.value.code == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_the_help_says_how_near(capsys):
    with pytest.raises(SystemExit):
        main(["match", "--help"])
    assert "within 0.5 %, and" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("variants", [[], ["+experiment=mha"]])
def test_one_variant_is_nothing_to_match(variants, capsys):
    with pytest.raises(SystemExit) as end:
        main(["match", "parameters", *variants])
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        "error: there is nothing to match: list variants, such as +experiment=mha,gqa\n"
    )


def test_the_printed_command_has_what_was_matched_once(capsys):
    main(["match", "parameters", "+experiment=mha,gqa", "model.hidden_width=512"])
    mha, gqa = capsys.readouterr().out.splitlines()[-2:]
    assert mha == "packformer train +experiment=mha model.hidden_width=512"
    assert re.fullmatch(r"packformer train \+experiment=gqa model.hidden_width=(?!512)\d+", gqa)


def test_the_command_prints_what_to_train(capsys):
    main(["match", "parameters", "+experiment=mha,gqa", "model.num_layers=2"])
    told = capsys.readouterr().out.splitlines()
    assert re.match(r"gqa: model.hidden_width 512 -> \d+, parameters [\d,]+ against", told[1])
    assert told[1].endswith("% (without embedding, head and tables)")
    assert told[2] == "packformer train +experiment=mha model.num_layers=2"
    assert re.fullmatch(
        r"packformer train \+experiment=gqa model.num_layers=2 model.hidden_width=\d+", told[3]
    )


def test_tables_that_differ_are_counted_beside_what_is_matched(capsys, reference):
    main(["match", "flops", "+experiment=mha,value_embeddings", "model.num_layers=2"])
    line = capsys.readouterr().out.splitlines()[1]
    outside, width = reference.num_parameters() - reference.embedding.weight.numel(), 192
    assert line.endswith(f" per token id against {outside:,} + {width} per token id")
    (per_token_id,) = re.findall(r"with them [\d,]+ \+ (\d+) per token id", line)
    assert int(per_token_id) == width + 128, "the embedding and its tables"
