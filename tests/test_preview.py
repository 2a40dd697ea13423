"""What a video will be made of, shown before it is made."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from temposync_pipeline.models.face_aligner import FaceAligner
from temposync_pipeline.pipelines.preview import DIMMED, LIP_COLOUR, PANEL, dim_what_stays, draw_preview

from .test_faults import largest_file
from .tiny_components import picture, template_face, tiny_face_aligner


def two_faces(photo: np.ndarray, *_) -> list:
    first, = template_face(photo)
    return [first, replace(first, landmarks=first.landmarks * 0.5 + np.float32([photo.shape[1] / 2, 0]))]


def test_only_what_moves_is_bright():
    face, = template_face(picture(256, 256))
    plain = np.full((256, 256, 3), 200, np.uint8)
    dimmed = dim_what_stays(plain, face)
    assert (dimmed[:120] == round(200 * DIMMED)).all() and (dimmed[190, 128] == 200).all()


@pytest.mark.parametrize("height, width", [(256, 256), (301, 777), (640, 333)])
def test_three_panels_and_a_frame_a_face(height, width):
    photo = picture(height, width) // 3
    faces = two_faces(photo)
    one, both = draw_preview(photo, faces[:1]), draw_preview(photo, faces, 1)
    assert one.shape == both.shape and one.shape[0] == PANEL and one.shape[1] > 2 * PANEL
    assert (both[:, -2 * PANEL:] != one[:, -2 * PANEL:]).any()
    assert (one[:, -2 * PANEL:-PANEL] == LIP_COLOUR).all(-1).any() and not (one[:, -PANEL:] == LIP_COLOUR).all(-1).any()


@pytest.fixture
def temposync(monkeypatch, command_line):
    aligner = tiny_face_aligner()
    aligner.detect = two_faces
    monkeypatch.setattr(FaceAligner, "from_pretrained", lambda *_, **__: aligner)
    return command_line


def test_the_command(temposync, tmp_path):
    Image.fromarray(picture(120, 240)).save(tmp_path / "a.png")
    out, report = tmp_path / "preview.png", tmp_path / "r.json"
    assert temposync("preview", "--image", tmp_path / "a.png", "--output", out, "--json", report) == (0, [str(out)], [])
    faces = json.loads(report.read_text())["faces"]
    assert Image.open(out).height == PANEL and len(faces) == 2 and np.array(faces[0]["landmarks"]).shape == (131, 2)


def test_what_is_wrong_is_said_and_shown(temposync, tmp_path):
    Image.fromarray(picture(120, 240)).save(tmp_path / "a.png")
    out = tmp_path / "preview.png"
    code, printed, err = temposync("preview", "--image", tmp_path / "a.png", "--output", out, "--face_index", 2)
    assert code == 2 and not printed and "face_index 2 asked for" in err[0] and out.exists()
    code, _, err = temposync("preview", "--image", tmp_path / "a.png", "--output", tmp_path / "preview.mp4")
    assert code == 2 and ".png" in err[0]
    code, _, err = temposync("preview", "--image", tmp_path / "none.png", "--output", out)
    assert code == 2 and "no such file" in err[0]


def test_a_full_disk_leaves_the_old_picture(temposync, tmp_path):
    Image.fromarray(picture(120, 240)).save(tmp_path / "a.png")
    (tmp_path / "preview.png").write_bytes(b"old")
    with largest_file(1000):
        code, out, errors = temposync("preview", "--image", tmp_path / "a.png", "--output", tmp_path / "preview.png")
    assert code == 2 and out == [] and len(errors) == 1 and (tmp_path / "preview.png").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "preview.png"]
