"""A pipeline saved where something is already, and videos whose frames somebody changed."""

import errno
import os
import signal

import numpy as np
import pytest
import torch

from temposync_pipeline import InvalidInputError, TempoSyncPipeline
from temposync_pipeline.files import sweep
from temposync_pipeline.media.video import stream_video
from temposync_pipeline.pipelines.lora import add_lora

from .tiny_components import picture, spoken, tiny_pipeline

pytestmark = pytest.mark.makes_videos


@pytest.mark.parametrize(("before", "after"), [("20KB", None), (None, "20KB"), ("20KB", "40KB")])
def test_a_checkpoint_saved_over_another_leaves_none_of_its_weights(tmp_path, before, after):
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path, variant="fp16")
    of_variant = {path for path in tmp_path.rglob("*fp16*")}
    pipeline.save_pretrained(tmp_path, max_shard_size=before)
    torch.nn.init.constant_(next(pipeline.viseme_classifier.parameters()), 0.25)
    pipeline.save_pretrained(tmp_path, max_shard_size=after)
    loaded = TempoSyncPipeline.from_pretrained(tmp_path)
    for part in ("vae", "denoiser", "face_aligner", "viseme_classifier"):
        weights = getattr(loaded, part).state_dict()
        assert all(torch.equal(weights[name], value) for name, value in getattr(pipeline, part).state_dict().items())
    assert all(path.exists() for path in of_variant)


def test_saving_leaves_what_else_is_in_the_folder(tmp_path):
    for name, text in (("mine", '{"dtype": "float16", "_name_or_path": "mine"}'), ("list", "[1]"), ("text", "no JSON")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    before = {path: path.read_text() for path in tmp_path.glob("*/config.json")}
    tiny_pipeline().save_pretrained(tmp_path)
    assert {path: path.read_text() for path in before} == before and not list(tmp_path.glob(".*"))


def test_a_save_that_was_killed_leaves_the_old_checkpoint_and_the_next_one_tidies(tmp_path):
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    if not (process := os.fork()):
        type(pipeline.viseme_classifier).save_pretrained = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        pipeline.save_pretrained(tmp_path)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL
    assert len(left := list(tmp_path.glob(".*"))) == 1 and left[0].is_dir()
    assert {path: path.read_bytes() for path in before} == before
    sweep(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_saving_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(type(pipeline.viseme_classifier), "save_pretrained", fail_for_space)
    torch.nn.init.constant_(next(pipeline.vae.parameters()), 0.25)
    with pytest.raises(OSError, match="No space left"):
        pipeline.save_pretrained(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def fail_for_space(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_pipeline_with_an_adapter_is_not_saved_as_what_cannot_be_loaded(tmp_path):
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    add_lora(pipeline.denoiser, rank=4)
    with pytest.raises(InvalidInputError, match="denoiser: has an adapter.*unload_lora_weights"):
        pipeline.save_pretrained(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    pipeline.save_pretrained(tmp_path)
    loaded = TempoSyncPipeline.from_pretrained(tmp_path)
    assert all(torch.equal(loaded.denoiser.state_dict()[name], value) for name, value in pipeline.denoiser.state_dict().items())


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_frames_that_are_no_video_are_told_and_nothing_is_written(tmp_path, suffix):
    output = tiny_pipeline()(picture(), spoken(0.2), 1)
    own, array = output.frames, np.stack(output.frames).astype(np.float32) / 255
    path, origin = tmp_path / f"a{suffix}", output.origin
    path.write_text("the old video")
    for frames, marked, said in (
            (array * [[[[np.nan]]]], True, f"a{suffix}: frame 0 is no RGB picture of finite numbers: float64 \\[256, 256, 3\\]"),
            ([own[0], own[1].resize((64, 48))], False, f"a{suffix}: frame 1 has 64x48 px, the first one 256x256"),
            ([one.resize((512, 512)) for one in own], True, "frames of 512x512 px, generated at 256x256"),
            (["one", "two"], True, "frame 0 is no")):
        output.frames, output.origin = frames, origin if marked else None
        with pytest.raises(InvalidInputError, match=said):
            output.save(path)
        assert [one.read_text() for one in tmp_path.iterdir()] == ["the old video"]


def test_frames_that_somebody_changed_are_saved_as_they_look(tmp_path):
    """In grey, as whole numbers, as a tensor with a gradient, too bright: none of it wraps round to another colour."""
    output = tiny_pipeline()(picture(), spoken(0.2), 1)
    own, written = output.frames, []
    array = np.stack(own).astype(np.float32) / 255
    tensor = torch.from_numpy(array).permute(0, 3, 1, 2).requires_grad_()
    for frames in (own, np.stack(own), tensor, array, [one.convert("RGBA") for one in own]):
        output.frames = frames
        output.save(tmp_path / "a.mp4", provenance=False)
        written.append(np.stack(list(stream_video(tmp_path / "a.mp4")[0])))
        assert np.array_equal(written[-1], written[0])
    output.frames = array + 1
    output.save(tmp_path / "a.mp4", provenance=False)
    assert np.stack(list(stream_video(tmp_path / "a.mp4")[0])).min() > 240
    output.frames = [one.convert("L") for one in own]
    output.save(tmp_path / "a.mp4", provenance=False)
