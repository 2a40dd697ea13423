"""The inside of the mouth: its data, its stage, its painter, and how what is painted comes into the photo; on drawn faces."""

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from temposync_pipeline.data.denoised_latents import ENCODED, LATENT_LEVELS, VOICE_ALONE
from temposync_pipeline.data.fine_faces import Driver, Face, block_of, closed
from temposync_pipeline.data.inner_mouths import InnerMouths, softened
from temposync_pipeline.data.mouth_interiors import Teeth, speaking_with_own_teeth
from temposync_pipeline.face.crop import LATENT_STRIDE, LATENT_WINDOW, crop_face
from temposync_pipeline.face.inner_mouth import BLOCK, SCALE, block_of_window, cells_around
from temposync_pipeline.face.warp import PhotoWarp, fine_block
from temposync_pipeline.models.autoencoder_temposync import AutoencoderTempoSync
from temposync_pipeline.training import inner_mouth
from temposync_pipeline.training.checkpointing import load_checkpoint
from temposync_pipeline.training.perceptual import PerceptualDistance, Trunk

from .test_blend import portrait
from .test_retarget import TEETH, draw, face
from .test_warp import region_in_photo, still
from .tiny_components import picture, tiny_inner_vae, tiny_motion_vae


def drawn(gap: float, width: float = 60, inside=TEETH) -> Face:
    shape = face(gap, width)
    return Face("drawn", cv2.resize(draw(shape, inside), (512, 512), interpolation=cv2.INTER_LINEAR), shape)


def tiny_takes(kinds: tuple[int, ...] = (0, 4, 1, 3), frames: int = 3) -> InnerMouths:
    rng = np.random.default_rng(0)
    jpeg = [cv2.imencode(".jpg", picture(128, 192)[..., ::-1].copy())[1].ravel() for _ in range(len(kinds) * (1 + frames))]
    return InnerMouths(
        np.concatenate(jpeg), np.cumsum([0, *map(len, jpeg)]), rng.integers(-40, 40, (len(kinds), 32, 10, 12), np.int8),
        rng.integers(-40, 40, (len(kinds), frames, 4, 32, 10, 12), np.int8), np.array(kinds, np.uint8),
        np.arange(len(kinds), dtype=np.int32))


def test_the_block_is_the_same_in_cells_and_pixels():
    latents = torch.arange(120.0).reshape(1, 1, *LATENT_WINDOW[2:])
    pixels = latents.repeat_interleave(LATENT_STRIDE, -1).repeat_interleave(LATENT_STRIDE, -2)
    block = block_of_window(pixels)
    assert block.shape[-2:] == (BLOCK.y1 - BLOCK.y0, BLOCK.x1 - BLOCK.x0)
    assert torch.equal(block[..., ::LATENT_STRIDE, ::LATENT_STRIDE], cells_around(latents)[..., 1:-1, 1:-1])


def test_a_smiles_teeth_stay_where_they_are_while_the_jaw_opens():
    smiling = drawn(9)
    smiling.fine[333:336, 255:258] = 60  # a gap
    teeth = Teeth.of(smiling)
    assert teeth is not None and Teeth.of(drawn(0)) is None
    driver = Driver(None, [drawn(gap) for gap in (0, 14, 18, 22)], face(0), 200.0)
    rng = np.random.default_rng(1)
    _, _, crops, blocks = speaking_with_own_teeth(smiling, teeth, driver, 1, rng)
    assert crops.shape == (3, 256, 256, 3) and blocks.shape == (3, 128, 192, 3)
    near = slice(2 * (167 - BLOCK.y0) - 6, 2 * (167 - BLOCK.y0) + 6), slice(84, 110)
    spots = [np.unravel_index(block[near].sum(-1, dtype=int).argmin(), (12, 26)) for block in blocks]
    assert np.ptp(spots, axis=0).max() <= 1
    dark = [(block[:, 88:104].max(-1) < 110).sum() for block in blocks]
    assert dark[2] > dark[0]


def test_a_closed_mouth_shows_no_teeth():
    crop, block = closed(drawn(9))
    assert block[..., 2].max() < 190 < block_of(drawn(9).fine)[..., 2].max()


def test_a_softened_take_is_blurred_alike_in_its_crops_and_twice_as_many_pixels_of_its_blocks():
    take = [np.zeros(shape, np.uint8) for shape in ((256, 256, 3), (128, 192, 3), (3, 256, 256, 3), (3, 128, 192, 3))]
    for pictures in take:
        pictures[..., 64:, :] = 200
    for scale, pictures, before in zip((0.5, 1, 0.5, 1), softened(tuple(take), 3.0), take, strict=True):
        assert pictures.shape == before.shape and pictures.dtype == np.uint8
        step = np.diff(pictures.reshape(-1, *before.shape[-3:])[0, 60, 40:88, 1].astype(float))
        spread = np.sqrt((step * (np.arange(len(step)) - 23) ** 2).sum() / step.sum())
        assert abs(spread / (3 * scale) - 1) < 0.1


