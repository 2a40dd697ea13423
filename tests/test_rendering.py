"""The pipeline with an autoencoder that knows where pixels come from."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from temposync_pipeline.export.runtimes import CompiledForward
from temposync_pipeline.face.crop import LATENT_STRIDE, LATENT_WINDOW
from temposync_pipeline.face.inner_mouth import BLOCK
from temposync_pipeline.face.landmarks import NUM_LANDMARKS
from temposync_pipeline.face.own_teeth import UpperTeeth
from temposync_pipeline.face.warp import inner_cells, inner_pixels
from temposync_pipeline.media.planes import to_planes
from temposync_pipeline.media.video import VideoWriter, read_video
from temposync_pipeline.models.face_aligner import Face
from temposync_pipeline.pipelines import rendering
from temposync_pipeline.pipelines.rendering import ColourRenderer, MotionRenderer, closing_share, decode_block

from .tiny_components import picture, ready, spoken, tiny_inner_vae, tiny_motion_vae, tiny_pipeline

pytestmark = pytest.mark.makes_videos

ARGUMENTS = {"audio": spoken(), "num_inference_steps": 2, "chunk_size": 4}
PHOTO = np.clip(picture(720, 624) + np.random.default_rng(0).normal(0, 12, (720, 624, 1)), 0, 255).astype(np.uint8)
SOFT = cv2.GaussianBlur(PHOTO, (0, 0), 2)


@pytest.fixture(scope="module", params=[tiny_motion_vae, tiny_inner_vae])
def pipeline(request):
    pipeline = tiny_pipeline()
    pipeline.register_modules(vae=request.param())
    return ready(pipeline)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_the_checkpoint_says_which_way_frames_are_made(pipeline):
    assert isinstance(pipeline.prepare_portrait(PHOTO).renderer, MotionRenderer)
    assert isinstance(tiny_pipeline().prepare_portrait(PHOTO).renderer, ColourRenderer)


@pytest.mark.parametrize("knows_motion", [True, False])
def test_networks_are_computed_by_the_runtime_that_is_asked_for(pipeline, monkeypatch, knows_motion):
    asked, session = set(), CompiledForward._session
    monkeypatch.setattr(CompiledForward, "_session", lambda self, inputs: (asked.add(self.network.name), session(self, inputs))[1])
    used = pipeline if knows_motion else tiny_pipeline()
    list(used.stream(PHOTO, generator=generator(), **ARGUMENTS))
    expected = {"viseme_classifier", "denoiser", "motion_decoder" if knows_motion else "decoder"}
    assert asked == set() if used.runtime == "torch" else expected <= asked


def test_mouths_are_painted_in_every_photo(pipeline, monkeypatch):
    monkeypatch.setattr(rendering, "HIDDEN_FROM", -1.0)  # random weights open no mouth
    for photo in (PHOTO, SOFT, cv2.resize(PHOTO, None, fx=0.5, fy=0.5)):
        renderer = pipeline.prepare_portrait(photo).renderer
        with torch.inference_mode():
            (*_, colours), = renderer.decode(renderer._reference, use_bfloat16=False)
        assert colours.shape == ((128, 192, 3) if pipeline.vae.knows_inner_mouth else (112, 128, 3))


def test_streams_latents_and_frames_agree_to_the_bit(pipeline, tmp_path):
    streamed = np.concatenate(list(pipeline.stream(PHOTO, generator=generator(), **ARGUMENTS)))
    at_once = pipeline(PHOTO, generator=generator(), output_type="np", **ARGUMENTS).frames
    assert np.array_equal(np.rint(255 * at_once).astype(np.uint8), streamed)
    latents = pipeline(PHOTO, generator=generator(), output_type="latent", **ARGUMENTS).latent_video
    assert np.array_equal(np.concatenate(list(pipeline.decode_latents(latents))), streamed)
    assert (streamed != PHOTO).any()
    upper = streamed[:, :240]
    assert (upper == PHOTO[:240]).all()


@pytest.mark.parametrize("kind, picture", [("own_teeth", None), ("drawn_teeth", np.full((128, 192, 3), 200, np.float32))])
def test_latents_are_decoded_with_the_same_teeth(pipeline, monkeypatch, kind, picture):
    """Though who decodes them knows nothing of the portrait's landmarks."""
    asked, teeth = [], UpperTeeth(*np.ones((2, 128, 192), np.float32), picture)
    landmarks = np.zeros((NUM_LANDMARKS, 2), np.float32)
    monkeypatch.setattr(  # which never saw a face
        pipeline.face_aligner, "read_again", lambda crop, pose: Face(landmarks + crop.std(), landmarks[:, 0], 0.9))
    monkeypatch.setattr(rendering, kind, lambda *arguments: (asked.append(arguments), teeth)[1])
    streamed = np.concatenate(list(pipeline.stream(PHOTO, generator=generator(), **ARGUMENTS)))
    latents = pipeline(PHOTO, generator=generator(), output_type="latent", **ARGUMENTS).latent_video
    assert np.array_equal(np.concatenate(list(pipeline.decode_latents(latents))), streamed)
    assert len(asked) == (3 if pipeline.vae.knows_inner_mouth else 0)  # for frames, for latents, and to decode those
    for one, other in zip(asked, asked[1:]):
        assert all(map(np.array_equal, one, other))


