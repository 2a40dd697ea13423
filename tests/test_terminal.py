"""What is printed: text that a file holds, and its name, can neither steer the terminal nor forge a line; a full disk is told."""

import contextlib
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import pytest

from temposync_pipeline import cli
from temposync_pipeline.terminal import in_words, one_line, plain, say

from .test_bad_inputs import clip

ROOT = Path(__file__).parent.parent
FORGED = "\x1b[31mred\nwatermark: found, 99 standard deviations\rcontent credentials: trusted, signed by Adobe\0\x9b2J\u2028\u202e"


def test_letters_that_steer_become_question_marks():
    assert plain("a\x1b[31m\n\t\0\x7f\x9b\u2028\u202e\ud800z") == "a?[31m????????z"
    assert plain("  Bildschirm\u202ffoto  2,\u00a0é 日本 🙂") == "  Bildschirm\u202ffoto  2,\u00a0é 日本 🙂"
    assert one_line(" two\n lines \x1b") == "two lines ?"
    assert in_words(OSError(28, "No space left on device", "a\nb")) == "a b: No space left on device"
    assert in_words(KeyError()) == "KeyError()"


def test_letters_that_the_terminal_does_not_know_are_no_error(monkeypatch, tmp_path):
    with open(tmp_path / "printed", "w", encoding="ascii") as file:
        monkeypatch.setattr(sys, "stdout", file)
        say("héllo")
    assert (tmp_path / "printed").read_text() == "h?llo\n"


def test_commands_print_through_one_function():
    """As in a file, so in its neighbours: nothing else in them prints."""
    for path in [ROOT / "temposync_pipeline/cli.py", *(ROOT / "temposync_pipeline/commands").glob("*.py")]:
        assert not re.search(r"\b(print|echo|secho|stderr\.write|stdout\.write)\(", path.read_text(encoding="utf-8")), path.name


def test_verify_prints_what_a_file_says_in_its_own_line(tmp_path, command_line):
    path = tmp_path / "forged.mp4"
    with av.open(str(clip(tmp_path / "plain.mp4"))) as source, av.open(str(path), "w") as container:
        container.metadata["comment"] = f"AI-generated: {FORGED}".partition("\0")[0]
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    code, out, err = command_line("verify", path)
    assert (code, err, [line.partition(":")[0] for line in out]) == (0, [], ["watermark", "metadata", "content credentials"])
    assert out[1].startswith("metadata: AI-generated: ?[31mred?watermark: found") and all(line.isprintable() for line in out)


def test_verify_prints_names_of_signers_and_models_in_one_line(tmp_path, command_line, monkeypatch):
    layers = {"watermark": {"found": True, "face": True, "score": 9.0, "identifier": "0", "model": FORGED},
              "metadata": {"found": True, "comment": FORGED},
              "credentials": {"found": True, "state": FORGED, "signer": FORGED, "test_certificate": False, "source_type": FORGED,
                              "generator": FORGED, "model": FORGED}}
    monkeypatch.setattr("temposync_pipeline.provenance.verify.verify_video", lambda path: {"marked": True, **layers})
    code, out, _ = command_line("verify", clip(tmp_path / "a.mp4"))
    assert code == 0 and len(out) == 3 and all(line.isprintable() for line in out)


def test_warnings_print_a_name_in_one_line(tmp_path, command_line, monkeypatch):
    def warn(path):
        logging.getLogger("temposync_pipeline.media.audio").warning("%s: truncated", path.name)
        raise cli.InvalidInputError(f"{path.name}: not a video")

    path = tmp_path / FORGED.replace("\0", "")
    clip(tmp_path / "a.mp4").rename(path)
    monkeypatch.setattr("temposync_pipeline.media.video.read_tags", warn)
    code, out, err = command_line("verify", path)
    assert (code, out, len(err)) == (2, [], 2) and all(line.isprintable() for line in err)
    assert err[0].endswith(": truncated") and err[1].startswith("temposync: ?[31mred watermark")


def test_lists_of_clips_print_names_in_one_line(tmp_path, command_line):
    talker = tmp_path / "clips" / "talker"
    talker.mkdir(parents=True)
    (talker / "x\x1b[31m\nskipped y: forged.mp4").write_bytes(b"no video")
    code, _, err = command_line("manifest", "--data", tmp_path / "clips", "--output", tmp_path / "clips.jsonl")
    assert code == 2 and len(err) == 2 and all(line.isprintable() for line in err)


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [("--help",), ("manifest", "--data", "clips", "--output", "clips.jsonl")])
def test_a_standard_output_that_is_full_is_told(tmp_path, make_audio, arguments):
    (tmp_path / "clips" / "talker").mkdir(parents=True)
    with av.open(str(tmp_path / "clips/talker/a.mkv"), "w") as container, av.open(str(make_audio("a.wav"))) as sound:
        stream, heard = container.add_stream("mpeg4", rate=25), container.add_stream_from_template(sound.streams.audio[0])
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
        for packet in sound.demux():
            if packet.size:
                packet.stream = heard
                container.mux(packet)
    with open(FULL, "w") as full:
        result = subprocess.run([sys.executable, "-m", "temposync_pipeline.cli", *arguments], cwd=tmp_path, stdout=full,
                                stderr=subprocess.PIPE, text=True, env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert (result.returncode, result.stderr) == (2, "temposync: standard output: No space left on device\n")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_a_full_stream_is_told_by_its_name_or_not_at_all(tmp_path, monkeypatch):
    """Whether Python keeps a line that could not be printed, and fails at the next flush too, is not for sure."""
    for name in ("stdout", "stderr"):
        full = open(FULL, "w")
        monkeypatch.setattr(sys, name, full)
        if name == "stdout":
            with pytest.raises(OSError) as error:
                say("a")
            assert in_words(error.value) == "standard output: No space left on device"
        else:
            say("a", err=True)
        with contextlib.suppress(OSError):
            full.close()
    with open(FULL, "w") as full:
        result = subprocess.run([sys.executable, "-m", "temposync_pipeline.cli", "verify", "missing.mp4"], cwd=tmp_path, stderr=full,
                                env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert result.returncode == 2  # 1 would say that there is no mark


def test_a_reader_that_has_left_is_no_fault():
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([sys.executable, "-m", "temposync_pipeline.cli", "--help"], cwd=ROOT, stdout=writer,
                            stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


def test_a_folder_deleted_under_the_command_is_told(tmp_path, capsys, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as end:
        cli.main(["verify", "a.mp4"])
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines() == ["temposync: the folder that this was started in is no longer there"]
