"""Portraits as users bring them, made from the example portraits: on their side, covered, cut off, turned away."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from temposync_pipeline.checkpoints import checkpoint_folder
from temposync_pipeline.errors import FaceError
from temposync_pipeline.face.crop import align_matrix, crop_face, transform_points
from temposync_pipeline.face.landmarks import CHIN, GROUPS, interocular_distance
from temposync_pipeline.face.visibility import EVIDENCE_WEIGHTS, MAYBE_COVERED_FROM, mouth_evidence
from temposync_pipeline.media.image import load_image
from temposync_pipeline.models.face_aligner import FaceAligner
from temposync_pipeline.pipelines.face_search import find_face

PORTRAITS = ("portrait_man", "portrait_man_2", "portrait_woman")
MEDIA = Path(__file__).parent.parent / "examples" / "media"


@pytest.fixture(scope="module")
def aligner() -> FaceAligner:
    return FaceAligner.from_pretrained(checkpoint_folder("temposync-tiny", ("face_aligner",)), subfolder="face_aligner").eval()


@pytest.fixture(scope="module")
def known(aligner) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each example portrait and the landmarks of its face."""
    photos = {name: load_image(MEDIA / f"{name}.jpg") for name in PORTRAITS}
    return {name: (photo, find_face(aligner, photo, name)[1].landmarks) for name, photo in photos.items()}


@pytest.mark.parametrize("name", PORTRAITS)
@pytest.mark.parametrize(("turns", "side"), [(1, "on its left side"), (2, "upside down"), (3, "on its right side")])
def test_a_photo_on_its_side_is_turned_upright(aligner, known, caplog, name, turns, side):
    photo, landmarks = known[name]
    upright, face = find_face(aligner, np.ascontiguousarray(np.rot90(photo, turns)), name)
    np.testing.assert_array_equal(upright, photo)
    np.testing.assert_allclose(face.landmarks, landmarks, atol=1)
    assert [record.getMessage() for record in caplog.records] == [f"{name}: the photo lies {side}; it is turned upright"]


def grey(photo):
    return np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, -1)


def sepia(photo):
    return np.clip(grey(photo) * [1.07, 0.95, 0.72] + [12, 4, 0], 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", PORTRAITS)
@pytest.mark.parametrize("change", [lambda photo: photo, grey, sepia, lambda photo: photo // 3 + 150, lambda photo: photo // 2,
                                    lambda photo: cv2.resize(photo, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA)])
def test_faces_that_show_their_mouth_pass_without_a_word(aligner, known, caplog, name, change):
    find_face(aligner, change(known[name][0]), name)
    assert not caplog.records


def painted(photo: np.ndarray, colour, outline=None, ellipse=None, seed: int = 0) -> np.ndarray:
    """The photo with a shape of one colour, some grain and a soft edge: `outline` [N, 2], or `ellipse` (centre, half axes)."""
    shape = np.zeros(photo.shape[:2], np.float32)
    if outline is not None:
        cv2.fillPoly(shape, [np.round(outline).astype(np.int32)], 1.0)
    else:
        centre, axes = ellipse
        cv2.ellipse(shape, tuple(map(int, centre)), tuple(map(int, axes)), 0, 0, 360, 1.0, -1)
    shape = cv2.GaussianBlur(shape, (0, 0), 1.0)[..., None]
    grain = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 12, photo.shape[:2]), (0, 0), 1.0)[..., None]
    return np.clip(photo * (1 - shape) + (np.array(colour) + grain) * shape, 0, 255).astype(np.uint8)


def mask(photo, landmarks, colour):
    """From the nose's tip over the chin, to the edges of the face."""
    jaw = landmarks[GROUPS["face_oval"]][9:28]
    tip, eyes = landmarks[GROUPS["nose_bridge"]][-2], interocular_distance(landmarks)
    return painted(photo, colour, outline=[*jaw, tip - [0.4 * eyes, 0], tip, tip + [0.4 * eyes, 0]])


def microphone(photo, landmarks, colour):
    lips, eyes = landmarks[GROUPS["outer_lips"]].mean(0), interocular_distance(landmarks)
    return painted(photo, colour, ellipse=(lips + [0, 0.1 * eyes], (0.5 * eyes, 0.5 * eyes)))


