import cv2
import numpy as np
import pytest

from temposync_pipeline.data.aligner_data import load_portraits as load_labelled_portraits
from temposync_pipeline.data.aligner_data import load_speaking
from temposync_pipeline.data.manifest import Clip
from temposync_pipeline.data.mouth_colour import MouthLight, skin_colour, teeth_colour
from temposync_pipeline.data.mouth_warp import INNER, LOWER, OUTER, OVAL, UPPER
from temposync_pipeline.data.retarget import close_mouth, retarget, transfer_motion
from temposync_pipeline.data.speaking_portraits import Drivers, Portrait, SpeakingPortrait, load_portraits, speak
from temposync_pipeline.data.viseme_shapes import mean_viseme_shapes
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.face.crop import TEMPLATE, align_matrix, crop_face, mouth_mask
from temposync_pipeline.face.landmarks import CHIN, GROUPS, LEFT_IRIS, MESH_INDICES, RIGHT_IRIS, RIGID, lip_opening
from temposync_pipeline.face.lip_shape import rest_shape
from temposync_pipeline.media.video import VideoWriter
from temposync_pipeline.training.aligner import AlignerBatches, Config, held_out_faces

SKIN, LIPS, TEETH, TONGUE = (205, 150, 120), (190, 90, 90), (235, 225, 205), (70, 25, 22)


def face(gap: float = 0.0, width: float = 56.0, chin: float = 215.0) -> np.ndarray:
    """A drawn face in crop pixels: lips `gap` px apart and `width` px wide."""
    points = np.zeros((131, 2))
    angles = np.linspace(-np.pi / 2, 1.5 * np.pi, 36, endpoint=False)
    points[OVAL] = np.stack([128 + 70 * np.cos(angles), 130 + (chin - 130) * np.sin(angles)], 1)
    for name in ("right_eye", "left_eye", "right_brow", "left_brow"):
        count = len(points[GROUPS[name]])
        x, y = 91 if "right" in name else 165, 60 if "brow" in name else 82
        points[GROUPS[name]] = np.stack([np.linspace(x - 14, x + 14, count), np.full(count, y)], 1)
    points[GROUPS["nose_bridge"]] = np.stack([np.full(6, 128), np.linspace(78, 130, 6)], 1)
    points[GROUPS["nose_base"]] = np.stack([np.linspace(114, 142, 5), np.full(5, 138)], 1)
    points[[RIGHT_IRIS, LEFT_IRIS]] = [[91, 82], [165, 82]]
    points[RIGID] = TEMPLATE
    across = np.linspace(-1, 1, 11)
    arch = 1 - across**2
    for group, spread, upper, lower in ((OUTER, 1.0, 7, 10), (INNER, 0.93, 0, 0)):
        x = 128 + spread * width / 2 * across
        points[group[LOWER]] = np.stack([x, 168 + (gap / 2 + lower) * arch], 1)
        points[group[UPPER]] = np.stack([x, 168 - (gap / 2 + upper) * arch], 1)
    return points.astype(np.float32)


def draw(points: np.ndarray, inside: tuple[int, int, int]) -> np.ndarray:
    """The face as a picture: textured skin, lips, and one colour between them."""
    picture = np.full((256, 256, 3), SKIN, np.uint8)
    picture += np.random.default_rng(1).integers(0, 12, (256, 256, 1), np.uint8)
    fixed = [np.round(points[group] * 16).astype(np.int32) for group in (OUTER, INNER)]
    cv2.fillPoly(picture, fixed[:1], LIPS, shift=4, lineType=cv2.LINE_AA)
    cv2.fillPoly(picture, fixed[1:], inside, shift=4, lineType=cv2.LINE_AA)
    return picture


def in_two_hues(pictures: np.ndarray) -> np.ndarray:
    """The same faces with hair and a sky: of one hue and little contrast they would be taken for toned, faded prints."""
    pictures = pictures.copy()
    pictures[..., :12, :, :], pictures[..., 12:44, :, :] = 10, (90, 190, 200)
    return pictures


GAPS = np.array([0, 0, 2, 6, 12, 16, 12, 4, 0, 0, 8, 14], np.float32)


@pytest.fixture(scope="module")
def driver() -> tuple[np.ndarray, np.ndarray]:
    landmarks = np.stack([face(gap, 56 - 0.3 * gap, 215 + gap / 2) for gap in GAPS])
    return landmarks, np.stack([draw(points, TONGUE) for points in landmarks])


