"""`temposync batch`: many videos from a table, with a tiny pipeline."""

import csv
import json
import os

import av
import numpy as np
import pytest
from PIL import Image

from temposync_pipeline import cli
from temposync_pipeline.pipelines.pipeline_temposync import TempoSyncPipeline

from .tiny_components import picture, tiny_pipeline

pytestmark = pytest.mark.makes_videos


@pytest.fixture
def folder(tmp_path, make_speech):
    """Two portraits, a wall and two recordings; the table comes from `write`."""
    for name, size in (("woman.png", (96, 80)), ("man.png", (80, 96))):
        Image.fromarray(picture(*size)).save(tmp_path / name)
    Image.fromarray(np.full((96, 80, 3), 90, np.uint8)).save(tmp_path / "wall.png")
    make_speech("hello.wav", seconds=0.4)
    make_speech("bye.mp3", seconds=0.8, rate=44_100)
    return tmp_path


@pytest.fixture
def loads(monkeypatch):
    """How often the models were loaded."""
    counted = []
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda name, **_: counted.append(name) or tiny_pipeline())
    return counted


def write(path, *rows, delimiter=",", encoding="utf-8"):
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def run(capsys, *arguments):
    """Exit code, lines on stdout, lines on stderr."""
    with pytest.raises(SystemExit) as end:
        cli.main(["batch", *map(str, arguments)])
    printed = capsys.readouterr()
    return end.value.code or 0, printed.out.splitlines(), printed.err.splitlines()


def frames(path) -> int:
    with av.open(str(path)) as container:
        return container.streams.video[0].frames


HEADER = ("image", "audio", "output", "steps", "seed")


def test_a_bad_line_is_told_and_the_next_goes_on(folder, loads, capsys):
    table = write(
        folder / "jobs.csv", HEADER, ("woman.png", "hello.wav", "1.mp4", "1", ""), ("missing.png", "hello.wav", "2.mp4", "", ""),
        ("wall.png", "hello.wav", "3.mp4", "", ""), ("man.png", "bye.mp3", "sub/4.mp4", "", "7"), ("man.png", "bye.mp3"),
        ("man.png", "bye.mp3", "5.avi", "", ""), ("man.png", "bye.mp3", "6.mp4", "nine", ""), ("man.png", "bye.mp3", "7.mp4", "9", ""),
        ("man.png", "bye.mp3", "1.mp4", "", ""), ("man.png", "", "8.mp4", "", ""), ("", "", "", "", ""),
        ("man.png", "hello.wav", "../man.png", "", ""), ("man.png", "hello.wav", "sub/../1.mp4", "", ""))
    out = folder / "videos"
    code, printed, errors = run(capsys, table, "--output_dir", out, "--json", folder / "report.json")
    assert code == 2 and printed == [str(out / "1.mp4"), str(out / "sub/4.mp4")] and loads == ["temposync-tiny"]
    told = {int(line.split()[2].rstrip(":")): line for line in errors[:-1] if line.startswith("jobs.csv: line")}
    for line, message in {3: "missing.png: no such file", 4: "wall.png", 6: "fewer fields", 7: "must end in .mp4",
                          8: "'nine' is not a whole number", 9: "1 to 8", 10: "a line above", 11: "audio is empty",
                          13: "must end in .mp4", 14: "a line above"}.items():
        assert message in told[line]
    assert len(told) == 10 and errors[-1] == "temposync: jobs.csv: 10 of 12 lines failed"
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*")) == ["1.mp4", "sub", "sub/4.mp4"]
    assert frames(out / "1.mp4") == 10 and frames(out / "sub/4.mp4") == 20
    report = json.loads((folder / "report.json").read_text())
    assert (report["made"], report["existing"], report["failed"]) == (2, 0, 10)
    assert [entry["line"] for entry in report["lines"] if entry["status"] == "made"] == [2, 5]
    assert all(("error" in entry) == (entry["status"] == "failed") for entry in report["lines"])