def scarf(photo, landmarks, colour):
    top = (landmarks[GROUPS["nose_base"]].mean(0) + landmarks[GROUPS["outer_lips"]].mean(0)) / 2
    eyes = interocular_distance(landmarks)
    return painted(photo, colour, outline=[top - [1.8 * eyes, 0], top + [1.8 * eyes, 0], top + [1.8 * eyes, 4 * eyes],
                                           top + [-1.8 * eyes, 4 * eyes]])


def hand(photo, landmarks, _):
    """Three fingers in the face's own colour."""
    lips, eyes = landmarks[GROUPS["outer_lips"]].mean(0), interocular_distance(landmarks)
    x, y = landmarks[GROUPS["nose_bridge"]][-2].astype(int)
    for place in (-0.34, 0.0, 0.34):
        for shrink, shade in ((1.0, 0.6), (0.85, 0.95)):
            photo = painted(photo, photo[y, x] * shade, ellipse=(lips + [0, place * eyes], (0.8 * eyes, 0.2 * eyes * shrink)))
    return photo


@pytest.mark.parametrize("name", PORTRAITS)
@pytest.mark.parametrize(("cover", "colour"), [
    (mask, (120, 180, 215)), (mask, (20, 20, 22)), (mask, (240, 240, 238)), (mask, (170, 40, 50)), (microphone, (45, 45, 48)),
    (microphone, (200, 170, 60)), (scarf, (90, 30, 40)), (scarf, (130, 135, 140)), (hand, None),
])
def test_a_covered_mouth_is_refused(aligner, known, name, cover, colour):
    photo = cover(*known[name], colour)
    for version in (photo, grey(photo)):
        with pytest.raises(FaceError, match="the mouth seems to be covered|No face found"):
            find_face(aligner, version, name)


# `mouth_evidence` of photographs of people with dark skin, whose lips have its colour; five numbers alone were not enough to let them pass.
DARK_SKIN = [
    [-.46, -.41, -.01, .13, -.18, -.27, .33, .47, -.17, -.58, .9, 1.8, .95, -.62, -.32, -1.74],
    [-.51, -.65, -.03, .15, -.13, .62, .57, .97, .33, -.26, .98, 1.34, .67, -.41, -.25, -1.81],
    [-.62, -.64, .01, .13, -.08, -.17, .03, .11, .32, .09, 2.05, .79, .74, -.07, -.26, -1.21],
    [-.48, -.49, .02, .15, -.15, -.32, -.78, .23, .12, -.64, -.1, 1.44, .89, .27, -.37, -1.76],
    [-.4, -.43, .04, .12, -.16, .67, .47, -.27, -.12, -.33, 1.18, 2.02, .25, -.48, -.15, -1.46],
    [-.42, -.67, .05, .17, -.11, .2, -.02, .51, .19, -.31, 1.04, 1.81, .76, -.48, -.39, -1.7],
]


def test_lips_of_the_skins_own_colour_are_no_cover():
    assert (np.array(DARK_SKIN) @ EVIDENCE_WEIGHTS < MAYBE_COVERED_FROM - 4).all()


