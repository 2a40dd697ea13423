"""Bad checkpoints, adapters and files of latents, by the numbers of docs/results/bad_inputs.md: each is refused in one sentence."""

import json
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from temposync_pipeline import cli
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.limits import MAX_HEADER_BYTES
from temposync_pipeline.pipelines.latent_video import LatentVideo
from temposync_pipeline.pipelines.pipeline_temposync import TempoSyncPipeline

from .test_media_image import png_header
from .tiny_components import picture, spoken, tiny_pipeline

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


def edit(name: str, **changes):
    def harm(folder: Path) -> None:
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(config | changes))

    return harm


def edit_weights(change):
    def harm(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS)

    return harm


def long_header(path: Path) -> None:
    size = int.from_bytes(path.read_bytes()[:8], "little")
    data = path.read_bytes()
    header = data[8:8 + size] + b" " * (MAX_HEADER_BYTES + 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size:])


def pipe(name: str):
    def harm(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return harm


def write(name: str, text: str):
    return lambda folder: (folder / name).write_text(text)


def shard(name: str, harm=lambda folder: None):
    """The weights in a file of that name, which an index names, beside one that is found by its own name and never read."""

    def move(folder: Path) -> None:
        named = dict.fromkeys(load_file(folder / WEIGHTS), name)
        (folder / "vae/model.safetensors").write_bytes((folder / WEIGHTS).read_bytes())
        (folder / WEIGHTS).rename(folder / "vae" / name)
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": named}))
        harm(folder)

    return move


VAE, SPEECH, SAMPLER = "vae/config.json", "viseme_classifier/config.json", "scheduler/scheduler_config.json"
HARMS = {
    "55 truncated": (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]), "'vae' cannot be loaded"),
    "55 header": (lambda folder: long_header(folder / WEIGHTS), "a header of .* bytes, above the limit of 5000000"),
    "55 shape": (edit_weights(lambda weights: weights.update({"decoder.layers.0.weight": torch.zeros(3)})), "'vae' cannot be loaded"),
    "55 shape in config": (edit(VAE, encoder_channels=[8, 8, 8, 10**6]), r"has the shape \[8\], its config.json wants \[1000000\]"),
    "55 NaN": (edit_weights(lambda weights: next(iter(weights.values())).fill_(np.nan)), "weights that are not finite"),
    "55 infinite": (edit_weights(lambda weights: next(iter(weights.values())).fill_(np.inf)), "weights that are not finite"),
    "55 absurd": (edit_weights(lambda weights: next(iter(weights.values())).fill_(1e30)), "weights of up to 1.0e.30 .*the limit of 1e.06"),
    "56 pickle": (lambda folder: (folder / WEIGHTS).rename(folder / "vae/diffusion_pytorch_model.bin"), "'vae' are pickled"),
    "56 shard": (write("vae/model.safetensors.index.json", '{"weight_map": {"a": "../../a"}}'), "a shard outside its folder"),
    "56 absolute shard": (write("vae/model.safetensors.index.json", '{"weight_map": {"a": "/etc/passwd"}}'), "a shard outside its folder"),
    "55 header of a shard": (shard("a.safetensors", lambda folder: long_header(folder / "vae/a.safetensors")), "a header of .* above"),
    "55 shape of a shard": (shard("a.safetensors", edit(VAE, encoder_channels=[8, 8, 8, 10**6])), r"its config.json wants \[1000000\]"),
    "56 pickled shard": (shard("a.bin"), "a shard that is no safetensors file"),
    "56 no shards": (write("vae/model.safetensors.index.json", '{"weight_map": [1]}'), "no list of shards"),
    "56 unknown key": (edit(VAE, depth=3), "config.json: 'depth', which AutoencoderTempoSync does not know"),
    "56 another class": (edit(VAE, _class_name="AutoencoderKL"), "config.json: for a 'AutoencoderKL', expected a AutoencoderTempoSync"),
    "56 class from elsewhere": (edit("model_index.json", vae=["os", "system"]), "'vae' in model_index.json is"),
    "56 quantised": (edit(VAE, quantization_config={"quant_method": "bitsandbytes"}), "'quantization_config', which"),
    "56 code": (edit(SPEECH, auto_map={"AutoModel": "evil--model.Evil"}), "'auto_map', which VisemeClassifier does not know"),
    "56 kernel": (edit(SPEECH, attn_implementation="evil/kernel"), "'attn_implementation', which VisemeClassifier does not know"),
    "56 hidden kernel": (edit(SPEECH, _attn_implementation="evil/kernel"), "'_attn_implementation', which VisemeClassifier does not"),
    "56 layers": (edit(SPEECH, num_hidden_layers=10**4), "'num_hidden_layers' is 10000, above the limit of 256"),
    "56 type": (edit(VAE, latent_channels="32"), "'latent_channels' is '32', expected int"),
    "56 truth": (edit(VAE, latent_channels=True), "'latent_channels' is True, expected int"),
    "56 not finite": (edit(SAMPLER, sigma_max=float("inf")), "'sigma_max' is inf, expected float"),
    "56 falling": (edit(SAMPLER, sigma_min=20.0), "'scheduler' cannot be loaded: sigma_min 20.0"),
    "56 levels": (edit(SAMPLER, few_step_sigmas={"4": [1.0]}), "few_step_sigmas: '4' has"),
    "56 moments": (edit(VAE, latents_mean=[1.0]), "means and standard deviations should be 32 each"),
    "56 zero": (edit("face_aligner/config.json", first_pass_side=0), "first_pass_side, smallest_seen and smallest_face must be at least 1"),
    "56 rho": (edit(SAMPLER, rho=1e-30), r"rho 1e-30: not above 0 \(rho: 0.1\)"),
    "56 side": (edit("face_aligner/config.json", crop_size=10**6), "smallest_face must be at least 1, and 2048 at most"),
    "56 deep": (write("model_index.json", "[" * 100_000), "no readable model_index.json"),
    "56 deep config": (write(VAE, "[" * 100_000), "'vae' cannot be loaded: config.json: a number of too many digits, or too many brackets"),
    "56 long number": (write(VAE, f'{{"latent_channels": {"9" * 5000}}}'), "'vae' cannot be loaded: config.json: a number of too many"),
    "56 index pipe": (pipe("model_index.json"), "no readable model_index.json"),
    "56 config pipe": (pipe(VAE), "'vae' cannot be loaded: config.json: a pipe or a device, not a file"),
    "56 weights pipe": (pipe(WEIGHTS), "'vae' cannot be loaded: diffusion_pytorch_model.safetensors: a pipe or a device, not a file"),
    "56 long setting": (edit("model_index.json", fps="x" * 5000), r"'fps' in model_index.json is 'x{44}\.\.\.x{14}', expected"),
    "56 long part": (edit("model_index.json", vae=[1] * 5000), r"'vae' in model_index.json is \[1, 1, [1, ]*\.\.\.[1, ]*\], expected a"),
    "56 long name": (edit("model_index.json", **{"y" * 5000: 1}), r"model_index.json has 'y{44}\.\.\.y{14}', which TempoSync"),
    "56 large config": (write(VAE, json.dumps({"a": "x" * 1_000_000})), "config.json: 1000009 bytes, above the limit of 1000000"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("case", HARMS)
def test_a_checkpoint_is_refused_in_one_sentence(tmp_path, checkpoint, case):
    harm, message = HARMS[case]
    copy(checkpoint, tmp_path / "mine")
    harm(tmp_path / "mine")
    with pytest.raises(InvalidInputError, match=message) as error:
        TempoSyncPipeline.from_pretrained(tmp_path / "mine")
    assert str(error.value).startswith("mine: ") and "\n" not in str(error.value) and str(tmp_path) not in str(error.value)


def copy(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())


@pytest.mark.parametrize(("command", "harm"), [
    ("visemes", edit(SPEECH, auto_map={"AutoModel": "evil--model.Evil"})), ("generate", edit(SAMPLER, sigma_max="x")),
    ("generate", write(SAMPLER, "[" * 100_000)),
])
def test_commands_refuse_a_checkpoint_in_one_line(tmp_path, checkpoint, capsys, make_speech, command, harm):
    copy(checkpoint, tmp_path / "mine")
    harm(tmp_path / "mine")
    Image.fromarray(picture(96, 80)).save(tmp_path / "portrait.png")
    image = ["--image", str(tmp_path / "portrait.png"), "--output", str(tmp_path / "out.mp4")] if command == "generate" else []
    with pytest.raises(SystemExit) as end:
        cli.main([command, *image, "--audio", str(make_speech("a.wav")), "--model", str(tmp_path / "mine")])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("temposync: ")]
    assert end.value.code == 2 and len(lines) == 1 and not (tmp_path / "out.mp4").exists()