def test_a_number_of_too_many_digits_is_told(folder, loads, capsys):
    table = write(folder / "jobs.csv", HEADER, ("woman.png", "hello.wav", "1.mp4", "9" * 5000, ""))
    code, _, errors = run(capsys, table, "--output_dir", folder / "videos")
    assert code == 2 and errors[0].startswith("jobs.csv: line 2: steps: '999") and errors[0].endswith("9' has too many digits")


def test_a_line_with_an_impossible_name_is_told_and_the_next_goes_on(folder, loads, capsys):
    """The csv module of Python 3.11 reads NULs, and what a name holds must neither end the run nor reach the terminal."""
    names = ("sub\0d/x.mp4", "n" * 300 + ".mp4", f"{'n' * 300}/x.mp4", "red\x1b[31m\ntemposync: forged.avi")
    rows = [("woman.png", "hello.wav", name) for name in names]
    rows += [("wo\0man.png", "hello.wav", "1.mp4"), ("woman.png", "he\0llo.wav", "1.mp4"), ("n" * 300 + ".png", "hello.wav", "1.mp4"),
             ("woman.png", "hello.wav", "good.mp4")]
    table, out = write(folder / "jobs.csv", HEADER[:3], *rows), folder / "videos"
    code, printed, errors = run(capsys, table, "--output_dir", out, "--steps", 1, "--json", folder / "report.json")
    assert code == 2 and printed == [str(out / "good.mp4")] and [path.name for path in out.iterdir()] == ["good.mp4"]
    lines = [line for line in errors if line.startswith("jobs.csv: line")]
    assert len(lines) == 7 and errors[-1] == "temposync: jobs.csv: 7 of 8 lines failed" and all(line.isprintable() for line in errors)
    causes = ["a NUL", "File name too long", "File name too long", "must end in .mp4", "a NUL", "a NUL", "File name too long"]
    assert all(cause in line and "Errno" not in line for line, cause in zip(lines, causes, strict=True)), lines
    assert [entry["status"] for entry in json.loads((folder / "report.json").read_text())["lines"]] == 7 * ["failed"] + ["made"]


def test_what_is_there_is_left_alone(folder, loads, capsys, monkeypatch):
    """Interrupted amid the second video, it goes on with that one; run once more, it has nothing to do and loads no models."""
    table = write(folder / "jobs.csv", HEADER[:3], *(("woman.png", "hello.wav", f"{number}.mp4") for number in (1, 2, 3)))
    out, begun = folder / "videos", []
    finish = TempoSyncPipeline.generate_to_file

    def interrupted(pipe, image, audio, output, **settings):
        begun.append(output.name)
        if len(begun) == 2:
            monkeypatch.setattr("temposync_pipeline.media.video.VideoWriter.__exit__", raise_interrupt)
        return finish(pipe, image, audio, output, **settings)

    def raise_interrupt(writer, *_):
        monkeypatch.undo()
        writer._discard()
        raise KeyboardInterrupt

    monkeypatch.setattr(TempoSyncPipeline, "generate_to_file", interrupted)
    assert run(capsys, table, "--output_dir", out)[0] == 130
    assert os.listdir(out) == ["1.mp4"]
    first = (out / "1.mp4").stat().st_mtime_ns
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda name, **_: tiny_pipeline())
    code, printed, errors = run(capsys, table, "--output_dir", out)
    assert (code, printed) == (0, [str(out / "2.mp4"), str(out / "3.mp4")])
    assert errors == ["jobs.csv: 1 of 3 lines had been made before"] and (out / "1.mp4").stat().st_mtime_ns == first
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda name, **_: pytest.fail("models were loaded"))
    (folder / "hello.wav").unlink()
    code, printed, _ = run(capsys, table, "--output_dir", out, "--json", folder / "report.json")
    assert (code, printed) == (0, []) and json.loads((folder / "report.json").read_text())["existing"] == 3