def test_takes_survive_the_disk(tmp_path):
    tiny_takes().save(tmp_path / "train.npz")
    references, frames = InnerMouths.load(tmp_path / "train.npz").pictures()
    assert references.shape == (4, 128, 192, 3) and frames.shape == (4, 3, 128, 192, 3)
    assert np.abs(frames[1, 2].astype(int) - picture(128, 192)).mean() < 4


@pytest.fixture(scope="module")
def perceptual(tmp_path_factory):
    """Weights of the right names and shapes."""
    path = tmp_path_factory.mktemp("trunk") / "trunk.safetensors"
    torch.manual_seed(5)
    save_file(Trunk().state_dict(), path)
    return path


def test_the_perceptual_distance_grows_and_only_looks_at_its_mask(perceptual):
    distance = PerceptualDistance(perceptual)
    truth = torch.rand(2, 3, 64, 96) * 2 - 1
    other = truth.clone()
    other[..., :48] = 0
    left, right = torch.zeros(2, 1, 64, 96), torch.zeros(2, 1, 64, 96)
    left[..., 8:24], right[..., -4:] = 1, 1
    assert distance(truth, truth, left) == 0 < distance(other, truth, left)
    assert distance(other, truth, right) < 0.3 * distance(other, truth, left)


def test_of_photographs_as_they_are_the_encoders_latents_are_drawn():
    takes = tiny_takes((4, 4, 1))
    takes.latents[:] = np.arange(4, dtype=np.int8)[:, None, None, None]  # which way
    config = inner_mouth.Config(batch_size=64, kinds={1: 0.5, 4: 0.5}, ways=(0, 0, 0, 1))
    batch = inner_mouth.TakeSampler(takes, config, torch.device("cpu")).draw()
    ways = (batch.latents[:, 0, 0, 0] * LATENT_LEVELS).round()
    assert batch.real.flatten().bool().any() and not batch.real.flatten().bool().all()
    assert torch.equal(ways == VOICE_ALONE, ~batch.real.flatten().bool()) and ((ways == ENCODED) | (ways == VOICE_ALONE)).all()


def test_contrast_counts_wherever_it_is_but_for_what_is_masked():
    truth = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 0.5
    blurred = torch.nn.functional.avg_pool2d(truth, 3, 1, 1)
    everywhere, left = torch.ones(1, 1, 64, 96), torch.zeros(1, 1, 64, 96)
    left[..., :24] = 1
    half = torch.cat([truth[..., :48], blurred[..., 48:]], -1)
    difference = inner_mouth.contrast_difference
    assert difference(truth, truth, everywhere) == 0 == difference(half, truth, left)
    assert difference(truth.roll(1, -1), truth, everywhere) < 0.1 * difference(blurred, truth, everywhere)
    weak = difference(0.5 * truth, truth, everywhere)
    assert torch.isclose(difference(2 * truth, truth, everywhere), 2 * weak, rtol=0.05)


def test_the_stage_trains_the_painter_alone_and_resumes(tmp_path, perceptual):
    for split in ("train", "val"):
        tiny_takes((0, 3)).save(tmp_path / f"{split}.npz")
    tiny_motion_vae().save_pretrained(tmp_path / "init")
    settings = {"data": str(tmp_path), "output": str(tmp_path / "run"), "init": str(tmp_path / "init"), "batch_size": 1, "max_minutes": 5.0,
                "inner_channels": (8, 8, 8, 8), "inner_blocks": (0, 0, 0, 0), "mixed_precision": "no", "warmup_steps": 1,
                "learning_rate": 1e-2, "ema_decay": 0.5, "tensorboard": False, "perceptual": str(perceptual), "adversary_from": 0.0}
    first = inner_mouth.train(inner_mouth.Config(max_steps=1, **settings))
    later = inner_mouth.train(inner_mouth.Config(max_steps=12, resume=True, **settings))
    assert load_checkpoint(tmp_path / "run" / "checkpoint")["step"] == 12
    assert later["levels_encoded"] < first["levels_encoded"] and (tmp_path / "run" / "mouths.png").is_file()
    trained, before = AutoencoderTempoSync.from_pretrained(tmp_path / "run" / "vae"), tiny_motion_vae()
    assert trained.knows_inner_mouth and not before.knows_inner_mouth
    assert all(torch.equal(trained.state_dict()[name], weight) for name, weight in before.state_dict().items())