def test_with_teeth_no_network_paints(monkeypatch):
    vae, matrix = tiny_inner_vae(), 0.4 * np.eye(3)[:2]
    monkeypatch.setattr(rendering, "own_teeth", lambda *_: UpperTeeth(*np.ones((2, 128, 192), np.float32)))
    monkeypatch.setattr(rendering, "HIDDEN_FROM", -1.0)  # random weights open no mouth
    for network in ("seen_mouth", "inner_mouth", "decode"):
        monkeypatch.setattr(vae, network, None)
    latents = torch.randn(1, vae.config.latent_channels, 16, 16, generator=generator())
    renderer = MotionRenderer(vae, PHOTO, matrix, latents, False, np.zeros((NUM_LANDMARKS, 2), np.float32))
    with torch.inference_mode():
        assert [mouth.colours for mouth in renderer.decode(rendering.latent_window(latents), False)] == [None]


def test_files_hold_what_whole_frames_would(pipeline, tmp_path):
    """Only what changes is converted again, and nobody can tell."""
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    frames = np.concatenate(list(pipeline.stream(PHOTO, generator=generator(), **ARGUMENTS)))
    *_, last = pipeline.stream_to_file(tmp_path / "photo.png", spoken(), tmp_path / "a.mp4", 2, generator(), chunk_size=4)
    assert last == ("video", len(frames), len(frames))
    portrait = pipeline.prepare_portrait(PHOTO)
    mark = pipeline._origin(portrait.photo, portrait.matrix).watermark()
    with VideoWriter(tmp_path / "b.mp4", audio_path=spoken()) as writer:
        for frame in frames:
            writer.write_planes(to_planes(frame, mark))
    assert np.array_equal(read_video(tmp_path / "a.mp4")[0], read_video(tmp_path / "b.mp4")[0])


def test_a_mouth_that_does_not_move_is_the_photo(pipeline):
    renderer = pipeline.prepare_portrait(PHOTO).renderer
    with torch.inference_mode():
        still = renderer.decode(renderer._reference.repeat(2, 1, 1, 1), use_bfloat16=False)
    assert all(np.array_equal(renderer.patch(frame).onto(PHOTO), PHOTO) for frame in still)