def test_a_smile_closes_and_a_closed_mouth_stays():
    smile = face(gap=12, width=76)
    closed = close_mouth(smile)
    np.testing.assert_allclose(closed[INNER[UPPER]], closed[INNER[LOWER]], atol=1e-4)
    assert 56 < np.ptp(closed[OUTER, 0]) < 68
    assert closed[CHIN, 1] < smile[CHIN, 1] - 3
    assert (closed[OUTER[LOWER], 1] >= closed[INNER[LOWER], 1] - 1e-4).all()
    assert (closed[OUTER[UPPER], 1] <= closed[INNER[UPPER], 1] + 1e-4).all()
    np.testing.assert_allclose(close_mouth(face()), face(), atol=1e-4)


def test_rest_is_the_closed_frames(driver):
    assert lip_opening(rest_shape(driver[0])) < 0.01


def test_lips_follow_the_driver_and_never_cross(driver):
    rest = rest_shape(driver[0])
    target = transfer_motion(close_mouth(face(12, 76)), driver[0], rest)
    np.testing.assert_allclose(lip_opening(target), lip_opening(driver[0]), atol=0.01)
    pressed = driver[0].copy()
    pressed[:, INNER[UPPER[1:-1]], 1] += 5
    target = transfer_motion(close_mouth(face(12, 76)), pressed, rest)
    assert (target[:, INNER[UPPER], 1] <= target[:, INNER[LOWER], 1] + 1e-3).all()


def test_a_nod_is_no_speech(driver):
    rest = rest_shape(driver[0])
    base = close_mouth(face(12, 76))
    still = np.repeat(rest[None], 10, 0)
    np.testing.assert_allclose(transfer_motion(base, still + [0, 6], rest)[:, INNER], np.repeat(base[None, INNER], 10, 0), atol=1e-3)