@torch.no_grad()
def test_a_painter_that_knows_no_places_is_taught_them_and_paints_the_same_at_first(tmp_path):
    known = tiny_inner_vae()
    settings = {name: value for name, value in known.config.items() if not name.startswith("_")}
    vae = AutoencoderTempoSync(**settings | {"inner_placed": None}).eval()
    vae.load_state_dict(known.state_dict(), strict=False)
    vae.save_pretrained(tmp_path)
    taught = inner_mouth.build(inner_mouth.Config(init=str(tmp_path)))
    latents, hidden, picture = torch.randn(2, 32, 6, 8), torch.rand(2, 1, 64, 96), torch.randn(1, 3, 128, 192)
    painted = [each.inner_mouth(latents, latents[:1], hidden, each.seen_mouth(picture)) for each in (vae, taught, known)]
    assert torch.allclose(painted[0], painted[1], atol=1e-5) and not torch.allclose(painted[0], painted[2], atol=0.1)
    assert taught.inner_decoder.place_fine.requires_grad and not taught.decoder.layers[0].weight.requires_grad


def test_frames_are_painted_alike_alone_and_together():
    vae = tiny_inner_vae()
    latents, hidden, seen = torch.randn(3, 32, 6, 8), torch.rand(3, 1, 64, 96), vae.seen_mouth(torch.randn(1, 3, 128, 192))
    with torch.inference_mode():
        together = vae.inner_mouth(latents, latents[:1], hidden, seen)
        alone = torch.cat([vae.inner_mouth(latents[i:i + 1], latents[:1], hidden[i:i + 1], seen) for i in range(3)])
    assert together.shape == (3, 3, 128, 192) and torch.allclose(together, alone, atol=1e-4)


def hidden_mouth(rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """No flow; hidden are these rows and columns of the crop."""
    flow, visibility = still()
    top, left = (LATENT_STRIDE * cells for cells in LATENT_WINDOW[:2])
    visibility[rows.start - top:rows.stop - top, columns.start - left:columns.stop - left] = 0
    return flow, visibility


@pytest.mark.parametrize("size", [120, 300, 1100])
def test_what_is_painted_comes_where_the_mouth_is_hidden(size):
    photo, matrix = portrait(size)
    photo = cv2.GaussianBlur(photo, (0, 0), size / 64)
    mouth = slice(166, 182), slice(108, 148)
    colours = fine_block(photo, matrix).astype(np.float32)
    rows, columns = (slice(SCALE * (part.start - start), SCALE * (part.stop - start)) for part, start in zip(mouth, (BLOCK.y0, BLOCK.x0)))
    colours[rows, columns] = 30
    frame = PhotoWarp(photo, matrix, fine=True).patch(*hidden_mouth(*mouth), colours).onto(photo)
    middle = region_in_photo((slice(170, 178), slice(114, 142)), matrix, len(photo))
    assert abs(frame[middle].mean() - 30) < 6
    outside = ~region_in_photo((slice(158, 190), slice(100, 156)), matrix, len(photo))
    assert np.array_equal(frame[outside], photo[outside])


def test_there_is_no_seam_at_the_blocks_edge():
    """Even where everything is hidden, and painted in another colour."""
    photo, matrix = portrait(512, 0)
    photo = cv2.GaussianBlur(photo, (0, 0), 6)
    flow, visibility = still()
    frame = PhotoWarp(photo, matrix, fine=True).patch(flow, 0 * visibility, np.full((128, 192, 3), 20, np.float32)).onto(photo)
    change = crop_face(frame, matrix).astype(int) - crop_face(photo, matrix)
    assert not change[:BLOCK.y0 - 2].any() and not change[:, :BLOCK.x0 - 2].any() and not change[:, BLOCK.x1 + 2:].any()
    across = np.abs(np.diff(change[BLOCK.y0 + 8:BLOCK.y1 - 8, BLOCK.x0 - 4:BLOCK.x0 + 10], axis=1)).max()
    assert across < 0.4 * np.abs(change).max()


def test_a_closed_mouth_needs_no_paint():
    photo, matrix = portrait(300)
    flow, visibility = still()
    assert PhotoWarp(photo, matrix, fine=True).patch(flow, visibility, None).pixels.size == 0
    moved = PhotoWarp(photo, matrix).patch(flow + 2, visibility, np.zeros((112, 128, 3)))
    assert np.array_equal(PhotoWarp(photo, matrix, fine=True).patch(flow + 2, visibility, None).pixels, moved.pixels)