def test_the_evidence_is_about_how_a_mouth_looks(known):
    """From the upper lip to the chin: of a painted band across it, and of its light and contrast, the right ones of sixteen numbers."""
    photo, landmarks = known["portrait_man"]
    matrix = align_matrix(landmarks)
    crop, points = crop_face(photo, matrix), transform_points(matrix, landmarks)
    confidence = np.full(len(points), 0.9)
    evidence = mouth_evidence(crop, points, confidence)
    assert evidence.shape == EVIDENCE_WEIGHTS.shape and evidence[0] == evidence[1]
    flat = cv2.GaussianBlur(crop, (0, 0), 12)
    assert mouth_evidence(flat, points, confidence)[-1] < evidence[-1] - 0.5 and mouth_evidence(flat, points, confidence)[4] > evidence[4]
    np.testing.assert_allclose(mouth_evidence(crop // 2, points, confidence)[5:15], evidence[5:15], atol=0.2)
    middle = int(points[GROUPS["outer_lips"], 1].mean())
    crop[middle - 2:middle + 3] = 0
    assert mouth_evidence(crop, points, confidence)[5:15].argmin() in (3, 4, 5)


@pytest.mark.parametrize("name", PORTRAITS)
def test_a_mouth_that_is_hardly_seen_is_said(aligner, known, caplog, monkeypatch, name):
    monkeypatch.setattr("temposync_pipeline.pipelines.face_search.MAYBE_COVERED_FROM", -1000)
    find_face(aligner, known[name][0], name)
    assert [record.getMessage() for record in caplog.records] == [
        f"{name}: the mouth can hardly be seen; if something covers it, that will be painted over"]


@pytest.mark.parametrize("name", PORTRAITS)
def test_a_mouth_at_the_edge_and_half_a_face_are_refused(aligner, known, name):
    photo, landmarks = known[name]
    lips = landmarks[GROUPS["outer_lips"]]
    middle, (left, top), right = lips.mean(0).astype(int), lips.min(0).astype(int), int(lips[:, 0].max())
    for part in (photo[:middle[1]], photo[:top], photo[:, :middle[0]], photo[:, middle[0]:], photo[:, :left], photo[:, right:]):
        with pytest.raises(FaceError):
            find_face(aligner, np.ascontiguousarray(part), name)


@pytest.mark.parametrize("name", PORTRAITS)
def test_a_chin_that_is_cut_off_is_said(aligner, known, name, caplog):
    photo, landmarks = known[name]
    find_face(aligner, photo, name)
    assert not caplog.records
    bottom, chin = int(landmarks[GROUPS["outer_lips"], 1].max()), int(landmarks[CHIN, 1])
    find_face(aligner, np.ascontiguousarray(photo[:(bottom + chin) // 2]), name)  # a cut through the chin leaves the mouth
    said, = (record.message for record in caplog.records)
    assert said == f"{name}: the chin is cut off; an opened mouth may run into the picture's edge"


def turned_aside(photo: np.ndarray, landmarks: np.ndarray, degrees: float) -> np.ndarray:
    """The face as if on a cylinder that turns about its axis."""
    outline = landmarks[GROUPS["face_oval"], 0]
    centre, radius = (outline.min() + outline.max()) / 2, (outline.max() - outline.min()) / 2 * 1.15
    height, width = photo.shape[:2]
    place = np.arange(width) - centre
    angle = np.arcsin(np.clip(place / radius, -1, 1)) - np.radians(degrees)
    source = np.where(np.abs(place) <= radius, radius * np.sin(np.clip(angle, -np.pi / 2, np.pi / 2)), place) + centre
    x, y = np.meshgrid(source.astype(np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(photo, x, y, cv2.INTER_LINEAR)


@pytest.mark.parametrize("name", PORTRAITS)
def test_a_face_turned_by_half_a_right_angle_is_said(aligner, known, caplog, name):
    find_face(aligner, turned_aside(*known[name], 15), name)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        try:
            find_face(aligner, turned_aside(*known[name], 50), name)
        except FaceError:
            assert not caplog.records  # refused: that is word enough
        else:
            assert [record.getMessage().startswith(f"{name}: the face is turned far to a side") for record in caplog.records] == [True]


def test_heads_tilted_to_a_side_are_found_as_they_are(aligner, known, caplog):
    photo, landmarks = known["portrait_woman"]
    height, width = photo.shape[:2]
    for degrees in (30, 45):
        tilt = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 0.7)
        _, face = find_face(aligner, cv2.warpAffine(photo, tilt, (width, height), borderMode=cv2.BORDER_REPLICATE), "tilted")
        expected = landmarks @ tilt[:, :2].T + tilt[:, 2]
        assert np.linalg.norm(face.landmarks - expected, axis=1).mean() < 0.03 * interocular_distance(expected)
    assert not caplog.records


def test_nothing_to_be_found(aligner):
    with pytest.raises(FaceError, match="No face found in wall.png"):
        find_face(aligner, np.full((200, 300, 3), 128, np.uint8), "wall.png")
