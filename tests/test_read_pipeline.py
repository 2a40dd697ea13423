"""READ's pipeline with tiny random networks: the contract of the other pipeline, and what is its own."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from temposync_pipeline import checkpoints
from temposync_pipeline.cli import main
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.face.crop import align_matrix, crop_face, mouth_mask
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.media.video import read_video
from temposync_pipeline.models.autoencoder_temporal import FRAMES
from temposync_pipeline.pipelines.auto import load_pipeline, pipeline_class
from temposync_pipeline.pipelines.latent_video import LatentVideo
from temposync_pipeline.pipelines.pipeline_read import ReadPipeline
from temposync_pipeline.pipelines.read_sampling import denoise_clips
from temposync_pipeline.pipelines.rendering import FaceRenderer

from .tiny_components import picture, spoken, template_face, tiny_read_pipeline

pytestmark = pytest.mark.makes_videos

PHOTO = picture(300, 260)
SPEECH = spoken(0.8)


@pytest.fixture(scope="module")
def pipeline() -> ReadPipeline:
    return tiny_read_pipeline()


def run(pipeline: ReadPipeline, **changes):
    arguments = {"image": PHOTO, "audio": SPEECH, "num_inference_steps": 2, "output_type": "np",
                 "generator": torch.Generator().manual_seed(7)} | changes
    return pipeline(**arguments)


@pytest.fixture(scope="module")
def frames(pipeline) -> np.ndarray:
    return run(pipeline).frames


def as_bytes(frames: np.ndarray) -> np.ndarray:
    return np.rint(255 * frames).astype(np.uint8)


def test_the_face_moves_and_what_lies_outside_its_crop_does_not(pipeline, frames):
    assert frames.shape == (20, *PHOTO.shape)
    assert isinstance(pipeline.prepare_portrait(PHOTO).renderer, FaceRenderer)
    changed = (as_bytes(frames) != PHOTO).any((0, 3))
    assert changed[:100].any() and not changed[-30:].any()


@pytest.mark.parametrize("chunk_size", [1, 5, 64])
def test_streams_chunks_latents_and_frames_agree_to_the_bit(pipeline, frames, chunk_size):
    generator = torch.Generator().manual_seed(7)
    pieces = list(pipeline.stream(PHOTO, SPEECH, 2, generator, chunk_size=chunk_size))
    assert {len(piece) for piece in pieces[:-1]} <= {8, chunk_size}
    if chunk_size == 5:  # the decoder rounds differently in chunks of other sizes
        assert np.array_equal(np.concatenate(pieces), as_bytes(run(pipeline, chunk_size=5).frames))
    assert np.abs(np.concatenate(pieces).astype(int) - as_bytes(frames)).max() <= 2


@pytest.mark.parametrize("still", [False, True])
def test_latents_are_decoded_later_from_a_file(pipeline, tmp_path, still):
    wanted = as_bytes(run(pipeline, still=still).frames)
    output = run(pipeline, still=still, output_type="latent")
    assert output.frames.shape == (20, 32, 16, 16)
    output.save_latents(tmp_path / "video.safetensors")
    video = LatentVideo.load(tmp_path / "video.safetensors")
    assert video.composition == ("still" if still else "face")
    assert np.array_equal(np.concatenate(list(pipeline.decode_latents(video))), wanted)


def test_joints_are_where_clips_begin(pipeline):
    assert pipeline.joints(30).tolist() == [9, 17, 25] and not len(pipeline.joints(9))


def test_a_still_head_changes_at_the_mouth_alone(pipeline):
    still = as_bytes(run(pipeline, still=True).frames)
    matrix = align_matrix(template_face(PHOTO)[0].landmarks)
    changed = crop_face((still != PHOTO).any((0, 3))[..., None].repeat(3, -1).astype(np.uint8) * 255, matrix)[..., 0]
    assert changed.any() and not changed[mouth_mask() == 0][:100 * 256].any()


def test_amplitude_zero_is_the_photo(pipeline):
    assert np.array_equal(as_bytes(run(pipeline, mouth_amplitude=0.0).frames), np.broadcast_to(PHOTO, (20, *PHOTO.shape)))


def test_noise_comes_from_the_generator_or_is_given(pipeline, frames):
    assert np.array_equal(run(pipeline).frames, frames)
    assert not np.array_equal(run(pipeline, generator=torch.Generator().manual_seed(8)).frames, frames)
    noise = torch.randn(1, 8, 2, 8, 8, generator=torch.Generator().manual_seed(7))
    kept = noise.clone()
    given = run(pipeline, latents=noise).frames
    assert torch.equal(noise, kept) and np.array_equal(given, run(pipeline, latents=noise, generator=None).frames)
    with pytest.raises(InvalidInputError, match=r"latents: \[1, 2\], expected \[1, 8, 2, 8, 8\]"):
        run(pipeline, latents=torch.zeros(1, 2))


def test_guidance_changes_the_face_and_ones_do_not(pipeline, frames):
    assert np.array_equal(run(pipeline, portrait_guidance=1.0, speech_guidance=1.0).frames, frames)
    assert not np.array_equal(run(pipeline, portrait_guidance=2.0, speech_guidance=6.0).frames, frames)
    with pytest.raises(ValueError, match="speech_guidance must lie in"):
        run(pipeline, speech_guidance=-1.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_decoding_clip_by_clip_is_decoding_all_at_once(smoothing):
    """In single precision: sums over other numbers of frames round differently."""
    exact = tiny_read_pipeline()
    exact.temporal_vae.register_to_config(joint_smoothing=smoothing)
    exact.use_bfloat16 = False
    video = run(exact, output_type="latent", audio=spoken(1.28))
    reference = video.latent_video.portrait_latents
    with torch.inference_mode():
        speech = exact._hear(load_audio(spoken(1.28)))
        noise = exact.prepare_latents(2, torch.Generator().manual_seed(7))
        clips = denoise_clips(exact.transformer, exact.scheduler, reference, exact._codes(speech), noise, 2, 2)
        frames = exact.temporal_vae.decode(torch.cat(list(clips), 2), reference).sample[0].transpose(0, 1)
    assert torch.allclose(frames[:32], video.frames, atol=1e-4) and (frames - reference).abs().mean() > 0.02


def test_long_recordings_are_joined_without_a_gap(pipeline):
    """What a later clip shows does not depend on how much is still to come."""
    long, short = (run(pipeline, audio=(np.tile(SPEECH[0], 3)[:int(seconds * 16_000)], 16_000), output_type="latent").frames
                   for seconds in (2.4, 1.28))
    assert len(long) == 60 and len(short) == 32
    clip = FRAMES + 1
    assert torch.allclose(long[:clip], short[:clip], atol=0.1)


def test_callbacks_see_all_clips_at_work_and_can_stop(pipeline, frames):
    seen = []

    def watch(pipe, step, timestep, tensors):
        seen.append((step, tuple(timestep.shape), tuple(tensors["latents"].shape)))

    assert np.array_equal(run(pipeline, callback_on_step_end=watch).frames, frames)
    # Three clips of two latent frames in two steps: one begins a step after the other.
    assert seen == [(step, (clips, 2), (clips, 8, 2, 8, 8)) for step, clips in enumerate((1, 2, 2, 1))]

    def stop(pipe, step, timestep, tensors):
        pipe._interrupt = step == 2

    output = run(pipeline, callback_on_step_end=stop)
    assert 0 < len(output.frames) < 20 and len(output.visemes) == len(output.frames) and not pipeline.interrupt


def test_a_transformer_that_is_told_the_lips_follows_them(pipeline):
    told = tiny_read_pipeline(lips=True)
    frames = run(told, output_type="latent").frames
    assert np.array_equal(run(told, output_type="latent").frames, frames)
    with torch.inference_mode():
        speech = told._hear(load_audio(SPEECH))
        codes = told._codes(speech)
    assert codes.shape == (1, 4, 8, 4 + 6)  # 20 frames of speech, three clips of one new latent frame each
    assert np.allclose(codes[0, 1:, :, 4:].flatten(0, 1)[:19], speech.lips[1:], atol=1e-6)
    assert np.allclose(codes[0, 3, 3:, 4:], speech.lips[-1], atol=1e-6)
    told.lip_motion.predict = lambda hearing: np.full((len(hearing.visemes), 6), 3, np.float32)
    assert not torch.allclose(run(told, output_type="latent").frames, frames, atol=1e-2)


def test_clips_may_be_made_one_after_the_other(pipeline, frames):
    alone = run(pipeline, asynchronous=False).frames
    assert alone.shape == frames.shape and not np.array_equal(alone, frames)


def test_other_number_formats_give_nearly_the_same(pipeline):
    exact, rounded, half = tiny_read_pipeline(), tiny_read_pipeline(), tiny_read_pipeline().to(torch.float16)
    exact.use_bfloat16, rounded.use_bfloat16, half.face_aligner.detect = False, True, template_face
    wanted = run(exact, output_type="latent").frames
    for other in (rounded, half):
        assert (run(other, output_type="latent").frames.float() - wanted).abs().mean() < 0.05 * wanted.abs().mean()
    assert np.isfinite(run(half).frames).all()


def test_lists_make_several_videos(pipeline, frames):
    output = run(pipeline, image=[PHOTO, PHOTO[:, ::-1].copy()], generator=[torch.Generator().manual_seed(7) for _ in range(2)])
    assert np.array_equal(output.frames[0], frames) and len(output.videos) == 2


def test_saved_folders_say_which_pipeline_they_are_for(pipeline, frames, tmp_path):
    quieter = ReadPipeline(**pipeline.components, mouth_amplitude=0.5)
    quieter.save_pretrained(tmp_path / "model")
    assert pipeline_class(tmp_path / "model") is ReadPipeline
    loaded = load_pipeline(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    loaded.face_aligner.detect = template_face
    assert isinstance(loaded, ReadPipeline) and loaded.config.mouth_amplitude == 0.5 and loaded.config.clip_frames == 2
    assert np.array_equal(run(loaded, mouth_amplitude=1.0).frames, frames)
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps({"_class_name": "OtherPipeline"}))
    with pytest.raises(InvalidInputError, match="names none of TempoSyncPipeline, ReadPipeline"):
        load_pipeline(tmp_path / "model")


def test_a_bundled_checkpoint_takes_what_it_lacks_from_the_first_one(pipeline, tmp_path, monkeypatch):
    pipeline.save_pretrained(tmp_path / "read-tiny")
    (tmp_path / "temposync-tiny").symlink_to(checkpoints.bundled_path("temposync-tiny"))
    for part in ("vae", "face_aligner", "viseme_classifier", "lip_motion"):
        shutil.rmtree(tmp_path / "read-tiny" / part)
    with pytest.raises(InvalidInputError, match="no component 'face_aligner'"):  # it is no bundled one there
        load_pipeline(tmp_path / "read-tiny")
    monkeypatch.setattr(checkpoints, "FOLDER", tmp_path)
    monkeypatch.setattr(checkpoints, "BUNDLED", ("temposync-tiny", "read-tiny"))
    loaded, first = load_pipeline("read-tiny"), load_pipeline("temposync-tiny")
    assert isinstance(loaded, ReadPipeline) and loaded.model_name == "read-tiny"
    for part, other in (("vae", first), ("viseme_classifier", first), ("transformer", pipeline), ("temporal_vae", pipeline)):
        ours, theirs = (getattr(pipe, part).state_dict() for pipe in (loaded, other))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    loaded.save_pretrained(tmp_path / "copy")  # what is saved is whole
    assert {path.name for path in (tmp_path / "copy").iterdir() if path.is_dir()} >= {"vae", "face_aligner", "transformer"}


def test_the_command_makes_the_pipeline_that_the_model_is_for(pipeline, tmp_path, monkeypatch, make_speech, capsys):
    Image.fromarray(PHOTO).save(tmp_path / "face.png")
    pipeline.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(ReadPipeline, "from_pretrained", lambda name, **_: pipeline)
    for option in ((), ("--still",)):
        with pytest.raises(SystemExit) as end:
            main(["generate", "--image", str(tmp_path / "face.png"), "--audio", str(make_speech("a.wav", seconds=0.4)), "--output",
                  str(tmp_path / "a.mp4"), "--steps", "1", "--model", str(tmp_path / "model"), "--device", "cpu", *option])
        assert not end.value.code and len(read_video(tmp_path / "a.mp4")[0]) == 10


def test_files_are_written_whole(pipeline, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    figures = pipeline.generate_to_file(tmp_path / "photo.png", SPEECH, tmp_path / "a.mp4", 1, progress=False, still=True)
    assert figures["frames"] == len(read_video(tmp_path / "a.mp4")[0]) == 20
    figures = pipeline.latents_to_file(tmp_path / "photo.png", SPEECH, tmp_path / "a.safetensors", 1, progress=False)
    assert pipeline.decode_to_file(tmp_path / "a.safetensors", tmp_path / "b.mp4")["frames"] == figures["frames"] == 20
