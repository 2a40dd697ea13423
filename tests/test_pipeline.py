import numpy as np
import pytest
import torch

from temposync_pipeline import FaceError, TempoSyncPipeline
from temposync_pipeline.media.video import read_video

from .tiny_components import picture, tiny_pipeline, tone


@pytest.fixture(scope="module")
def pipeline() -> TempoSyncPipeline:
    return tiny_pipeline()


def run(pipeline: TempoSyncPipeline, **changes):
    arguments = {"image": picture(200, 300), "audio": tone(), "num_inference_steps": 2, "output_type": "np",
                 "generator": torch.Generator().manual_seed(7)} | changes
    return pipeline(**arguments)


def test_one_frame_per_fortieth_of_a_second_in_the_photos_size(pipeline):
    output = run(pipeline)
    assert output.frames.shape == (15, 200, 300, 3) and output.visemes.shape == (15, 15) and output.fps == 25
    assert output.frames.min() >= 0 and output.frames.max() <= 1


def test_only_the_lower_face_changes(pipeline):
    frames, photo = run(pipeline).frames, picture(200, 300) / 255
    changed = np.abs(frames - photo.astype(np.float32)).max((0, 3)) > 1e-6
    rows, columns = np.nonzero(changed)
    # The template face fills the 200 px square at the picture's left; its mouth block spans rows 0.53 to 0.97 and columns 0.19 to 0.81.
    assert len(rows) and rows.min() > 0.5 * 200 and columns.min() > 0.15 * 200 and columns.max() < 0.85 * 200


def test_the_seed_decides_the_frames(pipeline):
    first, again = run(pipeline).frames, run(pipeline).frames
    other = run(pipeline, generator=torch.Generator().manual_seed(8)).frames
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_chunks_and_streaming_give_the_same_frames(pipeline):
    whole = run(pipeline, chunk_size=64).frames
    small = np.concatenate(list(pipeline.stream(picture(200, 300), tone(), 2, torch.Generator().manual_seed(7), chunk_size=4)))
    assert small.shape == whole.shape
    assert np.abs(small / 255 - whole).max() <= 1 / 255 + 1e-6


def test_mouth_amplitude_scales_the_motion_away_from_rest(pipeline):
    still, once, twice = (run(pipeline, output_type="latent", mouth_amplitude=value).frames for value in (0.0, 1.0, 2.0))
    assert torch.allclose(still[0], still[-1], atol=1e-5)
    assert not torch.allclose(once[0], once[-1], atol=1e-5)
    assert torch.allclose(twice - still, 2 * (once - still), atol=1e-4)


def test_output_types_agree(pipeline):
    array = run(pipeline).frames
    pictures, tensor, latents = (run(pipeline, output_type=kind).frames for kind in ("pil", "pt", "latent"))
    assert np.array_equal(np.stack([np.asarray(p) for p in pictures]), np.rint(255 * array).astype(np.uint8))
    assert torch.equal(tensor, torch.from_numpy(array).permute(0, 3, 1, 2))
    assert latents.shape == (15, 32, 16, 16)


def test_callback_sees_every_step_and_may_replace_the_latents(pipeline):
    seen = []

    def record(pipe, step, timestep, tensors):
        seen.append(step)
        return {"latents": torch.zeros_like(tensors["latents"])}

    run(pipeline, callback_on_step_end=record, chunk_size=8)
    assert seen == [0, 1, 0, 1]


def test_save_pretrained_round_trip_gives_identical_frames(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = TempoSyncPipeline.from_pretrained(tmp_path)
    loaded.register_modules(face_aligner=pipeline.face_aligner)  # random weights find no face
    loaded.set_progress_bar_config(disable=True)
    assert np.array_equal(run(pipeline).frames, run(loaded).frames)
    assert not list(tmp_path.rglob("*.bin"))


def test_generate_to_file_writes_the_whole_recording(pipeline, tmp_path):
    from scipy.io import wavfile

    samples, rate = tone(1.0)
    wavfile.write(tmp_path / "speech.wav", rate, samples)
    from PIL import Image

    Image.fromarray(picture()).save(tmp_path / "portrait.png")
    figures = pipeline.generate_to_file(tmp_path / "portrait.png", tmp_path / "speech.wav", tmp_path / "out.mp4", 1, progress=False)
    frames, fps = read_video(tmp_path / "out.mp4")
    assert figures["frames"] == len(frames) == 25 and fps == 25


@pytest.mark.parametrize(("changes", "message"), [
    ({"output_type": "gif"}, "output_type"), ({"num_inference_steps": 0}, "num_inference_steps"), ({"chunk_size": 0}, "chunk_size"),
    ({"mouth_amplitude": -1.0}, "mouth_amplitude")])
def test_bad_arguments_are_named(pipeline, changes, message):
    with pytest.raises(ValueError, match=message):
        run(pipeline, **changes)


def test_a_picture_without_a_face_says_so(pipeline):
    with pytest.raises(FaceError, match="No face"):
        run(pipeline, image=np.full((100, 100, 3), 128, np.uint8))
    with pytest.raises(FaceError, match="face_index 3"):
        run(pipeline, face_index=3)
