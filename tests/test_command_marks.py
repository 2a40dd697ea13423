"""Every command that makes a video marks it in each layer, and the switch turns off what it says and nothing else."""

from pathlib import Path

import pytest
from PIL import Image

from temposync_pipeline import TempoSyncPipeline, cli
from temposync_pipeline.face.crop import align_matrix
from temposync_pipeline.media.planes import luma_of
from temposync_pipeline.media.video import VideoWriter, read_tags, read_video
from temposync_pipeline.provenance.credentials import EDITED, GENERATED, is_available, read_credentials
from temposync_pipeline.provenance.origin import NOTICE, model_identifier
from temposync_pipeline.provenance.reading import read_crop

from .tiny_components import picture, template_face, tiny_pipeline

pytestmark = pytest.mark.makes_videos

COMMANDS = {
    "generate": ("--image", "portrait.png", "--audio", "a.wav", "--output", "out.mp4"),
    "generate, in turns": ("--image", "portrait.png", "--speaker", "0=a.wav", "--output", "out.mp4"),
    "generate, with life": (
        "--image", "portrait.png", "--audio", "a.wav", "--output", "out.mp4", "--blink_rate", "1", "--head_motion", "1"),
    "decode": ("--latents", "a.safetensors", "--output", "out.mp4"),
    "batch": ("jobs.csv",),
    "dub": ("--video", "film.mp4", "--audio", "a.wav", "--output", "out.mp4"),
    "dub, of a GIF": ("--video", "film.gif", "--audio", "a.wav", "--output", "out.mp4"),
    "live": ("--image", "portrait.png", "--audio", "a.wav", "--output", "out.mp4"),
    "live, to a player": ("--image", "portrait.png", "--audio", "a.wav"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch, make_speech):
    """What the commands above are given."""
    pipeline = tiny_pipeline()
    pipeline.face_aligner.read_again = lambda frame, pose: template_face(frame)[0]
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda name, **_: pipeline)
    monkeypatch.chdir(tmp_path)
    make_speech("a.wav", seconds=0.3)
    Image.fromarray(picture()).save("portrait.png")
    Path("jobs.csv").write_text("image,audio,output\nportrait.png,a.wav,out.mp4\n")
    with VideoWriter(Path("film.mp4")) as writer:
        for _ in range(8):
            writer.write(picture())
    Image.fromarray(picture()).save("film.gif", save_all=True, append_images=[Image.fromarray(picture() // 8 * 7)] * 7, duration=40)
    pipeline.latents_to_file("portrait.png", "a.wav", "a.safetensors", progress=False)
    return tmp_path


@pytest.mark.parametrize("switch", [(), ("--no-provenance",)], ids=["marked", "unmarked"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_marks_each_layer_unless_told_otherwise(folder, capfdbinary, command, switch):
    with pytest.raises(SystemExit) as ended:
        cli.main([command.partition(",")[0], *COMMANDS[command], *switch])
    printed = capfdbinary.readouterr()
    assert ended.value.code == 0, printed.err
    if "player" in command:
        Path("out.mp4").write_bytes(printed.out)
    assert read_tags("out.mp4")["comment"].startswith(NOTICE)
    frame = read_video("out.mp4", max_frames=1)[0][0]
    reading, signed = read_crop(luma_of(frame), align_matrix(template_face(frame)[0].landmarks)), read_credentials("out.mp4")
    if switch:
        assert not reading.is_marked and not signed["found"]
    else:
        assert reading.is_marked and reading.identifier == model_identifier("custom", "")
        assert signed["found"] == (is_available() and "player" not in command)
        assert signed.get("source_type") in (EDITED if "dub" in command else GENERATED, None)