def test_a_smiling_photograph_speaks(driver):
    landmarks, crops = driver
    smile = face(12, 76)
    photograph = draw(smile, TEETH)
    frames, target = retarget(photograph, smile, landmarks, crops, rest_shape(landmarks))
    assert frames.shape == crops.shape and frames.dtype == np.uint8
    outside = mouth_mask() == 0
    assert (frames[:, outside] == photograph[outside]).all()

    def pixels_like(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
        return int((np.abs(picture.astype(int) - colour).max(-1) < 40).sum())

    # Closed: neither the photograph's teeth nor the driver's tongue; open: the tongue, more of it the wider the mouth.
    assert pixels_like(photograph, TEETH) > 300
    assert pixels_like(frames[0], TEETH) < 12 and pixels_like(frames[0], TONGUE) < 12
    tongue = [pixels_like(frame, TONGUE) for frame in frames]
    assert np.corrcoef(tongue, lip_opening(target))[0, 1] > 0.95 and max(tongue) > 200


def test_a_closed_photograph_at_rest_stays_itself(driver):
    landmarks, crops = driver
    photograph = draw(face(), TONGUE)
    frames, _ = retarget(photograph, face(), np.repeat(rest_shape(landmarks)[None], 3, 0), crops[:3], rest_shape(landmarks))
    assert np.abs(frames.astype(int) - photograph).max() <= 3


def test_the_mouth_takes_the_photographs_light(driver):
    landmarks, crops = driver
    portrait = (draw(face(12, 76), TEETH) * 0.5).astype(np.uint8)
    np.testing.assert_allclose(skin_colour(portrait, face(12, 76)), skin_colour(crops[0], landmarks[0]) * 0.5, atol=4)
    light = MouthLight.match(portrait, face(12, 76), np.stack([draw(points, TEETH) for points in landmarks]), landmarks)
    dark = light(np.float32([[TEETH, TONGUE]]))[0]
    np.testing.assert_allclose(dark[0], np.float32(TEETH) * 0.6, rtol=0.2)
    assert dark[1].mean() < 0.75 * np.mean(TONGUE)
    assert teeth_colour(crops[:1], landmarks[:1]) is None


def test_mean_shapes_per_viseme(driver):
    landmarks, _ = driver
    rest = rest_shape(landmarks)
    labels = np.where(GAPS > 10, 10, np.where(GAPS == 0, 0, 6))
    means, clear = mean_viseme_shapes([landmarks, landmarks], [labels, labels], [rest, rest])
    assert means.shape == (15, 131, 2) and np.isnan(means[1]).all() and clear[1] is None
    opening = means[:, INNER[5], 1] - means[:, INNER[15], 1]
    # Of the open frames one alone has open neighbours: the sixth.
    assert opening[0] < 0.01 and abs(opening[10] - GAPS[5] / 74) < 0.01
    assert clear[10][1] == 5 and labels[clear[6][1]] == 6


def test_a_set_of_speaking_portraits(tmp_path, driver):
    landmarks, crops = driver
    (tmp_path / "portraits").mkdir()
    smile = face(12, 76)
    cv2.imwrite(str(tmp_path / "portraits/someone.png"), draw(smile, TEETH)[..., ::-1])
    cv2.imwrite(str(tmp_path / "portraits/nobody.png"), draw(smile, TEETH))
    np.savez(tmp_path / "portraits.npz", names=["someone.png", "nobody.png"], landmarks=np.stack([smile, np.full_like(smile, np.nan)]))
    with VideoWriter(tmp_path / "clip.mp4") as writer:
        for crop in crops:
            writer.write(crop)
    np.savez(tmp_path / "clip.npz", landmarks=landmarks)
    portraits = load_portraits(tmp_path / "portraits", tmp_path / "portraits.npz")
    assert [portrait.name for portrait in portraits] == ["someone.png"] and isinstance(portraits[0], Portrait)
    drivers = Drivers([Clip("clip", "talker", tmp_path / "clip.mp4", "train", landmarks=tmp_path / "clip.npz")], min_frames=8)
    (_, speaking), = speak(portraits, drivers, 8, np.random.default_rng(0))
    assert speaking.driver == "clip" and 0 <= speaking.start <= 4
    speaking.save(tmp_path / "someone.npz")
    loaded = SpeakingPortrait.load(tmp_path / "someone.npz")
    assert (loaded.driver, loaded.start) == (speaking.driver, speaking.start)
    np.testing.assert_array_equal(loaded.landmarks, speaking.landmarks)
    assert np.abs(loaded.crops.astype(int) - speaking.crops).mean() < 2
    assert np.abs(loaded.reference.astype(int) - portraits[0].crop).mean() < 2


def test_speaking_portraits_show_the_aligner_open_mouths_in_their_photographs(tmp_path, driver):
    landmarks, crops = driver[0], in_two_hues(driver[1])
    shown = GAPS.argmax()
    photograph = cv2.warpAffine(in_two_hues(draw(face(), TEETH)), np.float32([[1, 0, 30], [0, 1, 20]]), (320, 300))
    mesh = np.zeros((478, 3))
    mesh[MESH_INDICES, :2] = face() + [30, 20]
    (tmp_path / "portraits").mkdir()
    cv2.imwrite(str(tmp_path / "portraits/person.png"), photograph[..., ::-1])
    np.savez(tmp_path / "portraits.npz", names=["person.png"], landmarks=mesh[None])
    (tmp_path / "speaking/train").mkdir(parents=True)
    speaking = SpeakingPortrait(crops[[shown]], landmarks[[shown]], in_two_hues(draw(face(), TEETH)), "clip", 0)
    for name in ("person_0", "whose_photograph_is_not_there_0"):
        speaking.save(tmp_path / f"speaking/train/{name}.npz")
    portraits = load_labelled_portraits(tmp_path, tmp_path, False)
    with pytest.raises(InvalidInputError, match="elsewhere.*speaks there"):
        load_speaking(portraits, tmp_path / "elsewhere")
    found, = load_speaking(portraits, tmp_path / "speaking")
    assert found.name == "person"
    assert lip_opening(found.landmarks) == pytest.approx(lip_opening(landmarks[shown]), abs=0.01) and lip_opening(found.landmarks) > 0.1
    pasted = crop_face(found.image, align_matrix(found.landmarks))
    lips, silent = (mouth_mask() > 0.9)[..., None], in_two_hues(draw(face(), TEETH))
    assert (lips * cv2.absdiff(pasted, crops[shown])).mean() < 0.2 * (lips * cv2.absdiff(silent, crops[shown])).mean()
    assert np.array_equal(found.image[:100], photograph[:100])
    with pytest.raises(InvalidInputError, match="held out"):
        held_out_faces(Config(data=str(tmp_path), labels=str(tmp_path)))
    with pytest.raises(InvalidInputError, match="speaking_share"):
        AlignerBatches(Config(data=str(tmp_path), labels=str(tmp_path), speaking=str(tmp_path / "speaking"), speaking_share=1.5), 96)
    batches = AlignerBatches(Config(data=str(tmp_path), labels=str(tmp_path), speaking=str(tmp_path / "speaking"), speaking_share=1.0), 96)
    assert all(lip_opening(batches.samples.face().landmarks) > 0.1 for _ in range(8))
