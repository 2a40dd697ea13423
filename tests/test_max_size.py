"""`max_size`: how large the video of a large photo is."""

import logging

import av
import numpy as np
import pytest
from PIL import Image

from temposync_pipeline import InvalidInputError, cli
from temposync_pipeline.commands import options
from temposync_pipeline.pipelines import portrait as portrait_module
from temposync_pipeline.pipelines.latent_video import LatentVideo
from temposync_pipeline.pipelines.pipeline_temposync import TempoSyncPipeline
from temposync_pipeline.pipelines.portrait import fit_photo

from .tiny_components import picture, spoken, tiny_pipeline

pytestmark = pytest.mark.makes_videos


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.mark.parametrize(("settings", "size"), [
    ({}, (1920, 960)), ({"max_size": 300}, (300, 150)), ({"max_size": 0}, (2400, 1200)), ({"max_size": 4000}, (2400, 1200))])
def test_frames_are_no_larger(pipeline, caplog, settings, size):
    with caplog.at_level(logging.WARNING):
        output = pipeline(picture(1200, 2400), spoken(0.12), num_inference_steps=1, **settings)
    assert output.frames[0].size == size
    told = [record.getMessage() for record in caplog.records if "max_size" in record.getMessage()]
    assert len(told) == (size != (2400, 1200))
    if told:
        assert told[0].startswith(f"the picture: 2400×1200 px; the video has {size[0]}×{size[1]} px")


def test_streams_and_latents_are_as_large(pipeline, tmp_path):
    photo, sound = picture(600, 400), spoken(0.12)
    frames = np.concatenate(list(pipeline.stream(photo, sound, num_inference_steps=1, max_size=300)))
    assert frames.shape[1:] == (300, 200, 3)
    pipeline.latents_to_file(photo, sound, tmp_path / "a.safetensors", num_inference_steps=1, max_size=300, progress=False)
    video = LatentVideo.load(tmp_path / "a.safetensors")
    assert video.photo.shape == (300, 200, 3) and len(list(pipeline.decode_latents(video))[0]) == len(frames)


@pytest.mark.parametrize("max_size", [-1, 63, 640.0, True, "640"])
def test_other_values_are_refused(pipeline, max_size):
    with pytest.raises(InvalidInputError, match="max_size must be 0 .* or at least 64 pixels"):
        pipeline.prepare_portrait(picture(96, 96), max_size=max_size)


def test_landmarks_stay_where_they_are_in_the_picture():
    """A bright dot lies under its landmark before and after, to a tenth of a pixel."""
    photo = np.zeros((800, 1200, 3), np.uint8)
    photo[392:408, 592:608] = 255
    small, (point,) = fit_photo(photo, np.float32([[599.5, 399.5]]), 300, "dot")
    assert small.shape == (200, 300, 3)
    rows, columns = np.mgrid[:200, :300]
    weight = small[..., 0] / small[..., 0].sum()
    np.testing.assert_allclose(point, [(columns * weight).sum(), (rows * weight).sum()], atol=0.1)


def test_the_command(tmp_path, monkeypatch, make_audio, capsys):
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda name, **_: tiny_pipeline())
    Image.fromarray(picture(600, 400)).save(tmp_path / "photo.png")
    arguments = ["--image", tmp_path / "photo.png", "--audio", make_audio("a.wav", seconds=0.2), "--output", tmp_path / "out.mp4"]
    for max_size, code, height in ((300, 0, 300), (0, 0, 600), (20, 2, 600)):
        with pytest.raises(SystemExit) as end:
            cli.main(["generate", *map(str, arguments), "--steps", "1", "--max_size", str(max_size)])
        assert (end.value.code or 0) == code
        with av.open(str(tmp_path / "out.mp4")) as container:
            assert container.streams.video[0].height == height
    assert options.MAX_SIZE == portrait_module.MAX_SIZE
