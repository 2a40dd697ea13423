"""Lids and head of a photo: when they move, where, and that nothing else does."""

from itertools import repeat

import cv2
import numpy as np
import pytest
import torch

from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.face.crop import TEMPLATE, align_matrix, transform_points
from temposync_pipeline.face.landmarks import EYES, GROUPS, LEFT_IRIS, LOWER_LID, NUM_LANDMARKS, RIGHT_IRIS, RIGID, UPPER_LID
from temposync_pipeline.face.life import (
    BLINKS_A_SECOND,
    DEVIATION,
    MOST_RAISE,
    RAISE,
    HeadWarp,
    Life,
    LifeTracks,
    LivingPhoto,
    blink_opening,
)
from temposync_pipeline.face.mouth_box import Patch
from temposync_pipeline.models.face_aligner import Face

from .tiny_components import picture, spoken, tiny_pipeline, tiny_read_pipeline

pytestmark = pytest.mark.makes_videos

SKIN, EYE = 180, 40
REST = np.zeros(6)
SURE = np.ones(NUM_LANDMARKS, np.float32)
MINUTES = 10 * 60 * 25


@pytest.fixture(scope="module")
def crop_landmarks() -> np.ndarray:
    """A face in its crop: an oval, and eyes that are open."""
    points = np.full((NUM_LANDMARKS, 2), 128, np.float32)
    angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    points[GROUPS["face_oval"]] = np.stack([128 + 70 * np.sin(angles), 128 - 90 * np.cos(angles)], -1)
    points[[RIGHT_IRIS, LEFT_IRIS]] = (90, 82), (166, 82)
    across = np.linspace(-16, 16, 9)
    for brow, x in zip(("right_brow", "left_brow"), (91, 165)):
        points[GROUPS[brow]] = np.stack([x + np.linspace(-20, 20, 5), np.full(5, 52)], -1)
    for eye, x in zip(EYES, (91, 165)):
        height = 5 * (1 - (across / 16) ** 2)
        points[eye[np.r_[0, LOWER_LID, 8]]] = np.stack([x + across, 82 + height], -1)
        points[eye[UPPER_LID]] = np.stack([x + across, 82 - height], -1)[1:-1]
    points[RIGID] = TEMPLATE
    return points


def photo_of(landmarks: np.ndarray) -> np.ndarray:
    photo = np.full((600, 500, 3), SKIN, np.uint8)
    for eye in EYES:
        cv2.fillPoly(photo, [landmarks[eye].round().astype(np.int32)], (EYE,) * 3)
    return photo


@pytest.fixture(scope="module")
def face(crop_landmarks):
    """(photo, matrix, landmarks) of the face in a larger photo, a little tilted."""
    to_photo = np.float64([[1.6, -0.2, 60], [0.2, 1.6, 70]])
    landmarks = transform_points(to_photo, crop_landmarks).astype(np.float32)
    return photo_of(landmarks), align_matrix(landmarks), landmarks


def nothing(photo):
    return Patch(0, 0, photo[:0, :0])