@pytest.mark.torch_only("adapters need torch")
def test_adapters_and_latents_have_the_same_limits(tmp_path):
    """55, 56."""
    pytest.importorskip("peft")
    pipeline = tiny_pipeline()
    save_file({"denoiser.a.lora_A.weight": torch.zeros(2)}, tmp_path / "adapter.safetensors")
    long_header(tmp_path / "adapter.safetensors")
    with pytest.raises(InvalidInputError, match="^adapter.safetensors: a header of .* above the limit of 5000000"):
        pipeline.load_lora_weights(tmp_path / "adapter.safetensors")
    pipeline(picture(96, 96), spoken(0.2), 1, output_type="latent").save_latents(tmp_path / "whole.safetensors")
    whole = load_file(tmp_path / "whole.safetensors")
    warnings.simplefilter("error")  # of NumPy's, with a folder of this machine
    for number, (changes, message) in enumerate((
        ({"latents": torch.full((5, 32, 10, 12), -3e38)}, "latents reach 3e\\+38, above the limit of 1e\\+06"),
        ({"latents": torch.full((5, 32, 10, 12), torch.nan)}, "latents should be finite"), ({"matrix": torch.zeros(2, 3)}, "degenerate"),
        ({"matrix": 1e30 * whole["matrix"]}, "it stretches by .*e.30 and .*, outside the limits of 0.001 to 100"),
        ({"matrix": whole["matrix"] + torch.tensor([[0, 0, 3e38], [0, 0, 0]])}, "looks at .* outside the photo"),
        ({"latents": torch.zeros(5, 32, 1, 12)}, r"latents should be \[5, 32, 10, 12\], found \[5, 32, 1, 12\]"),
        ({"photo": torch.frombuffer(bytearray(png_header(65_000, 65_000)), dtype=torch.uint8)}, "the photo in it cannot be read"),
    )):
        metadata = {"format": "temposync-latents", "version": "1", "fps": "25", "chunk_size": "16"}
        save_file(whole | changes, tmp_path / f"{number}.safetensors", metadata)
        with pytest.raises(InvalidInputError, match=message) as error:
            LatentVideo.load(tmp_path / f"{number}.safetensors")
        assert str(error.value).startswith(f"{number}.safetensors: ") and "\n" not in str(error.value)
    for change, message in (
        ({"fps": None}, "damaged: no fps in its metadata"), ({"chunk_size": None}, "damaged: no chunk_size in its metadata"),
        ({"fps": "many"}, "damaged: the fps 'many' in its metadata is no number of use"),
        ({"chunk_size": "9" * 5000}, r"damaged: the chunk_size '9+\.\.\.9+' in its metadata is no number of use"),
    ):
        said = {"format": "temposync-latents", "version": "1", "fps": "25", "chunk_size": "16"} | change
        save_file(whole, tmp_path / "a.safetensors", {key: value for key, value in said.items() if value is not None})
        with pytest.raises(InvalidInputError, match=f"^a.safetensors: {message}$"):
            LatentVideo.load(tmp_path / "a.safetensors")
    long_header(tmp_path / "whole.safetensors")
    with pytest.raises(InvalidInputError, match="^whole.safetensors: a header of .* above the limit of 5000000"):
        LatentVideo.load(tmp_path / "whole.safetensors")
