"""Folders of ``transformers`` become models that compute the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from packformer import pack
from packformer.attention import PackedLayout
from packformer.huggingface import config as reading
from packformer.huggingface import export, read, verify

from .conftest import FORMS

LENGTHS = [9, 1, 20, 7, 33]
every_form = pytest.mark.parametrize("form", FORMS)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return (torch.linalg.norm(found - wanted) / torch.linalg.norm(wanted)).item()


def their_logits(model: Any, tokens: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    return torch.cat([model(part).logits for part in tokens.split(lengths, dim=1)], dim=1)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


@every_form
def test_packed_documents_get_their_logits_and_gradients(
    form: str, theirs: Callable, folder: Callable, tmp_path: Path
) -> None:
    kind, options = FORMS[form]
    wanted_model, ours = theirs(kind, **options), read(folder(kind, **options)).model
    tokens = torch.randint(97, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    found = ours(tokens, PackedLayout.from_lengths(LENGTHS, num_slots=8, max_seqlen=40))
    wanted = their_logits(wanted_model, tokens, LENGTHS)
    assert relative(found, wanted) <= 1e-5
    for logits in (found, wanted):
        F.cross_entropy(logits[0], tokens[0].roll(-1), reduction="sum").backward()
    for parameter in ours.parameters():  # gradients, under their names
        parameter.data = parameter.grad
    export(ours, None, tmp_path / "gradients")
    gradients = tensors_of(tmp_path / "gradients")
    named = dict(wanted_model.named_parameters())
    assert gradients.keys() == named.keys()
    for name, parameter in named.items():
        assert relative(gradients[name], parameter.grad) <= 1e-5, name


@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_round_trip_keeps_every_byte(
    form: str, dtype: torch.dtype, theirs: Callable, tmp_path: Path
) -> None:
    from transformers import AutoConfig

    kind, options = FORMS[form]
    theirs(kind, **options).to(dtype).save_pretrained(tmp_path / "a", max_shard_size="20KB")
    export(read(tmp_path / "a").model, None, tmp_path / "b", shard_bytes=20_000)
    before, after = tensors_of(tmp_path / "a"), tensors_of(tmp_path / "b")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == dtype
        assert torch.equal(after[name].view(torch.uint8), tensor.view(torch.uint8)), name
    assert len(list((tmp_path / "b").glob("model-*-of-*.safetensors"))) > 1
    one, other = (AutoConfig.from_pretrained(tmp_path / name) for name in "ab")
    for field in ("head_dim", "rms_norm_eps", "rope_parameters", "num_key_value_heads", "dtype"):
        assert getattr(one, field) == getattr(other, field), field


@pytest.mark.parametrize("form", ["llama", "mistral", "qwen3"])
def test_fine_tuning_on_packed_documents_is_fine_tuning_on_each(
    form: str, theirs: Callable, folder: Callable
) -> None:
    """20 steps of AdamW; a packed row against its documents one by one."""
    kind, options = FORMS[form]
    wanted_model, ours = theirs(kind, **options), read(folder(kind, **options)).model.train()
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 40, (200,), generator=generator).tolist()
    documents = [[(n + 3 * i) % 97 for i in range(n)] for n in lengths]
    rows = list(pack(documents, row_length=128, max_document_length=40))[:20]
    assert len(rows) == 20
    assert all(len(row.lengths) > 2 for row in rows)
    options_of_both = {"lr": 1e-3, "weight_decay": 0.1}
    one = torch.optim.AdamW(ours.parameters(), **options_of_both)
    other = torch.optim.AdamW(wanted_model.parameters(), **options_of_both)
    losses = []
    for row in rows:
        found = F.cross_entropy(ours(row.tokens, row.layout)[0], row.targets[0])
        parts = row.tokens[:, : row.num_tokens].split(list(row.lengths), dim=1)
        # Their own loss is a mean over a document's tokens: weighted by their number.
        summed = [
            wanted_model(part, labels=part).loss * (part.shape[1] - 1)
            for part in parts
            if part.shape[1] > 1
        ]
        wanted = sum(summed) / row.num_targets
        losses.append((found.item(), wanted.item()))
        for optimizer, loss in ((one, found), (other, wanted)):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[-1][0] < 0.8 * losses[0][0]
    for found, wanted in losses:
        assert found == pytest.approx(wanted, abs=1e-4)


def test_old_folders_hold_tables_and_copies_that_are_left_out(folder: Callable) -> None:
    made = folder(tie_word_embeddings=True)
    tensors = tensors_of(made)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, made / "model.safetensors")
    model = read(made).model
    assert model.head.weight is model.embedding.weight
    tensors["lm_head.weight"] += 1
    save_file(tensors, made / "model.safetensors")
    with pytest.raises(ValueError, match=r"lm_head.weight of its own and tie_word_embeddings \(t"):
        read(made)


def test_weights_of_several_types_take_the_widest(folder: Callable) -> None:
    made = folder()
    tensors = {name: t.bfloat16() for name, t in tensors_of(made).items()}
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float()
    save_file(tensors, made / "model.safetensors")
    assert {p.dtype for p in read(made).model.parameters()} == {torch.float32}


@pytest.mark.parametrize("shape", [(48, 47), (48,)])
def test_a_tensor_alone_of_another_shape_names_its_file(
    folder: Callable, shape: tuple[int, ...]
) -> None:
    made = folder(shards="20KB")
    name = "model.layers.1.self_attn.q_proj.weight"
    (file,) = (file for file in made.glob("*.safetensors") if name in load_file(file))
    save_file({**load_file(file), name: torch.zeros(shape)}, file)
    told = rf"q_proj.weight has shape \[48.*fetch {file} again, it is not of this model$"
    with pytest.raises(ValueError, match=told):
        read(made)


CONFIGS = {
    "gemma": ({"model_type": "gemma2"}, r"model_type \(gemma2\) must be one of llama, mistral, qw"),
    "a list as type": ({"model_type": ["llama"]}, r"model_type \(\['llama'\]\) must be one of"),
    "no type": ({"model_type": None}, r"model_type \(None\) must be one of"),
    "bias": ({"attention_bias": True}, r"attention_bias \(true\) must be false"),
    "mlp bias": ({"mlp_bias": True}, r"mlp_bias \(true\) must be false"),
    "gelu": ({"hidden_act": "gelu"}, r"hidden_act \(gelu\) must be silu"),
    "quantized": ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
    "yarn": (
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
        "rope_scaling of type yarn cannot be imported: there are default and llama3",
    ),
    "old linear": (
        {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
        "rope_scaling of type linear cannot be imported",
    ),
    "half a llama3": (
        {"rope_parameters": {"rope_type": "llama3", "factor": 2.0}},
        "rope_scaling lacks low_freq_factor, high_freq_factor",
    ),
    "half rotary": (
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        r"partial_rotary_factor \(0.5\) must be 1",
    ),
    "no width": ({"hidden_size": None}, r"hidden_size \(None\): it must be a whole number"),
    "heads": (
        {"num_key_value_heads": 4},
        r"num_heads \(6\) must be divisible by attention",
    ),
    "eps": ({"rms_norm_eps": 0}, r"rms_norm_eps \(0\) must be a number above 0"),
    "other width": (
        {"intermediate_size": 81},
        r"gate_proj.weight has shape \[80, 48\], and \[81, 48\] by its config.json: "
        r"intermediate_size \(81\) there must be 80, by all tensors$",
    ),
    "other hidden size": (
        {"hidden_size": 54, "head_dim": 8},
        r"hidden_size \(54\) there must be 48, by all tensors$",
    ),
    "other vocabulary": (
        {"vocab_size": 96},
        r"vocab_size \(96\) there must be 97, by all tensors$",
    ),
    "other heads": (
        {"head_dim": 10},
        r"num_attention_heads \* head_dim \(60\) there must be 48, by all tensors$",
    ),
    "other key heads": (
        {"num_key_value_heads": 3},
        r"num_key_value_heads \* head_dim \(24\) there must be 16, by all tensors$",
    ),
    "more layers": (
        {"num_hidden_layers": 3},
        r"lacks the tensor model.layers.2.input_layernorm.weight \(and 8 more\): the folder is in",
    ),
    "fewer layers": (
        {"num_hidden_layers": 1},
        r"has a tensor model.layers.1\.\S+ \(and 8 more\) that no model here has",
    ),
    "qwen3": ({"model_type": "qwen3"}, "lacks the tensor model.layers.0.self_attn.q_norm.weight"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_not_computed_is_refused_in_one_line(name: str, folder: Callable) -> None:
    changed, message = CONFIGS[name]
    made = folder()
    file = made / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    with pytest.raises(ValueError, match=message) as refused:
        read(made)
    assert "\n" not in str(refused.value)
    assert str(made) in str(refused.value)


def test_dropout_that_is_not_applied_is_told(
    folder: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    read(folder(attention_dropout=0.1))
    assert "config.json: attention_dropout (0.1) is not applied: there is none here" in caplog.text


@pytest.mark.parametrize(
    ("kind", "options"),
    [("Mistral", {}), ("Qwen3", {"use_sliding_window": True, "max_window_layers": 0})],
)
def test_a_window_that_is_not_named_is_the_usual_one(
    kind: str, options: dict[str, Any], folder: Callable
) -> None:
    made = folder(kind, head_dim=8, sliding_window=4096, **options)
    file = made / "config.json"
    config = json.loads(file.read_text())
    config.pop("layer_types", None)
    for changed, window in (({}, 4096), ({"sliding_window": None}, None)):
        del config["sliding_window"]
        config |= changed
        file.write_text(json.dumps(config))
        model, _ = read(made)
        assert [layer.window for layer in model.layers] == [window, window]
        verify(made)  # windows are compared with those of transformers
        config.setdefault("sliding_window", 4096)


def test_another_window_is_found_where_all_documents_are_shorter(
    folder: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = folder("Mistral", sliding_window=4096)
    monkeypatch.setattr(reading, "_window", lambda *_: None)
    with pytest.raises(ValueError, match=r"the windows of the layers are \[4096, 4096\] in transf"):
        verify(made)


def test_qwen3_layers_that_differ_are_refused(folder: Callable) -> None:
    options = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    with pytest.raises(ValueError, match="1 of 2 layers have a sliding window: folders whose lay"):
        read(folder("Qwen3", head_dim=8, **options))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", r"config.json is damaged \(.+\): fetch it again"),
        ("config.json", "[]", r"config.json is damaged \(no object\)"),
        ("config.json", None, "holds no config.json: give a folder of transformers"),
        ("model.safetensors", "\0" * 99, "is truncated, damaged or no safetensors file"),
        ("model.safetensors", None, "holds no model.safetensors and no model.safetensors.index"),
        ("tokenizer.json", "{}", "tokenizer.json is no tokenizer.json"),
    ],
)
def test_damaged_and_missing_files_are_told(
    file: str, content: str | None, message: str, folder: Callable
) -> None:
    made = folder()
    if content is None:
        (made / file).unlink()
    else:
        (made / file).write_text(content)
    with pytest.raises(ValueError, match=message) as refused:
        read(made)
    assert "\n" not in str(refused.value)


def test_a_truncated_file_is_told(folder: Callable) -> None:
    made = folder()
    weights = (made / "model.safetensors").read_bytes()
    (made / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ValueError, match="model.safetensors is truncated, damaged"):
        read(made)


def test_shards_that_are_missing_or_badly_listed_are_told(folder: Callable) -> None:
    made = folder(shards="20KB")
    lost = sorted(made.glob("model-*"))[1]
    lost.rename(made / "elsewhere")
    with pytest.raises(ValueError, match=f"names {lost.name}, which is missing: fetch it"):
        read(made)
    (made / "model.safetensors.index.json").write_text('{"weight_map": []}')
    with pytest.raises(ValueError, match="index.json is damaged"):
        read(made)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere does not exist: give a folder of transformers"):
        read(tmp_path / "nowhere")


def test_weights_that_are_no_floats_are_refused(folder: Callable) -> None:
    made = folder()
    tensors = {name: t.to(torch.int8) for name, t in tensors_of(made).items()}
    save_file(tensors, made / "model.safetensors")
    with pytest.raises(ValueError, match="has weights of type I8: there are F64, F32, F16, BF16"):
        read(made)