def dark(pixels):
    return int((pixels[..., 0] < (SKIN + EYE) // 2).sum())


def test_lids_close_with_skin_and_nothing_else_changes(face):
    photo, matrix, landmarks = face
    living = LivingPhoto(photo, matrix, landmarks, SURE)
    half, shut = (living.patch(nothing(photo), Life(opening, REST)).onto(photo) for opening in (0.5, 0.0))
    assert 0.3 < dark(half) / dark(photo) < 0.75 and dark(shut) < 0.25 * dark(photo)
    changed = np.argwhere((shut != photo).any(-1))[:, ::-1]
    eyes = np.concatenate([landmarks[eye] for eye in EYES])
    assert (changed >= eyes.min(0) - 25).all() and (changed <= eyes.max(0) + 25).all()
    assert living.patch(nothing(photo), Life(1.0, REST)).pixels.size == 0


def with_glasses(photo, landmarks):
    """Of their frame, the bridge."""
    photo, middle = photo.copy(), landmarks[[EYES[0][8], EYES[1][8]]].mean(0).astype(int)
    photo[middle[1] - 4:middle[1] + 4, middle[0] - 60:middle[0] + 60] = EYE
    return photo


@pytest.mark.parametrize("fault", ["nearly shut", "from the side", "unsure", "glasses"])
def test_doubtful_eyes_stay_as_they_are(face, fault):
    photo, matrix, landmarks = face
    landmarks, sure = landmarks.copy(), SURE.copy()
    if fault == "glasses":
        photo = with_glasses(photo, landmarks)
    elif fault == "nearly shut":
        landmarks[EYES[0][UPPER_LID]] = landmarks[EYES[0][LOWER_LID]]
    elif fault == "from the side":
        landmarks[EYES[1]] = landmarks[EYES[1]].mean(0) + 0.3 * (landmarks[EYES[1]] - landmarks[EYES[1]].mean(0))
    else:
        sure[EYES[1]] = 0.1
    living = LivingPhoto(photo, matrix, landmarks, sure)
    assert not living.can_blink
    assert living.patch(nothing(photo), Life(0.0, REST)).pixels.size == 0


def test_the_head_moves_and_the_photos_edges_do_not(face):
    photo, matrix, landmarks = face
    noise = np.random.default_rng(0).integers(0, 256, photo.shape, np.uint8)
    warp = HeadWarp(photo.shape[:2], matrix, transform_points(matrix, landmarks))
    head = REST.copy()
    head[0] = 0.1
    moved = warp.move(photo, head)
    before, after = (np.argwhere(pixels[..., 0] < 110)[:, ::-1].mean(0) for pixels in (warp.box.of(photo), moved))
    wanted = np.linalg.inv(matrix[:, :2]) @ [6.8, 0]
    assert np.allclose(after - before, wanted, atol=0.6)
    whole = noise.copy()
    warp.box.of(whole)[:] = warp.move(noise, head)
    assert (whole[[0, -1]] == noise[[0, -1]]).all() and (whole[:, [0, -1]] == noise[:, [0, -1]]).all()
    assert np.array_equal(warp.move(noise, REST), warp.box.of(noise))


def test_brows_rise_and_eyes_do_not(face):
    photo, matrix, landmarks = face
    photo, brow = photo.copy(), landmarks[GROUPS["right_brow"]] + [0, 4]
    cv2.polylines(photo, [brow.round().astype(np.int32)], False, (EYE,) * 3, 8)
    raised = LivingPhoto(photo, matrix, landmarks, SURE).patch(nothing(photo), Life(1.0, REST, MOST_RAISE)).onto(photo)
    around = np.s_[int(brow[:, 1].min()) - 15:int(brow[:, 1].max()) + 10, int(brow[1, 0]):int(brow[3, 0])]
    before, after = (np.argwhere(picture[around][..., 0] < 110)[:, 0].mean() for picture in (photo, raised))
    assert before - after == pytest.approx(MOST_RAISE * 68 * 1.6, rel=0.25)
    eyes = photo_of(landmarks)[..., 0] == EYE
    assert (raised[eyes] == photo[eyes]).mean() > 0.95
    changed = np.argwhere((raised != photo).any(-1))[:, 0]
    assert changed.max() < max(landmarks[eye][:, 1].max() for eye in EYES)


@pytest.mark.parametrize("fault", ["glasses", "unsure"])
def test_doubtful_brows_stay_as_they_are(face, fault):
    photo, matrix, landmarks = face
    sure = SURE.copy()
    if fault == "glasses":
        photo = with_glasses(photo, landmarks)
    else:
        sure[GROUPS["left_brow"]] = 0.1
    raised = LivingPhoto(photo, matrix, landmarks, sure).patch(nothing(photo), Life(1.0, REST, MOST_RAISE))
    assert np.array_equal(raised.onto(photo), photo)


@pytest.mark.parametrize("motion", range(7))
def test_no_place_is_torn_or_folded(face, motion):
    photo, matrix, landmarks = face
    warp = HeadWarp(photo.shape[:2], matrix, transform_points(matrix, landmarks))
    most = 2 * np.append(3 * DEVIATION, MOST_RAISE)  # three deviations, and the highest raise, at the largest `head_motion`
    coarse = most[motion] * warp._fields[motion] / warp._step
    steps = np.stack(np.gradient(coarse, axis=(0, 1)))
    assert 0 < np.abs(steps).max() < (0.5 if motion < 6 else 0.8)


def tracks(seed=3, blink_rate=1.0, head_motion=1.0, frames=MINUTES, share=1.0):
    life = list(zip(range(frames), LifeTracks(seed, 25, blink_rate, head_motion).frames(repeat((share, 0.0)))))
    return np.array([each.lids for _, each in life]), np.stack([each.head for _, each in life])


def brow_track(accents, seed=3, head_motion=1.0, share=1.0):
    """Of ten minutes in which the voice is louder for 0.2 s, once a second, by so many ln."""
    voice = ((share, accents * (index % 25 < 5)) for index in range(MINUTES))
    return np.array([each.brows for each in LifeTracks(seed, 25, 1.0, head_motion).frames(voice)])


def blinks(lids):
    return np.flatnonzero((lids[1:] < 0.5) & (lids[:-1] >= 0.5))


def test_life_is_as_often_and_as_far_as_the_talkers():
    lids, head = tracks()
    assert len(blinks(lids)) / 600 == pytest.approx(BLINKS_A_SECOND, rel=0.2)
    assert np.allclose(head.std(0) / DEVIATION, 1, atol=0.2)
    quiet = tracks(share=0.0)[1]
    assert np.allclose(quiet.std(0) / head.std(0), 0.67, atol=0.01)
    half = [np.count_nonzero(lids[start:start + 20] < 0.5) for start in blinks(lids)]
    assert np.mean(half) / 25 == pytest.approx(0.24, rel=0.2)


def test_brows_rise_with_some_accents_and_with_nothing_else():
    brows = brow_track(0.6)
    begins = np.flatnonzero((brows[1:] > 0) & (brows[:-1] == 0))
    assert 0.3 < len(begins) / 600 < 0.5 and (begins % 25 < 5).all()
    peaks = [brows[begin:begin + 12].max() for begin in begins]
    assert np.median(peaks) == pytest.approx(RAISE, rel=0.15) and max(peaks) <= MOST_RAISE and len(set(np.round(peaks, 6))) > 100
    assert np.abs(np.diff(brows)).max() < 0.5 * MOST_RAISE
    assert not brow_track(0.1).any() and not brow_track(0.6, share=0.0).any()
    assert np.allclose(brow_track(0.6, head_motion=2), 2 * brows) and not brow_track(0.6, head_motion=0).any()
    assert not np.array_equal(brow_track(0.6, seed=4), brows)
    spectrum = np.abs(np.fft.rfft(brows - brows.mean(), 2 * len(brows))) ** 2
    again = np.fft.irfft(spectrum)[:len(brows) // 2]
    assert np.abs(again[50:] / again[0]).max() < 0.6  # the voice itself comes again every second


def test_life_begins_at_rest_and_does_not_come_again():
    lids, head = tracks()
    assert lids[0] == 1 and (np.abs(head[0]) < 0.3 * DEVIATION).all()
    for track in (lids - lids.mean(), *(head - head.mean(0)).T):
        spectrum = np.abs(np.fft.rfft(track, 2 * len(track))) ** 2
        again = np.fft.irfft(spectrum)[:len(track) // 2]
        assert np.abs(again[50:] / again[0]).max() < 0.2


def test_each_control_moves_its_own_measure():
    lids, head = tracks(frames=5000)
    more, same = tracks(frames=5000, blink_rate=2)
    assert np.array_equal(head, same) and len(blinks(more)) > 1.5 * len(blinks(lids))
    unmoved, further = tracks(frames=5000, head_motion=2)
    assert np.array_equal(unmoved, lids) and np.allclose(further, 2 * head)
    assert (tracks(frames=500, blink_rate=0)[0] == 1).all() and not tracks(frames=500, head_motion=0)[1].any()
    assert not np.array_equal(tracks(seed=4, frames=500)[1], head[:500])


def test_a_lid_closes_faster_than_it_opens():
    openings = np.array([blink_opening(moment / 100) for moment in range(-10, 60)])
    assert (openings[:11] == 1).all() and (openings[-5:] == 1).all() and openings.min() == pytest.approx(0.03)
    moving, shut = np.flatnonzero(openings < 1), np.flatnonzero(openings == openings.min())
    assert 2 * (shut[0] - moving[0]) < moving[-1] - shut[-1] and np.abs(np.diff(openings)).max() < 0.2


@pytest.fixture(scope="module")
def pipeline(crop_landmarks):
    pipe = tiny_pipeline()
    pipe.face_aligner.detect = lambda image, max_faces=None, threshold=0.5: [
        Face(landmarks=crop_landmarks * (min(image.shape[:2]) / 256), confidence=SURE, score=1.0)]
    return pipe


SPEECH = spoken(1.6)


def frames_of(pipeline, **options):
    chunks = pipeline.stream(picture(256, 256), SPEECH, 2, torch.Generator().manual_seed(7), **options)
    return np.concatenate(list(chunks))


def test_still_is_what_nobody_asked_life_of(pipeline):
    plain = frames_of(pipeline)
    assert np.array_equal(plain, frames_of(pipeline, still=True, blink_rate=1, head_motion=1))
    assert np.array_equal(plain, frames_of(pipeline, blink_rate=0, head_motion=0))
    output = pipeline(picture(256, 256), SPEECH, 2, torch.Generator().manual_seed(7), output_type="np", head_motion=1, still=True)
    assert np.array_equal(np.rint(255 * output.frames), plain)


def test_blinks_change_the_eyes_and_the_head_everything_but_the_edges(pipeline):
    plain, blinking, moving = frames_of(pipeline), frames_of(pipeline, blink_rate=2), frames_of(pipeline, head_motion=2)
    changed = (plain != blinking).any((0, 3))
    assert changed.any() and not changed[:60].any() and not changed[105:].any()
    changed = (plain != moving).any((0, 3))
    assert changed[100:150, 100:150].mean() > 0.9 and not changed[[0, -1]].any() and not changed[:, [0, -1]].any()


def test_the_mouths_amplitude_leaves_the_eyes_alone(pipeline):
    small, large = (frames_of(pipeline, blink_rate=2, mouth_amplitude=amplitude) for amplitude in (0.0, 1.5))
    assert np.array_equal(small[:, :110], large[:, :110]) and not np.array_equal(small, large)


def test_life_is_the_same_made_at_once_to_a_file_and_live(pipeline, tmp_path):
    options = {"blink_rate": 2, "head_motion": 1}
    at_once = pipeline(picture(256, 256), SPEECH, 2, torch.Generator().manual_seed(7), output_type="np", **options)
    assert np.array_equal(np.rint(255 * at_once.frames), frames_of(pipeline, **options))
    live = pipeline.session(picture(256, 256), 2, torch.Generator().manual_seed(7), **options)
    frames = [frame for start in range(0, len(SPEECH[0]), 1000) for frame in live.push(SPEECH[0][start:start + 1000], SPEECH[1])]
    pictures = np.stack([frame.picture for frame in frames + live.flush()])
    assert np.array_equal(pictures, frames_of(pipeline, chunk_size=3, look_ahead=5, **options))
    assert pipeline.generate_to_file(
        picture(256, 256), SPEECH, tmp_path / "x.mp4", 2, torch.Generator().manual_seed(7), progress=False, **options)["frames"] == 40


def test_who_is_silent_still_lives(pipeline):
    live = pipeline.session(picture(256, 256), generator=torch.Generator().manual_seed(7), head_motion=1)
    frames = [frame.picture for frame in live.push(np.zeros(24_000, np.float32), 16_000)]
    assert len({frame.tobytes() for frame in frames}) == len(frames)


@pytest.mark.parametrize("options", [{"blink_rate": 2.5}, {"head_motion": -1}, {"blink_rate": True}])
def test_life_has_its_limits(pipeline, options):
    with pytest.raises(ValueError, match=r"must lie in \[0, 2\]"):
        frames_of(pipeline, **options)


def test_a_method_that_moves_the_face_by_itself_says_so():
    with pytest.raises(InvalidInputError, match="moves lids and head by itself"):
        tiny_read_pipeline().stream(picture(96, 80), SPEECH, 2, blink_rate=1)


def test_latents_hold_no_life(pipeline, tmp_path):
    with pytest.raises(InvalidInputError, match="latents hold the mouth alone"):
        pipeline.latents_to_file(picture(256, 256), SPEECH, tmp_path / "x.safetensors", 2, blink_rate=1)


def test_eyes_that_cannot_blink_are_mentioned(pipeline, caplog):
    tiny = tiny_pipeline()  # its landmarks have no eyes to speak of
    next(tiny.stream(picture(96, 80), SPEECH, 1, blink_rate=1))
    assert "stay as they are" in caplog.text
