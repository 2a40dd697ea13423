"""A person's adapter for the denoiser, in diffusers' usual way."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from temposync_pipeline import InvalidInputError, TempoSyncPipeline
from temposync_pipeline.pipelines.lora import add_lora, save_lora

from .tiny_components import picture, spoken, tiny_denoiser, tiny_pipeline

pytestmark = pytest.mark.torch_only("adapters need torch")

NAME = "pytorch_lora_weights.safetensors"


@pytest.fixture
def pipeline() -> TempoSyncPipeline:
    pipeline = tiny_pipeline()
    pipeline.use_bfloat16 = False
    return pipeline


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """A folder with an adapter that changes something."""
    folder, denoiser = tmp_path_factory.mktemp("anna"), tiny_denoiser()
    add_lora(denoiser, rank=4)
    assert {name.split(".lora_")[-1][:1] for name, parameter in denoiser.named_parameters() if parameter.requires_grad} == {"A", "B"}
    torch.manual_seed(0)
    for name, parameter in denoiser.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    save_lora(denoiser, folder)
    return folder


def latents(pipeline: TempoSyncPipeline) -> torch.Tensor:
    return pipeline(picture(120, 150), spoken(0.2), 2, torch.Generator().manual_seed(7), output_type="latent").frames


def test_adapters_are_loaded_scaled_fused_and_unloaded(pipeline, adapter):
    plain = latents(pipeline)
    pipeline.load_lora_weights(adapter, adapter_name="anna")
    changed = latents(pipeline)
    assert not torch.allclose(changed, plain, atol=1e-3) and pipeline.get_active_adapters() == ["anna"]
    pipeline.set_adapters("anna", 0.0)
    assert torch.equal(latents(pipeline), plain)
    pipeline.set_adapters("anna", 1.0)
    pipeline.unload_lora_weights()
    assert torch.equal(latents(pipeline), plain)
    for source in (adapter / NAME, str(adapter), load_file(adapter / NAME)):
        pipeline.load_lora_weights(source)
        assert torch.equal(latents(pipeline), changed)
        pipeline.unload_lora_weights()
    pipeline.load_lora_weights(adapter)
    pipeline.fuse_lora()
    assert torch.allclose(latents(pipeline), changed, atol=1e-3)
    pipeline.unfuse_lora()
    pipeline.load_lora_weights(adapter, adapter_name=pipeline.get_active_adapters()[0], hotswap=True)  # beside a layer that has one
    assert torch.allclose(latents(pipeline), changed, atol=1e-3)
    pipeline.disable_lora()
    assert torch.allclose(latents(pipeline), plain, atol=1e-3)


def test_a_fresh_adapter_of_the_bundled_student_is_a_megabyte_and_changes_nothing(pipeline, tmp_path):
    from temposync_pipeline.checkpoints import bundled_path

    plain = latents(pipeline)
    fresh = copy.deepcopy(pipeline.denoiser)
    add_lora(fresh, rank=8)
    save_lora(fresh, tmp_path / "fresh")
    pipeline.load_lora_weights(tmp_path / "fresh")
    assert torch.equal(latents(pipeline), plain)
    student = type(fresh).from_pretrained(bundled_path("temposync-tiny"), subfolder="denoiser")
    add_lora(student, rank=8)
    save_lora(student, tmp_path / "student")
    assert [path.name for path in (tmp_path / "student").iterdir()] == [NAME] and (tmp_path / "student" / NAME).stat().st_size < 1.5e6


def test_what_is_no_adapter_of_this_denoiser_is_refused_in_one_sentence(pipeline, adapter, tmp_path):
    tensors = load_file(adapter / NAME)
    first = next(iter(tensors))
    foreign = tiny_denoiser(layers_per_block=(2, 1))
    add_lora(foreign, rank=4)
    save_lora(foreign, tmp_path / "deeper")
    wider = tiny_denoiser(block_out_channels=(48, 48))
    add_lora(wider, rank=4)
    save_lora(wider, tmp_path / "wider")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    save_file(tensors | {first: torch.full_like(tensors[first], float("nan"))}, tmp_path / "nan.safetensors")
    save_file({name: tensor.int() for name, tensor in tensors.items()}, tmp_path / "whole.safetensors")
    save_file({name: tensor.bool() for name, tensor in tensors.items()}, tmp_path / "truth.safetensors")
    save_file(dict(list(tensors.items())[1:]), tmp_path / "half.safetensors")
    save_file({name: torch.full_like(tensor, 1e30) for name, tensor in tensors.items()}, tmp_path / "huge.safetensors")
    strong = {name: 1e4 * tensor if name.endswith("lora_B.weight") else tensor for name, tensor in tensors.items()}
    save_file(strong, tmp_path / "strong.safetensors")
    meagre = {name: 1e-3 * tensor for name, tensor in tensors.items()}
    save_file(meagre, tmp_path / "alpha.safetensors", {"lora_adapter_metadata": json.dumps({"denoiser.lora_alpha": 10_000})})
    pipeline.load_lora_weights(tmp_path / "alpha.safetensors")  # as strong as it is weak
    pipeline.unload_lora_weights()
    save_file(tensors | {f"{first.partition('.lora_')[0]}.lora_magnitude_vector": torch.ones(2)}, tmp_path / "dora.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    (tmp_path / "pickle.bin").write_bytes(b"\x80\x04.")
    for name, message in (("deeper", "no layer 'down_fine.1"), ("wider", "other sizes"), ("other.safetensors", "not a LoRA adapter"),
                          ("nan.safetensors", "not finite"),
                          ("whole.safetensors", "weights of the kind int32, expected floating-point numbers$"),
                          ("half.safetensors", "other sizes"),
                          ("truth.safetensors", "weights of the kind bool, expected floating-point numbers$"),
                          ("huge.safetensors", "times a layer's own weights to it, above the limit of 100 times"),
                          ("strong.safetensors", "times a layer's own weights to it"),
                          ("dora.safetensors", "not a LoRA adapter"), ("text.safetensors", "no readable"), ("pickle.bin", "no readable"),
                          ("missing", "no readable")):
        with pytest.raises(InvalidInputError, match=f"^{name}: .*{message}") as error:
            pipeline.load_lora_weights(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(InvalidInputError, match="does not know scale"):
        pipeline.load_lora_weights(adapter, scale=2)
    assert not pipeline.get_list_adapters().get("denoiser")


def test_an_adapter_of_eight_bits_is_read_as_its_numbers(pipeline, adapter, tmp_path):
    rounded = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(adapter / NAME).items()}
    save_file(rounded, tmp_path / "eight.safetensors")
    found = []
    for source in (tmp_path / "eight.safetensors", {name: tensor.float() for name, tensor in rounded.items()}):
        pipeline.load_lora_weights(source)
        found.append(latents(pipeline))
        pipeline.unload_lora_weights()
    assert torch.equal(*found) and not torch.equal(found[0], latents(pipeline))
    first = next(iter(rounded))
    damaged = rounded | {first: torch.full_like(rounded[first].float(), float("nan")).to(torch.float8_e4m3fn)}
    save_file(damaged, tmp_path / "damaged.safetensors")
    with pytest.raises(InvalidInputError, match="^damaged.safetensors: weights that are not finite$"):
        pipeline.load_lora_weights(tmp_path / "damaged.safetensors")


def test_a_model_that_computes_nonsense_says_so(pipeline):
    """Rather than still the mouth: what is not finite would not show in pixels."""
    for parameter in pipeline.denoiser.parameters():
        parameter.data.fill_(1e30)
    for kind in ("latent", "np"):
        with pytest.raises(InvalidInputError, match="latents are not finite"):
            pipeline(picture(120, 150), spoken(0.2), 1, output_type=kind)


@pytest.mark.parametrize(("settings", "message"), [
    ({"r": 10**9, "rank_pattern": {".*": 10**9}, "target_modules": "((a+)+)+b"}, ""), ({"lora_dropout": "x", "peft_version": [1]}, ""),
    ({"lora_alpha": float("nan")}, "lora_alpha and use_rslora should be"), ({"lora_alpha": "4"}, "lora_alpha"),
    ({"lora_alpha": 10**9}, "lora_alpha"), ({"lora_alpha": True}, "lora_alpha"), ({"use_rslora": 1}, "use_rslora"),
    ({"megatron_config": {"a": 1}, "megatron_core": "this"}, "made with 'megatron_config', which is not supported here"),
    ({"use_dora": True}, "made with 'use_dora'"), ({"unknown\n": 1}, r"made with 'unknown\\n'"), ({"bias": "all"}, "made with 'bias'"),
    ([1], "no JSON object"), ("{", "no readable"), ("[" * 100_000, "no readable"),
])
def test_settings_in_an_adapters_file_name_no_code_and_take_no_memory(pipeline, adapter, tmp_path, settings, message):
    """Layers and ranks are those of the tensors, whatever the settings say of them."""
    with safe_open(adapter / NAME, "pt") as file:
        usual = json.loads(file.metadata()["lora_adapter_metadata"])
    assert usual["denoiser.r"] == 4
    if isinstance(settings, dict):
        settings = usual | {f"denoiser.{key}": value for key, value in settings.items()}
    text = settings if isinstance(settings, str) else json.dumps(settings)
    save_file(load_file(adapter / NAME), tmp_path / "a.safetensors", {"lora_adapter_metadata": text})
    if message:
        with pytest.raises(InvalidInputError, match=f"^a.safetensors: .*{message}") as error:
            pipeline.load_lora_weights(tmp_path / "a.safetensors")
        assert "\n" not in str(error.value) and not pipeline.get_list_adapters().get("denoiser")
    else:
        pipeline.load_lora_weights(tmp_path / "a.safetensors")
        found = latents(pipeline)
        pipeline.unload_lora_weights()
        pipeline.load_lora_weights(adapter)
        assert torch.equal(latents(pipeline), found)


def test_layers_may_have_ranks_and_strengths_of_their_own(pipeline, adapter, tmp_path):
    """An adapter whose first layer is cut to half its rank moves as much as that says, and twice as strong, twice as far."""
    tensors = load_file(adapter / NAME)
    layers = sorted({name.partition(".lora_")[0] for name in tensors})
    pair = {part: f"{layers[0]}.lora_{part}.weight" for part in "AB"}
    tensors |= {pair["A"]: tensors[pair["A"]][:2].contiguous(), pair["B"]: tensors[pair["B"]][:, :2].contiguous()}
    changes = []
    for strength in (4, 8):
        save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps({"denoiser.lora_alpha": strength})})
        pipeline.load_lora_weights(tmp_path / "a.safetensors")
        layer = pipeline.denoiser.get_submodule(layers[0].removeprefix("denoiser."))
        changes.append(layer.get_delta_weight("default_0").clone())
        pipeline.unload_lora_weights()
    expected = strength / 2 * torch.einsum("or...,ri...->oi...", tensors[pair["B"]], tensors[pair["A"]])
    assert torch.allclose(changes[1], expected, atol=1e-6) and torch.allclose(changes[1], 2 * changes[0], atol=1e-6)