def test_closed_mouths_are_given_no_colours_and_need_none(monkeypatch):
    """Neither where nothing is hidden nor where the rim of what is hidden nearby ends before colours count."""
    pipeline = tiny_pipeline()
    pipeline.register_modules(vae=tiny_motion_vae())
    ready(pipeline)
    renderer, vae = pipeline.prepare_portrait(PHOTO).renderer, pipeline.vae
    latents = renderer._reference.repeat(3, 1, 1, 1)
    visibility = torch.ones(3, 1, *(LATENT_STRIDE * cells for cells in LATENT_WINDOW[2:]))
    block = inner_pixels(visibility)
    visibility[1] = 0
    inner_pixels(visibility)[1] = 1  # all around the block is hidden
    block[2, :, 50:60, 50:60] = 0
    flow = torch.full((3, 2, visibility.shape[2] // 2, visibility.shape[3] // 2), 0.5)
    monkeypatch.setattr(vae, "motion", lambda *_: (flow, visibility))
    with torch.inference_mode():
        decoded, every = renderer.decode(latents, use_bfloat16=False), decode_block(vae, inner_cells(latents), False)
    assert [mouth.colours is None for mouth in decoded] == [True, True, False]
    assert np.allclose(decoded[2].colours, every[2], atol=1e-2)
    for mouth, whole in zip(decoded, every):
        some, same = renderer.patch(mouth), renderer.patch(mouth._replace(colours=whole))
        assert (some.top, some.left) == (same.top, same.left) and np.array_equal(some.pixels, same.pixels)


def gap_and_flow(height: int, higher: float, visibility: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Of one frame, lips with so many rows between them, and so many more in the photo: `closing_share`'s arguments."""
    seen, down = np.ones((1, 160, 192), np.float32), np.zeros((1, 80, 96), np.float32)
    seen[0, 60:60 + height, 40:120] = visibility
    down[0, :30], down[0, 30 + height // 2:] = -higher / 2, higher / 2
    return down, seen


@pytest.mark.parametrize("height, higher, share", [
    (0, 10, 0),  # nothing is hidden
    (6, 10, 1), (7, 10, 1), (9, 10, 1 / 3), (10, 10, 0), (30, 30, 0),  # the lower, the nearer to shut
    (6, 0, 0), (6, 1, 0), (6, -8, 0), (6, 2.75, 0.5), (6, 4, 1),  # the photo's lips are further apart
])
def test_lips_close_where_the_photos_are_further_apart(height, higher, share):
    assert closing_share(*gap_and_flow(height, higher)) == pytest.approx([share], abs=1e-5)


def test_lips_that_are_nearly_shut_are_no_less_closing():
    """The fainter what is hidden, the lower the gap."""
    shares = [float(closing_share(*gap_and_flow(9, 10, visibility))[0]) for visibility in np.arange(17) / 20]
    assert shares == sorted(shares) and shares[0] < 0.5 and shares[-2:] == [1, 1]


def test_between_closing_lips_no_teeth_are_painted(monkeypatch):
    """There the decoder's colours are taken, enlarged, of the same place."""
    pipeline = tiny_pipeline()
    pipeline.register_modules(vae=tiny_inner_vae())
    ready(pipeline)
    renderer = pipeline.prepare_portrait(PHOTO).renderer
    latents = torch.randn(3, *renderer._reference.shape[1:], generator=generator())
    monkeypatch.setattr(rendering, "HIDDEN_FROM", -1.0)  # random weights open no mouth

    def colours(*shares: float) -> np.ndarray:
        monkeypatch.setattr(rendering, "closing_share", lambda *_: np.float32(shares))
        return np.stack([colours for *_, colours in renderer.decode(latents, use_bfloat16=False)])

    with torch.inference_mode():
        painted, mixed, shut = colours(0, 0, 0), colours(0, 1, 0.5), colours(1, 1, 1)
        whole = decode_block(pipeline.vae, latents, use_bfloat16=False)
    assert np.allclose(mixed[0], painted[0], atol=0.05) and np.allclose(mixed[1], shut[1], atol=0.05)
    assert np.allclose(mixed[2], (painted[2] + shut[2]) / 2, atol=0.05)
    y0, x0 = BLOCK.y0 - LATENT_STRIDE * LATENT_WINDOW[0], BLOCK.x0 - LATENT_STRIDE * LATENT_WINDOW[1]
    decoded = np.stack([cv2.resize(block[y0:y0 + 64, x0:x0 + 96], (192, 128), interpolation=cv2.INTER_CUBIC) for block in whole])
    near = (slice(None), slice(40, 80), slice(60, 130))  # where what lies beyond the decoded cells counts little
    assert abs(shut - decoded)[near].mean() < 0.2 * abs(painted - decoded)[near].mean()
    monkeypatch.setattr(pipeline.vae, "inner_mouth", None)
    with torch.inference_mode():
        assert np.array_equal(colours(1, 1, 1), shut)  # nothing is painted in vain