def test_another_name_of_a_video_above_is_told(folder, loads, capsys):
    """By a detour, or by a link to its folder."""
    (folder / "link").symlink_to(folder / "videos")
    rows = [("woman.png", "hello.wav", name) for name in ("1.mp4", "no/../1.mp4", "../link/1.mp4")]
    table, out = write(folder / "jobs.csv", HEADER[:3], *rows), folder / "videos"
    code, printed, errors = run(capsys, table, "--output_dir", out, "--steps", 1)
    assert code == 2 and printed == [str(out / "1.mp4")] and os.listdir(out) == ["1.mp4"]
    assert [line.rpartition(": ")[2] for line in errors] == 2 * ["the output of a line above"] + ["2 of 3 lines failed"]


@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")])
def test_tables_of_other_programs(folder, loads, capsys, delimiter, encoding):
    header = ("Output", " Image", "AUDIO", "mouth_amplitude")
    table = write(folder / "jobs.csv", header, ("ä,;.mp4", "woman.png", "hello.wav", "0.5"), delimiter=delimiter, encoding=encoding)
    code, printed, errors = run(capsys, table, "--output_dir", folder, "--steps", 1)
    assert (code, printed, errors) == (0, [str(folder / "ä,;.mp4")], [])


@pytest.mark.parametrize(("content", "message"), [
    (b"", "'image' is missing"), (b"image,audio\na,b\n", "'output' is missing"), (b"woman.png,hello.wav,1.mp4\n", "'image' is missing"),
    (b"image,audio,output,stesp\n", "'stesp': no such column"), (b"image,audio,output,image\n", "'image': twice"),
    (b"image,audio,output\n\xff\xfe,b,c\n", "not a table in UTF-8"), (b'image,audio,output\n"a,b,c\n', "not a table in UTF-8"),
    (b"image,audio,output\n" + b" " * 2000, "jobs.csv: 2019 bytes, above the limit of 1000"),
    (b"image,audio,output\n" + b"\n" * 12, "jobs.csv: 13 lines, above the limit of 12"),
])
def test_the_first_line_is_checked_before_any_work(folder, capsys, monkeypatch, content, message):
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda name, **_: pytest.fail("models were loaded"))
    monkeypatch.setattr("temposync_pipeline.text_files.MAX_TABLE_BYTES", 1000)
    monkeypatch.setattr("temposync_pipeline.text_files.MAX_TABLE_LINES", 12)
    (folder / "jobs.csv").write_bytes(content)
    before = sorted(os.listdir(folder))
    code, out, err = run(capsys, folder / "jobs.csv", "--output_dir", folder / "videos")
    assert (code, out, len(err)) == (2, [], 1) and message in err[0]
    assert sorted(os.listdir(folder)) == before


def test_an_unreadable_model_ends_the_run(folder, capsys, monkeypatch):
    def refuse(name, **_):
        raise PermissionError(13, "Permission denied", "weights")

    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", refuse)
    table = write(folder / "jobs.csv", HEADER[:3], *(("woman.png", "hello.wav", f"{number}.mp4") for number in (1, 2)))
    assert run(capsys, table, "--output_dir", folder / "videos") == (2, [], ["temposync: weights: Permission denied"])


@pytest.mark.parametrize("precious", ["portrait.png", "speech.wav", "out/made.mp4"])
def test_the_report_replaces_nothing_that_a_line_names(tmp_path, capsys, precious):
    (tmp_path / "out").mkdir()
    for name in ("portrait.png", "speech.wav", "out/made.mp4"):
        (tmp_path / name).write_bytes(b"precious")
    table = tmp_path / "jobs.csv"
    table.write_text("image,audio,output\nportrait.png,speech.wav,made.mp4\n")
    code, _, errors = run(capsys, table, "--output_dir", tmp_path / "out", "--json", tmp_path / precious)
    assert code == 2 and "would replace an input" in " ".join(errors) and (tmp_path / precious).read_bytes() == b"precious"
