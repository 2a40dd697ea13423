"""`temposync generate` and `visemes` do without diffusers and transformers, and make what they make with them."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model

from temposync_pipeline import cli, startup
from temposync_pipeline.bases import lean, wav2vec2
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.media.video import read_video
from temposync_pipeline.models.viseme_classifier import VisemeClassifierConfig

from .tiny_components import MEDIA, tiny_pipeline

HEAVY = ("torch._dynamo", "torch.distributed.tensor", "sympy", "diffusers", "transformers", "accelerate", "peft", "scipy", "pillow_heif")


def run_command(*arguments: object, before: str = "") -> set[str]:
    """Run `temposync` as a process of its own, after the program `before`; returns which of `HEAVY` it imported."""
    code = (f"{before}\nimport sys, temposync_pipeline.cli as cli\ntry: cli.main()\n"
            f"finally: print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)")
    result = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stderr.split())


@pytest.fixture
def short_speech(make_speech):
    return make_speech("short.wav", 0.5)


def test_visemes_are_the_same_without_the_libraries(tmp_path, short_speech, capsys):
    assert not run_command("visemes", "--audio", short_speech, "--json", tmp_path / "lean.json")
    with pytest.raises(SystemExit):
        cli.main(["visemes", "--audio", str(short_speech), "--json", str(tmp_path / "full.json")])
    lean_result, full = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("lean", "full"))
    assert np.allclose(lean_result["probabilities"], full["probabilities"], atol=1e-4) and np.ptp(full["probabilities"]) > 0.5


def test_videos_are_the_same_without_the_libraries(tmp_path, short_speech):
    arguments = ["generate", "--image", str(MEDIA / "portrait_man.jpg"), "--audio", str(short_speech), "--steps", "2",
                 "--runtime", "torch", "--output"]
    assert not run_command(*arguments, tmp_path / "lean.mp4")
    assert "diffusers" in run_command(*arguments, tmp_path / "full.mp4", before="import diffusers")
    lean_frames, full = (read_video(tmp_path / f"{name}.mp4")[0].astype(float) for name in ("lean", "full"))
    assert lean_frames.shape == full.shape and abs(lean_frames - full).mean() < 0.05


def test_programs_get_the_classes_of_diffusers():
    code = ("from temposync_pipeline import TempoSyncPipeline, TempoSyncDenoiser, cli; import diffusers, pickle\n"
            "assert issubclass(TempoSyncPipeline, diffusers.DiffusionPipeline) and issubclass(TempoSyncDenoiser, diffusers.ModelMixin)")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_choice_is_made_before_the_models(monkeypatch):
    startup.start_lean()
    assert not startup.lean  # this process has imported diffusers
    monkeypatch.setattr(startup, "lean", True)
    monkeypatch.delitem(sys.modules, "temposync_pipeline.bases")
    startup.start_full()
    assert not startup.lean


@pytest.mark.parametrize("norm, stable", [("layer", True), ("layer", False), ("group", True), ("group", False)])
def test_the_lean_wav2vec2_is_that_of_transformers(norm, stable):
    settings = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, conv_dim=(16, 16, 24), conv_stride=(10, 8, 4),
        conv_kernel=(20, 16, 8), num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, feat_extract_norm=norm,
        feat_extract_activation="gelu", conv_bias=norm == "layer", do_stable_layer_norm=stable)
    torch.manual_seed(0)
    theirs = Wav2Vec2Model(Wav2Vec2Config(**settings, num_feat_extract_layers=3)).eval()
    for parameter in theirs.parameters():  # biases and norms start at 0 and 1
        torch.nn.init.normal_(parameter, std=0.2)
    ours = wav2vec2.Wav2Vec2Model(VisemeClassifierConfig(**settings)).eval()
    ours.load_state_dict(theirs.state_dict())
    samples = torch.randn(2, 4000)
    with torch.no_grad():
        assert torch.allclose(ours(samples).last_hidden_state, theirs(samples).last_hidden_state, atol=1e-5)


def test_weights_that_do_not_fit_are_named(tmp_path):
    class Network(lean.ModelMixin, lean.ConfigMixin):
        @lean.register_to_config
        def __init__(self, size: int = 2):
            self.layer = torch.nn.Linear(size, 1)

    from safetensors.torch import save_file

    save_file({"layer.weight": torch.ones(1, 3), "extra": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"size": 2, "_class_name": "Network", "unknown": 1}')
    _, report = Network.from_pretrained(tmp_path, output_loading_info=True)
    assert report == {"missing_keys": ["layer.bias"], "unexpected_keys": ["extra"], "mismatched_keys": ["layer.weight"]}
    with pytest.raises(ValueError, match="do not fit"):
        Network.from_pretrained(tmp_path)
    save_file({"layer.weight": torch.ones(1, 2, dtype=torch.float16), "layer.bias": torch.ones(1)}, tmp_path / "model.safetensors")
    network = Network.from_pretrained(tmp_path)
    assert network.config.size == 2 and network.dtype == torch.float32 and not network.training
    assert network.layer(torch.ones(1, 2)).item() == 3


@pytest.fixture
def saved_network(tmp_path):
    """A network with all that weights can lie in, in two files, half of it in float16."""
    from safetensors.torch import save_file

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scales = torch.nn.ParameterDict({"own": torch.ones(3)})
            self.norm, self.mix = torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3)

        def forward(self, x):
            return self.mix(self.norm(x * self.scales["own"]))

    class Network(lean.ModelMixin, lean.ConfigMixin):
        @lean.register_to_config
        def __init__(self):
            self.place, self.layers, self.unused = torch.nn.Parameter(torch.ones(3)), torch.nn.ModuleList([Layer()]), torch.nn.Linear(3, 3)

        def forward(self, x):
            return self.layers[0](x + self.place)

    torch.manual_seed(0)
    weights = {name: torch.rand_like(value.float()) + 0.1 if value.is_floating_point() else value
               for name, value in Network().state_dict().items()}
    first = {name: value.half() for name, value in weights.items() if "mix" in name}
    save_file(first, tmp_path / "model-00001-of-00002.safetensors")
    save_file({name: value for name, value in weights.items() if name not in first}, tmp_path / "model-00002-of-00002.safetensors")
    (tmp_path / "config.json").write_text("{}")
    return Network, tmp_path


def test_weights_rest_in_their_files_until_they_are_used(saved_network):
    network = saved_network[0].from_pretrained(saved_network[1])
    x, weights = torch.rand(5, 3), {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        before = network(x)
        for _ in range(2):
            network.rest()
            assert all(value.is_meta for value in (*network.parameters(), *network.buffers()))
            assert network.dtype == torch.float32 and network.device == lean.group_offload_device(network) == torch.device("cpu")
            assert torch.equal(network(x), before) and network.unused.weight.is_meta and network.unused(x).isfinite().all()
    network.rest()
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert not any(value.is_meta for value in network.parameters()) and torch.equal(network(x), before)


def test_what_is_multiplied_in_bfloat16_comes_back_in_it(saved_network):
    network = saved_network[0].from_pretrained(saved_network[1])
    x, weights = torch.rand(5, 3), {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        before = network(x)
        network.rest()
        assert torch.equal(network(x), before)
    assert network.layers[0].mix.weight.dtype == torch.bfloat16 and network.layers[0].norm.weight.dtype == torch.float32
    network.rest()
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_a_checkpoint_that_changes_meanwhile_is_refused(saved_network):
    network = saved_network[0].from_pretrained(saved_network[1])
    network.rest()
    path = saved_network[1] / "model-00001-of-00002.safetensors"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data + b" ")
    with pytest.raises(InvalidInputError, match="00001-of-00002.safetensors: changed while it was in use"):
        network(torch.rand(5, 3))


def test_several_threads_may_wake_a_network(saved_network):
    network, x = saved_network[0].from_pretrained(saved_network[1]), torch.rand(5, 3)
    expected = network(x)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            network.rest()
            assert all(torch.equal(result, expected) for result in pool.map(network, [x] * 4))


def test_little_is_kept_unless_the_environment_says_otherwise(monkeypatch):
    shared, limits, frozen = [], [], []
    monkeypatch.setattr(startup, "share_heaps", shared.append)
    monkeypatch.setattr(startup, "_set_malloc", lambda parameter, value: limits.append(value))
    monkeypatch.setattr(startup.gc, "freeze", lambda: frozen.append(True))
    monkeypatch.setattr(startup, "_expects_long_work", False)
    names = (
        "LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    for name in names:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    startup.keep_little()
    assert os.environ["LRU_CACHE_CAPACITY"] == "1" and os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "96"
    assert shared == [1] and limits == [2**20, 2**22]
    for _ in range(2):
        startup.expect_long_work()
    assert limits[2:] == 2 * [2**21, 2**23] and frozen == [True]
    for name in names:
        monkeypatch.setenv(name, "7")
    startup.keep_little()
    startup.expect_long_work()
    assert os.environ["LRU_CACHE_CAPACITY"] == os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7" and shared == [1] and len(limits) == 6


@pytest.mark.parametrize(("frames", "long"), [(500, []), (501, [True])])
def test_long_work_is_expected_of_a_process_that_only_makes_videos(monkeypatch, frames, long):
    told, pipeline = [], tiny_pipeline()
    monkeypatch.setattr(startup, "expect_long_work", lambda: told.append(True))
    pipeline._make_room(frames)
    assert not told
    monkeypatch.setattr(startup, "lean", True)
    pipeline._make_room(frames)
    assert told == long


@pytest.mark.parametrize(("name", "usual"), [("GOMP_SPINCOUNT", "1000"), ("OPENBLAS_NUM_THREADS", "1")])
def test_waiting_threads_yield_their_core_unless_told_otherwise(monkeypatch, name, usual):
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)
    startup.yield_cores()
    assert os.environ[name] == usual
    monkeypatch.setenv(name, "7")
    startup.yield_cores()
    assert os.environ[name] == "7"
