"""The Hub, over real HTTP: loading, publishing, and everything that breaks on the way."""

import errno
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub.hf_api
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard, constants, hf_hub_download
from safetensors.torch import load_file, save_file

from temposync_pipeline import InvalidInputError, TempoSyncDenoiser, TempoSyncPipeline, VisemeClassifier, cli
from temposync_pipeline.checkpoints import bundled_path, checkpoint_folder
from temposync_pipeline.checkpoints.hub import download_checkpoint
from temposync_pipeline.pipelines.loading import component_classes, place_components
from temposync_pipeline.pipelines.lora import add_lora, save_lora

from .fake_hub import FakeHub
from .test_faults import largest_file
from .tiny_components import picture, ready, spoken, tiny_denoiser, tiny_pipeline

ROOT = Path(__file__).parent.parent
WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@contextmanager
def connected(cache: Path):
    """A running Hub, and huggingface_hub pointed at it with an empty cache (its environment variables are read once, at import)."""
    with FakeHub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.url)
        patch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(cache / "modules"))
        patch.setattr(sys, "path", list(sys.path))
        patch.setenv("HF_TOKEN", "hf_test")
        yield hub


@pytest.fixture
def hub(tmp_path):
    """A Hub with one small repository: a vae, a pickled component, and code that must never run."""
    with connected(tmp_path / "cache") as hub:
        hub.commit("org/name", {
            "model_index.json": b'{"_class_name": "TempoSyncPipeline"}', "pipeline.py": b"raise SystemExit",
            "vae/config.json": b"{}", WEIGHTS: bytes(range(256)) * 1000, "vae/diffusion_pytorch_model.fp16.safetensors": b"half",
            "pickled/config.json": b"{}", "pickled/diffusion_pytorch_model.bin": b"\x80\x04."})
        yield hub


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A Hub with the tiny pipeline, its teacher and its half-precision variant; yields (hub, pipeline, commit of the first push)."""
    pipeline = tiny_pipeline()
    with connected(tmp_path_factory.mktemp("cache")) as hub:
        address = pipeline.push_to_hub("me/tiny", teacher=tiny_denoiser(mid_layers=2), model_card=ROOT / "model_card.md")
        half = tiny_pipeline().to(dtype=torch.float16)
        half.register_to_config(mouth_amplitude=2.0)
        half.push_to_hub("me/tiny", variant="fp16")
        yield hub, pipeline, address.rsplit("/", 1)[-1]


def frames(pipeline: TempoSyncPipeline, reference: TempoSyncPipeline, steps: int = 2) -> np.ndarray:
    pipeline.register_modules(face_aligner=reference.face_aligner)  # random weights find no face
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(picture(200, 300), spoken(0.2), steps, torch.Generator().manual_seed(7), output_type="np", mouth_amplitude=1.0).frames


def weight_requests(hub: FakeHub) -> list[str]:
    return [line.rsplit("/", 2)[-2] + "/" + line.rsplit("/", 1)[-1] for line in hub.requests
            if line.startswith("GET") and line.endswith(".safetensors")]


@pytest.mark.makes_videos
def test_round_trip_gives_identical_frames(published):
    hub, pipeline, _ = published
    expected = frames(pipeline, pipeline)
    assert np.array_equal(frames(TempoSyncPipeline.from_pretrained("me/tiny"), pipeline), expected)
    with_code = DiffusionPipeline.from_pretrained("me/tiny", trust_remote_code=True)
    assert type(with_code) is TempoSyncPipeline
    assert np.array_equal(frames(ready(with_code), pipeline), expected)
    # The repository's code is in the cache now: this class still neither needs nor runs it.
    assert np.array_equal(frames(TempoSyncPipeline.from_pretrained("me/tiny", local_files_only=True), pipeline), expected)


def test_what_a_published_repository_holds(published):
    hub, *_ = published
    files = hub.files("me/tiny")
    assert files["README.md"] == (ROOT / "model_card.md").read_bytes()
    assert json.loads(files["model_index.json"])["_class_name"] == ["pipeline", "TempoSyncPipeline"]
    assert "teacher/diffusion_pytorch_model.safetensors" in files
    assert {Path(path).suffix for path in files} == {".json", ".safetensors", ".py", ".md", ""}
    for path, content in files.items():
        if path.endswith(".py"):
            assert content.startswith(b"from temposync_pipeline") and content.count(b"\n") == 1
        if path.endswith(".json"):
            assert b"_name_or_path" not in content, path


@pytest.mark.makes_videos
def test_teacher_revision_and_single_components(published):
    _, pipeline, first_commit = published
    teacher = TempoSyncPipeline.from_pretrained("me/tiny", denoiser="teacher")
    assert teacher.denoiser.config.mid_layers == 2 and teacher.scheduler.config.prediction == "sde"
    assert np.isfinite(frames(teacher, pipeline, steps=3)).all()
    assert TempoSyncPipeline.from_pretrained("me/tiny").config.mouth_amplitude == 2.0
    first = TempoSyncPipeline.from_pretrained("me/tiny", revision=first_commit)
    assert first.config.mouth_amplitude == 1.0 and (first.model_name, first.model_revision) == ("me/tiny", first_commit)
    alone = TempoSyncDenoiser.from_pretrained("me/tiny", subfolder="teacher")
    for name, weight in alone.state_dict().items():
        assert torch.equal(weight, teacher.denoiser.state_dict()[name])
    classifier = VisemeClassifier.from_pretrained("me/tiny", subfolder="viseme_classifier")
    assert np.allclose(classifier.predict(spoken()[0], 15), pipeline.viseme_classifier.predict(spoken()[0], 15), atol=1e-5)


def test_variant_fetches_only_its_own_weights(published, tmp_path):
    hub, *_ = published
    hub.requests.clear()
    loaded = TempoSyncPipeline.from_pretrained("me/tiny", variant="fp16", dtype=torch.float16, cache_dir=tmp_path)
    fetched = weight_requests(hub)
    assert len(fetched) == 5 and all(name.endswith(".fp16.safetensors") for name in fetched)
    assert {getattr(loaded, name).dtype for name in ("vae", "denoiser", "viseme_classifier")} == {torch.float16}
    mixed = TempoSyncPipeline.from_pretrained("me/tiny", dtype={"vae": torch.bfloat16}, denoiser=tiny_denoiser(mid_layers=3))
    assert (mixed.vae.dtype, mixed.viseme_classifier.dtype, mixed.denoiser.config.mid_layers) == (torch.bfloat16, torch.float32, 3)


def test_a_card_is_kept_demanded_or_started(published, tmp_path):
    hub, pipeline, _ = published
    address = pipeline.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="me/second", private=True)
    card = hub.files("me/second")["README.md"].decode()
    assert address is None and 'from_pretrained("me/second")' in card and ModelCard(card).data.pipeline_tag == "image-to-video"
    (tmp_path / "card.md").write_text("---\ntags: [a]\n---\n# Name\n")
    with pytest.raises(InvalidInputError, match="card.md: its metadata lack license, library_name, pipeline_tag"):
        pipeline.push_to_hub("me/third", model_card=tmp_path / "card.md")
    assert "me/third" not in hub.repositories
    with pytest.raises(ValueError, match="safetensors"):
        pipeline.save_pretrained(tmp_path, safe_serialization=False)


def test_a_cut_connection_is_taken_up_where_it_broke(hub):
    hub.cut.add(WEIGHTS)
    assert (checkpoint_folder("org/name", ["vae"]) / WEIGHTS).read_bytes() == hub.files("org/name")[WEIGHTS]
    assert weight_requests(hub) == [WEIGHTS, WEIGHTS] and not hub.cut


def test_damage_of_equal_size_is_found_and_removed(hub, tmp_path):
    hub.damaged.add(WEIGHTS)
    with pytest.raises(InvalidInputError, match=f"^org/name: {WEIGHTS}: not the published SHA-256; removed from the cache") as error:
        checkpoint_folder("org/name", ["vae"])
    assert "\n" not in str(error.value)
    content = hub.files("org/name")[WEIGHTS]
    assert not any(path.stat().st_size == len(content) for path in (tmp_path / "cache").rglob("*") if path.is_file())
    hub.damaged.clear()
    path = checkpoint_folder("org/name", ["vae"]) / WEIGHTS
    assert path.read_bytes() == content
    path.resolve().write_bytes(content[::-1])  # a cache that went bad on disk
    with pytest.raises(InvalidInputError, match="SHA-256"):
        checkpoint_folder("org/name", ["vae"], local_files_only=True)


def test_a_complete_cache_is_enough_when_the_server_is_down(hub):
    folder = checkpoint_folder("org/name", ["vae"])
    hub.status = 503
    assert checkpoint_folder("org/name", ["vae"]) == folder
    hub.status = None
    hub.stop()
    assert checkpoint_folder("org/name", ["vae"]) == folder
    for name, components in (("org/name", ["pickled"]), ("org/other", ["vae"])):
        with pytest.raises((ConnectionError, InvalidInputError), match=f"^{name}: "):
            checkpoint_folder(name, components)


def test_a_cache_filled_file_by_file_is_enough_when_complete(hub):
    names = ["model_index.json", "vae/config.json", WEIGHTS]
    for count, name in enumerate(names, 1):
        path = Path(hf_hub_download("org/name", name))
        if count < len(names):
            with pytest.raises(ConnectionError, match="org/name: not completely in the cache"):
                checkpoint_folder("org/name", ["vae"], local_files_only=True)
    hub.stop()
    for options in ({"local_files_only": True}, {}):
        folder = checkpoint_folder("org/name", ["vae"], **options)
        assert (folder / WEIGHTS).read_bytes() == hub.files("org/name")[WEIGHTS]
    path.resolve().write_bytes(path.read_bytes()[::-1])
    with pytest.raises(InvalidInputError, match=f"{WEIGHTS}: not the published SHA-256"):
        checkpoint_folder("org/name", ["vae"], local_files_only=True)


@pytest.mark.parametrize(("name", "components", "options", "message"), [
    ("org/nothing", ["vae"], {}, "org/nothing: neither a directory here nor a repository on the Hub"),
    ("org/name", ["vae"], {"revision": "v9"}, "org/name: it has no revision 'v9'"),
    ("org/name", ["vae"], {"variant": "bf16"}, "org/name: no component has weights of the variant 'bf16'"),
    ("org/name", ["teacher"], {}, "org/name: it has no component 'teacher'"),
    ("org/name", ["pickled"], {}, "org/name: the weights of 'pickled' are pickled, and only safetensors"),
    ("org/na--me", ["vae"], {}, "org/na--me: not a possible name"),
    ("nothing", ["vae"], {}, "nothing: not a bundled checkpoint"),
    ("../nothing", ["vae"], {}, "../nothing: not a bundled checkpoint"),
])
def test_mistakes_are_named_in_one_line(hub, name, components, options, message):
    with pytest.raises(InvalidInputError) as error:
        checkpoint_folder(name, components, **options)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert not weight_requests(hub) and not any(line.endswith((".bin", ".py")) for line in hub.requests)


def test_bundled_names_and_directories_come_first(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_pipeline().vae.save_pretrained("org/name/vae")
    assert checkpoint_folder("org/name", ["vae"]) == Path("org/name")
    assert checkpoint_folder("temposync-tiny", ["vae"]) == bundled_path("temposync-tiny")
    assert hub.requests == []
    Path("org/name", WEIGHTS).rename("org/name/vae/diffusion_pytorch_model.bin")
    with pytest.raises(InvalidInputError, match="name: the weights of 'vae' are pickled"):
        checkpoint_folder("org/name", ["vae"])


def test_the_command_says_it_in_one_line(hub, tmp_path, capsys, make_audio):
    from PIL import Image

    Image.fromarray(picture()).save(tmp_path / "portrait.png")
    options = ["--image", str(tmp_path / "portrait.png"), "--audio", str(make_audio("a.wav")), "--output", str(tmp_path / "out.mp4")]
    for model, message in (("org/nothing", "neither a directory"), ("org/name", "model_index.json lacks denoiser, face_aligner")):
        with pytest.raises(SystemExit) as end:
            cli.main(["generate", *options, "--model", model])
        lines = capsys.readouterr().err.splitlines()
        assert end.value.code == 2 and len(lines) == 1 and lines[0].startswith(f"temposync: {model}: "), (message, lines)
    hub.stop()
    with pytest.raises(SystemExit) as end:
        cli.main(["visemes", *options[2:4], "--model", "org/other"])
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(lines) == 1 and "cannot be reached" in lines[0]
    assert not (tmp_path / "out.mp4").exists()


def test_environment_variables_of_the_hub(hub, tmp_path):
    """As a user sets them: another process, its own cache, online, then with HF_HUB_OFFLINE."""
    code = "from temposync_pipeline.checkpoints import checkpoint_folder as f; print(f('org/name', ['vae'], revision='main'))"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_CACHE", None)
    for offline in ("0", "1"):
        hub.requests.clear()
        result = subprocess.run([sys.executable, "-c", code], env=environment | {"HF_HUB_OFFLINE": offline}, cwd=ROOT,
                                capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(str(tmp_path / "home")) and bool(hub.requests) == (offline == "0")


def edit_index(folder: Path, **changes) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | changes))


def edit_weights(folder: Path, change) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


@pytest.mark.parametrize(("harm", "message"), [
    (lambda folder: edit_index(folder, vae=["os", "system"]), "'vae' in model_index.json is"),
    (lambda folder: edit_index(folder, safety=3), "has 'safety', which TempoSyncPipeline does not know"),
    (lambda folder: edit_index(folder, fps="fast"), "'fps' in model_index.json is 'fast', expected int"),
    (lambda folder: (folder / "model_index.json").write_text("[1]"), "no readable model_index.json"),
    (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]), "'vae' cannot be loaded"),
    (lambda folder: edit_weights(folder, lambda weights: weights.popitem()), "'vae' cannot be loaded: its weights do not fit"),
    (lambda folder: edit_weights(folder, lambda weights: next(iter(weights.values())).fill_(np.nan)), "weights that are not finite"),
    (lambda folder: (folder / "vae/model.safetensors.index.json").write_text('{"weight_map": {"a": "../../a"}}'), "a shard outside"),
])
def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, harm, message):
    tiny_pipeline().save_pretrained(tmp_path)
    harm(tmp_path)
    with pytest.raises(InvalidInputError, match=message) as error:
        TempoSyncPipeline.from_pretrained(tmp_path)
    assert str(error.value).startswith(f"{tmp_path.name}: ")
    assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value)


def test_components_are_spread_by_size_over_the_memory_there_is(tmp_path):
    folders = {name: tmp_path / name for name in ("vae", "denoiser", "face_aligner", "scheduler")}
    for folder, size in zip(folders.values(), (3000, 9000, 2000, 0)):
        folder.mkdir()
        if size:
            (folder / "model.safetensors").write_bytes(bytes(size))
    assert place_components("balanced", folders, {0: 10_000, 1: 8_000}) == {"denoiser": 0, "vae": 1, "face_aligner": 1}
    assert place_components("cuda", folders, None) == dict.fromkeys(folders, "cuda") and place_components(None, folders, None) is None
    with pytest.raises(InvalidInputError, match="no accelerator has room for denoiser"):
        place_components("balanced", folders, {0: 5_000})


def test_the_model_card_has_what_the_hub_shows():
    metadata = ModelCard.load(ROOT / "model_card.md").data
    assert (metadata.license, metadata.library_name, metadata.pipeline_tag) == ("apache-2.0", "diffusers", "image-to-video")
    assert {"talking-head", "lip-sync"} <= set(metadata.tags)


@pytest.mark.makes_videos
def test_folders_load_with_plain_diffusers_too(tmp_path):
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path / "mine")
    pipeline.save_pretrained(tmp_path / "mine")  # again, over what is there
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"model_index.json", "pipeline.py", "scheduler"} | set(
        component_classes(TempoSyncPipeline)) - {"lip_motion"}
    for folder, kind in ((tmp_path / "mine", "tiny"), (bundled_path("temposync-tiny"), "bundled")):
        loaded = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
        own = TempoSyncPipeline.from_pretrained(folder)
        assert (own.model_name, own.model_revision) == ("local", "")  # a folder's name may be a person's
        assert type(loaded) is TempoSyncPipeline and {name: loaded.config[name] for name in loaded.SETTINGS} == {
            name: own.config[name] for name in own.SETTINGS}
        if kind == "tiny":
            assert np.array_equal(frames(ready(loaded), pipeline), frames(pipeline, pipeline))


@pytest.mark.makes_videos
def test_what_saving_and_loading_do_not_know_is_named_first(tmp_path):
    pipeline = tiny_pipeline()
    with pytest.raises(InvalidInputError, match="save_pretrained does not know max_shard without push_to_hub"):
        pipeline.save_pretrained(tmp_path / "mine", max_shard=3)
    assert not (tmp_path / "mine").exists()
    pipeline.save_pretrained(tmp_path / "mine", max_shard_size="20KB")
    assert len(list((tmp_path / "mine" / "vae").glob("*.safetensors"))) > 1
    loaded = TempoSyncPipeline.from_pretrained(tmp_path / "mine")
    for part in ("vae", "denoiser", "face_aligner", "viseme_classifier"):
        weights = getattr(loaded, part).state_dict()
        assert all(torch.equal(weights[name], value) for name, value in getattr(pipeline, part).state_dict().items())
    # Where the weights lie in memory is another matter: some CPUs compute the last bit in another order then.
    assert np.abs(frames(loaded, pipeline) - frames(pipeline, pipeline)).max() < 1.5 / 255
    (tmp_path / "mine" / "denoiser" / "config.json").write_text("no JSON")  # nothing must get so far as to notice
    for options, message in (({"fps_": 3}, "does not know fps_"), ({"use_safetensors": False}, "only safetensors"),
                             ({"device_map": {"vae": 0}}, "device_map"), ({"device_map": "cpu", "low_cpu_mem_usage": False}, "cannot go"),
                             ({"quantization_config": {"a": 1}}, "expected a PipelineQuantizationConfig")):
        with pytest.raises(InvalidInputError, match=message):
            TempoSyncPipeline.from_pretrained(tmp_path / "mine", **options)


@pytest.mark.makes_videos
@pytest.mark.parametrize("options", [{"device_map": "cpu"}, {"low_cpu_mem_usage": True}, {"low_cpu_mem_usage": False},
                                     {"device_map": "balanced", "max_memory": {"cpu": "2GB"}}, {"offload_state_dict": False}])
def test_diffusers_ways_to_load_give_the_same_frames(tmp_path, options):
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    loaded = TempoSyncPipeline.from_pretrained(tmp_path, **options)
    assert loaded.hf_device_map == ("cpu" if options.get("device_map") == "cpu" else None)
    assert np.array_equal(frames(loaded, pipeline), frames(pipeline, pipeline))


def test_exported_networks_are_fetched_for_those_who_ask(hub):
    hub.commit("org/name", {"openvino/export.json": b"{}", "openvino/decoder.xml": b"<net/>", "onnx/decoder.onnx": b"onnx"})
    folder = download_checkpoint("org/name", ["vae"])
    assert not (folder / "openvino").exists()
    assert not (download_checkpoint("org/name", [], extra=["openvino"], local_files_only=True) / "openvino").exists()
    folder = download_checkpoint("org/name", [], extra=["openvino", "missing"])
    assert (folder / "openvino" / "decoder.xml").read_bytes() == b"<net/>" and not (folder / "onnx").exists()
    (folder / "openvino" / "decoder.xml").resolve().write_bytes(b"<bad/>")
    with pytest.raises(InvalidInputError, match="openvino/decoder.xml: not the published"):
        download_checkpoint("org/name", [], extra=["openvino"])


def test_adapters_of_the_hub_are_checked_like_weights(hub, tmp_path):
    pytest.importorskip("peft")
    denoiser, name = tiny_denoiser(), "pytorch_lora_weights.safetensors"
    add_lora(denoiser, rank=2)
    save_lora(denoiser, tmp_path)
    content = (tmp_path / name).read_bytes()
    hub.commit("org/name", {name: content, "inside/anna.safetensors": content})
    for options in ({}, {"local_files_only": True}, {"subfolder": "inside", "weight_name": "anna.safetensors"}, {"revision": "main"}):
        pipeline = tiny_pipeline()
        pipeline.load_lora_weights("org/name", **options)
        assert pipeline.get_active_adapters()
    (download_checkpoint("org/name", [], extra=[name]) / name).resolve().write_bytes(content[::-1])
    with pytest.raises(InvalidInputError, match=f"^org/name: {name}: not the published SHA-256"):
        pipeline.load_lora_weights("org/name")
    size = int.from_bytes(content[:8], "little")
    hub.commit("org/name", {name: (size + 6_000_000).to_bytes(8, "little") + content[8:8 + size] + b" " * 6_000_000 + content[8 + size:]})
    with pytest.raises(InvalidInputError, match=f"^{name}: a header of .* above the limit of 5000000"):
        pipeline.load_lora_weights("org/name")
    with pytest.raises(InvalidInputError, match="^name: no readable safetensors file of an adapter"):
        pipeline.load_lora_weights("org/name", weight_name="missing.safetensors")
    hub.stop()
    with pytest.raises(ConnectionError, match="^org/name: "):
        pipeline.load_lora_weights("org/name", revision="other")


def test_a_full_disk_ends_a_download_and_the_next_one_is_whole(hub):
    """57: the disk's own words, and nothing half-fetched passes for whole."""
    content = hub.files("org/name")[WEIGHTS]
    with pytest.raises(OSError) as error, largest_file(len(content) // 2):
        checkpoint_folder("org/name", ["vae"])
    assert error.value.errno == errno.EFBIG and not isinstance(error.value, ConnectionError)
    assert (checkpoint_folder("org/name", ["vae"]) / WEIGHTS).read_bytes() == content
