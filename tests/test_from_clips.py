"""Stages on a plain folder of clips, from video files to a checkpoint that loads."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from temposync_pipeline import cli
from temposync_pipeline.data.manifest import read_manifest
from temposync_pipeline.data.tracking import face_spans
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.face.landmarks import NUM_LANDMARKS
from temposync_pipeline.media.video import VideoWriter
from temposync_pipeline.models.face_aligner import FaceAligner
from temposync_pipeline.pipelines.pipeline_temposync import TempoSyncPipeline
from temposync_pipeline.training import student
from temposync_pipeline.training.clip_latents import prepare_latents
from temposync_pipeline.training.from_clips import FINE_TUNING, settings_for_clips, takes_clips, train_on_clips
from temposync_pipeline.training.latent_cache import LatentCache

from .tiny_components import picture, template_face, tiny_denoiser, tiny_pipeline

EXAMPLE = Path(__file__).parent.parent / "examples" / "train" / "finetune.yaml"
QUICK = ["--set", "max_steps=2", "--set", "batch_size=4", "--set", "tensorboard=false", "--set", "validation_steps=[1]",
         "--set", "validation_count=4", "--set", "mixed_precision=no", "--device", "cpu"]


@pytest.fixture
def checkpoint(tmp_path, monkeypatch) -> Path:
    """A tiny pipeline on disk, with a teacher; its face aligner follows the template wherever the picture is not all of one colour."""
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    tiny_denoiser(mid_layers=2).save_pretrained(tmp_path / "tiny" / "teacher")
    monkeypatch.setattr(FaceAligner, "follow", lambda self, frames: ((template_face(frame) or [None])[0] for frame in frames))
    monkeypatch.setattr(FaceAligner, "detect", lambda self, image, max_faces=None, threshold=0.5: template_face(image))
    return tmp_path / "tiny"


@pytest.fixture
def clips(tmp_path, make_audio) -> Path:
    """Five clips of one person, and one without a face."""
    sound = make_audio("speech.wav", seconds=0.6)
    (tmp_path / "clips").mkdir()
    for number in range(6):
        with VideoWriter(tmp_path / "clips" / f"{number}.mp4", audio_path=sound) as writer:
            for t in range(14):
                writer.write(np.roll(picture(96, 96), 6 * t, axis=1) if number < 5 else np.zeros((96, 96, 3), np.uint8))
    return tmp_path / "clips"


def train(*arguments) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", *map(str, arguments)])
    assert ended.value.code == 0


def test_a_student_is_adapted_to_a_folder_of_clips(tmp_path, checkpoint, clips, capsys):
    command = ["student", "--init", checkpoint, "--data", clips, "--output", tmp_path / "run", *QUICK]
    train(*command)
    out, err = capsys.readouterr()
    assert "skipped 5: 5.mp4: no face" in err and "talkers_ev1" in out
    run = tmp_path / "run"
    assert out.splitlines()[-1] == f"{run}: use it with temposync generate --model {run} --image PORTRAIT --audio SPEECH"
    assert [clip.split for clip in read_manifest(tmp_path / "run" / "latents" / "manifest.jsonl")] == ["train"] * 4 + ["val"]
    first, last = (TempoSyncPipeline.from_pretrained(folder) for folder in (checkpoint, tmp_path / "run"))
    assert not torch.equal(last.denoiser.conv_in.weight, first.denoiser.conv_in.weight)
    for name in ("vae", "identity_encoder", "viseme_classifier"):
        assert all(torch.equal(value, getattr(first, name).state_dict()[key]) for key, value in getattr(last, name).state_dict().items())
    assert last.scheduler.config.sigma_min == first.scheduler.config.sigma_min

    # The clips are not prepared again: neither for a longer run that goes on, nor are they needed as a cache of their own.
    prepared = (tmp_path / "run" / "latents" / "talkers_train.safetensors").stat().st_mtime_ns
    train(*command, "--resume", "--set", "max_steps=3")
    assert (tmp_path / "run" / "latents" / "talkers_train.safetensors").stat().st_mtime_ns == prepared
    assert not takes_clips("student", str(tmp_path / "run" / "latents")) and takes_clips("student", str(clips))


@pytest.mark.torch_only("adapters need torch")
def test_an_adapter_of_a_person_is_trained_beside_the_checkpoint(tmp_path, checkpoint, clips, make_audio, capsys):
    run = tmp_path / "run"
    train("student", "--init", checkpoint, "--data", clips, "--output", run, *QUICK, "--set", "lora_rank=2", "--set", "warmup_steps=0")
    adapter = run / "pytorch_lora_weights.safetensors"
    assert f"--lora {run} " in capsys.readouterr().out.splitlines()[-1]
    assert not (run / "denoiser").exists() and not (run / "model_index.json").exists()
    tensors = load_file(adapter)
    assert {name.split(".lora_")[-1] for name in tensors} == {"A.weight", "B.weight"}
    assert any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    Image.fromarray(picture(96, 96)).save(tmp_path / "portrait.png")
    with pytest.raises(SystemExit) as ended:
        cli.main(["generate", "--image", str(tmp_path / "portrait.png"), "--audio", str(make_audio("a.wav", seconds=0.2)), "--steps", "1",
                  "--output", str(tmp_path / "out.mp4"), "--model", str(checkpoint), "--lora", str(run), "--device", "cpu"])
    assert ended.value.code in (0, None) and (tmp_path / "out.mp4").exists()
    with pytest.raises(InvalidInputError, match="lora_rank 2: an adapter adapts a checkpoint"):
        student.Config(lora_rank=2)


def test_a_teacher_is_adapted_too(tmp_path, checkpoint, clips):
    train("teacher", "--init", checkpoint, "--data", clips, "--output", tmp_path / "run", *QUICK)
    loaded = TempoSyncPipeline.from_pretrained(tmp_path / "run")
    assert loaded.denoiser.config.mid_layers == 2 and loaded.scheduler.config.prediction == "sde"


def test_the_preparation_can_be_interrupted(tmp_path, checkpoint, clips, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("temposync_pipeline.training.clip_latents.join_caches", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare_latents(clips, tmp_path / "latents", str(checkpoint))
    parts = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "latents" / "parts").iterdir()}
    monkeypatch.setattr("temposync_pipeline.training.clip_latents.ClipEncoder.encode",
                        lambda self, clip, path: pytest.fail("encoded again") if path.name in parts else
                        (_ for _ in ()).throw(InvalidInputError("no face")))
    prepare_latents(clips, tmp_path / "latents", str(checkpoint), report=lambda line: None)
    assert len(parts) == 5 and not (tmp_path / "latents" / "parts").exists()
    joined = load_file(tmp_path / "latents" / "talkers_train.safetensors")
    assert joined["sequences"].tolist() == [[14 * k, 14, 14 * k, 14] for k in range(4)]
    assert joined["context_index"].tolist() == list(range(56)) and joined["visemes"].shape == (56, 11, 15)
    assert LatentCache(tmp_path / "latents", {"talkers_train": 1.0}).draw(4).target.shape == (4, 32, 10, 12)


def test_a_folder_without_usable_clips_is_one_line(tmp_path, checkpoint, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.mp4").write_bytes(b"nothing")
    for name, message in (("empty", "no clip"), ("bad", "none of its 1 clips can be used for training")):
        with pytest.raises(SystemExit) as ended:
            train_arguments = ["--init", checkpoint, "--data", tmp_path / name, "--output", tmp_path / "run"]
            cli.main(["train", "student", *map(str, train_arguments), *QUICK])
        assert ended.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_of_validation_clips_is_nothing_to_train_on(tmp_path, checkpoint, clips, capsys):
    with pytest.raises(SystemExit) as ended:
        arguments = ["--init", checkpoint, "--data", clips.rename(tmp_path / "val"), "--output", tmp_path / "run"]
        cli.main(["train", "student", *map(str, arguments), *QUICK])
    assert ended.value.code == 2 and "val: all of its clips are for validation" in capsys.readouterr().err.splitlines()[-1]


def test_the_example_file_holds_the_defaults_of_fine_tuning(checkpoint):
    assert yaml.safe_load(EXAMPLE.read_text()).items() >= FINE_TUNING.items()
    assert settings_for_clips("student", {"init": str(checkpoint), "batch_size": 2})["batch_size"] == 2
    assert "max_steps" not in settings_for_clips("student", {"init": str(checkpoint), "max_minutes": 2.0})


def test_stretches_with_a_face():
    landmarks = np.zeros((60, NUM_LANDMARKS, 2), np.float32)
    landmarks[[0, 20, 25]] = np.nan
    assert face_spans(landmarks) == [slice(1, 20), slice(26, 60)]
    assert face_spans(landmarks, longest=15) == [slice(1, 16), slice(26, 41), slice(41, 56)]
    assert face_spans(landmarks[:1]) == []


def test_a_missing_network_is_named_before_the_clips_are_prepared(tmp_path):
    config = student.Config(data=str(tmp_path), output=str(tmp_path / "run"), identity_encoder=str(tmp_path), vae=str(tmp_path),
                            teacher=str(tmp_path / "teacher"))
    with pytest.raises(InvalidInputError, match="needs it as its teacher"):
        train_on_clips("student", config, student.train)
    assert not (tmp_path / "run").exists()
