"""Bad inputs, by the numbers of docs/results/bad_inputs.md: each is refused in one sentence that names the file, or read as far as it goes.

The files are made here. What is refused comes through the command, which must leave no traceback, no temporary file and no other output
than the one that was there before.
"""

import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import zlib
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from temposync_pipeline import cli
from temposync_pipeline.checkpoints import bundled_path
from temposync_pipeline.errors import FaceError, InvalidInputError, InvalidVideoError
from temposync_pipeline.media import audio as audio_module
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.media.video import VideoWriter, load_soundtrack, read_video
from temposync_pipeline.models.face_aligner import FaceAligner
from temposync_pipeline.pipelines.face_search import find_face
from temposync_pipeline.pipelines.pipeline_temposync import TempoSyncPipeline

from .conftest import tone
from .test_media_audio import pcm, wav
from .test_media_image import png_header
from .tiny_components import MEDIA, picture, spoken, tiny_pipeline

RATE = 16_000
NOT_SOUND, NOT_A_PICTURE = "not an audio or video file", "not a readable PNG, JPEG"


# --- sound that is refused --------------------------------------------------------------------------------------------


def floats(samples: np.ndarray):
    return lambda path: wav(path, samples.astype("<f4").tobytes(), bits=32, kind=3)


def samples(count: int, **header):
    return lambda path: wav(path, bytes(2 * count), **header)


def content(data: bytes):
    return lambda path: path.write_bytes(data)


def encoded(path: Path, codec: str, seconds: float = 1.0, rate: int = 44_100, **options) -> bytes:
    """A tone, its container as the suffix says; `options` are the container's."""
    with av.open(str(path), "w", container_options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(seconds, rate)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(stream.format.name, "mono", rate, frame_size=stream.codec_context.frame_size or 1024)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path.read_bytes()


def without_moov(path: Path) -> None:
    whole = encoded(path.with_suffix(".m4a"), "aac")
    path.with_suffix(".m4a").unlink()
    path.write_bytes(whole[:whole.index(b"moov") - 4])


def lying_id3(path: Path) -> None:
    path.write_bytes(b"ID3\4\0\0\x7f\x7f\x7f\x7f" + encoded(path, "libmp3lame", write_xing="0", id3v2_version="0"))


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:{port}/a.wav\n#EXT-X-ENDLIST\n"
DASH = ('<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT9S"><Period>'
        '<AdaptationSet mimeType="audio/mp4"><Representation id="1" bandwidth="1"><BaseURL>http://127.0.0.1:{port}/a.mp4</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>")
CONCAT = "ffconcat version 1.0\nfile 'http://127.0.0.1:{port}/a.wav'\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n"

BAD_SOUND = {
    "1 empty.wav": (content(b""), "the file is empty"),
    "2 header only.wav": (samples(0), "no sound could be decoded"),
    "3 cut header.wav": (content(b"RIFF\x24\0\0\0WAVEfm"), NOT_SOUND),
    "7 one sample.wav": (samples(1), "0.000 s long, shorter than the limit of 0.1 s"),
    "7 ten milliseconds.wav": (samples(160), "0.010 s long, shorter than the limit of 0.1 s"),
    "8 rate 0.wav": (samples(9000, rate=0), NOT_SOUND),
    "8 rate 4294967295.wav": (samples(9000, rate=2**32 - 1), NOT_SOUND),
    "9 rate 1.wav": (samples(9000, rate=1), "sampling rate 1 Hz, outside the limits of 4000 to 768000 Hz"),
    "10 rate 1536000.wav": (samples(900_000, rate=1_536_000), "sampling rate 1536000 Hz, outside the limits of 4000 to 768000 Hz"),
    "11 no channel.wav": (samples(9000, channels=0), "no sound could be decoded"),
    "11 65535 channels.wav": (samples(9000, channels=65_535), "no sound could be decoded"),
    "12 255 channels.wav": (samples(51_000, channels=255), "255 channels, outside the limits of 1 to 64"),
    "17 NaN alone.wav": (floats(np.full(8000, np.nan)), "no finite sample among 8000"),
    "23 ID3 of 256 MB.mp3": (lying_id3, NOT_SOUND),
    "26 no moov.m4a": (without_moov, "breaks off before the end of its index"),
    "30 PNG.wav": (lambda path: Image.fromarray(picture(64, 64)).save(path, "PNG"), ""),
    "30 text.wav": (content(b"hello " * 500), NOT_SOUND),
    "30 ELF.wav": (content(b"\x7fELF\2\1\1" + bytes(9) + bytes(range(256)) * 9), NOT_SOUND),
}
BAD_PICTURES = {
    "34 empty.png": (content(b""), "the file is empty"),
    "34 text.jpg": (content(b"hello " * 500), NOT_A_PICTURE),
    "34 noise.webp": (content(np.random.default_rng(0).bytes(5000)), NOT_A_PICTURE),
    "37 65000 squared.png": (content(png_header(65_000, 65_000)), "4225 megapixels, above the limit of 40 megapixels"),
    "43 transparent.png": (lambda path: Image.new("RGBA", (96, 80)).save(path), "No face found in"),
    "44 1 by 1.png": (lambda path: Image.new("RGB", (1, 1)).save(path), "1x1 px, below the limit of 32 px a side"),
    "44 1 by 20000.png": (lambda path: Image.new("RGB", (1, 20_000)).save(path), "1x20000 px, below the limit of 32 px a side"),
    "46 Photoshop.psd": (content(b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 64, 64, 8, 3) + bytes(14 + 64 * 64 * 3)),
                         NOT_A_PICTURE),
    "47 EPS.png": (content(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n"), NOT_A_PICTURE),
    "47 SVG.png": (content(b"<svg xmlns='http://www.w3.org/2000/svg' width='99' height='99'/>"), NOT_A_PICTURE),
    "50 black.png": (lambda path: Image.new("RGB", (96, 80)).save(path), "No face found in"),
    "50 white.jpg": (lambda path: Image.new("RGB", (96, 80), "white").save(path), "No face found in"),
}


def truncated(suffix: str, kind: str):
    def make(path: Path) -> None:
        Image.fromarray(picture(96, 80)).save(path, kind)
        path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])

    return {f"35 half of a {kind}{suffix}": (make, NOT_A_PICTURE if kind == "WEBP" else "breaks off before the end of the picture")}


def bomb(path: Path) -> None:
    """20,000 × 20,000 pixels of one bit each: 50 MB of rows in 50 kB."""
    rows = zlib.compress(bytes(2501 * 20_000))
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, b"IDAT" + rows, b"IEND")))


def much_text(path: Path) -> None:
    """A hundred compressed notes of a megabyte each."""
    notes = PngImagePlugin.PngInfo()
    for number in range(100):
        notes.add_text(f"note {number}", "x" * (2**20 - 1), zip=True)
    Image.fromarray(picture(64, 64)).save(path, pnginfo=notes)


def huge_profile(path: Path) -> None:
    Image.fromarray(picture(64, 64)).save(path, icc_profile=bytes(200 * 2**20))


BAD_PICTURES |= truncated(".png", "PNG") | truncated(".jpg", "JPEG") | truncated(".webp", "WEBP")
BOMBS = {"36 bomb.png": (bomb, "400 megapixels, above the limit of 40 megapixels"), "38 zTXt.png": (much_text, NOT_A_PICTURE),
         "38 iCCP.png": (huge_profile, NOT_A_PICTURE)}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys, make_speech):
    """Runs `temposync generate` with one input replaced, and checks all that holds of every refusal; returns the line that says why."""
    Image.fromarray(picture(96, 80)).save(tmp_path / "portrait.png")
    (tmp_path / "out.mp4").write_bytes(b"old")
    (tmp_path / "scratch").mkdir()
    given = {"--image": tmp_path / "portrait.png", "--audio": make_speech("speech.wav"), "--output": tmp_path / "out.mp4",
             "--device": "cpu"}
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda name, **_: tiny_pipeline())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))

    def run(**replaced: Path) -> str:
        arguments = given | {f"--{name}": path for name, path in replaced.items()}
        before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as end:
            cli.main(["generate", *(str(each) for pair in arguments.items() for each in pair)])
        printed = capsys.readouterr()
        lines = [line for line in printed.err.splitlines() if line.startswith("temposync: ")]
        assert end.value.code == 2 and printed.out == "" and len(lines) == 1, printed.err
        assert "Traceback" not in printed.err and str(tmp_path) not in printed.err
        assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
        assert (tmp_path / "out.mp4").read_bytes() == b"old"
        return lines[0].removeprefix("temposync: ")

    return run


@pytest.mark.parametrize("case", [*BAD_SOUND, *BAD_PICTURES])
def test_refused_in_one_sentence(tmp_path, refused, monkeypatch, case):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))  # Ghostscript
    make, message = (BAD_SOUND | BAD_PICTURES)[case]
    path = tmp_path / case.partition(" ")[2]
    make(path)
    line = refused(**{"audio" if case in BAD_SOUND else "image": path})
    assert path.name in line and message in line


@pytest.mark.parametrize("playlist", [HLS, DASH, CONCAT, SDP], ids=["31 32 HLS", "32 DASH", "32 ffconcat", "32 SDP"])
@pytest.mark.parametrize("name", ["list.m3u8", "list.wav", "list.mp4"])
def test_nothing_that_a_file_names_is_opened(tmp_path, refused, playlist, name):
    with socket.create_server(("127.0.0.1", 0)) as server:
        (tmp_path / name).write_text(playlist.format(port=server.getsockname()[1]))
        assert NOT_SOUND in refused(audio=tmp_path / name)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody called
            server.accept()


def test_a_canary_stays_unread(tmp_path, refused, make_audio):
    """31: if it were read, there would be sound."""
    canary = make_audio("canary.wav")
    for number, text in enumerate((HLS.replace("http://127.0.0.1:{port}/a.wav", str(canary)), f"ffconcat version 1.0\nfile '{canary}'\n")):
        (tmp_path / f"list{number}.wav").write_text(text)
        assert NOT_SOUND in refused(audio=tmp_path / f"list{number}.wav")


PEAK = """
import resource, sys

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
"""


def alone(code: str, folder: Path, *arguments: str) -> list[str]:
    """The lines that code prints in a process whose `peak()`, in MB, is its own: a shell stands between, for a process inherits the peak of
    the one that starts it."""
    result = subprocess.run(["sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-c", PEAK + code, *arguments], cwd=folder,
                            capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)})
    assert result.returncode == 0, result
    return result.stdout.splitlines()


def test_bombs_take_no_memory(tmp_path):
    """36 and 38."""
    code = """
from temposync_pipeline.errors import InvalidImageError
from temposync_pipeline.media.image import load_image

load_image(sys.argv[1])
before = peak()
for path in sys.argv[2:]:
    try:
        load_image(path)
    except InvalidImageError as error:
        print(error)
print(peak() - before)
"""
    Image.fromarray(picture(2000, 2000)).save(tmp_path / "ordinary.png")
    names = [case.partition(" ")[2] for case in BOMBS]
    for name, (make, _) in zip(names, BOMBS.values()):
        make(tmp_path / name)
    *lines, growth = alone(code, tmp_path, "ordinary.png", *names)
    assert len(lines) == len(BOMBS) and int(growth) < 50
    for line, name, (_, message) in zip(lines, names, BOMBS.values()):
        assert line.startswith(name) and message in line


def chunk(name: bytes, body: bytes, size: int | None = None, order: str = "<") -> bytes:
    return name + struct.pack(f"{order}I", len(body) if size is None else size) + body


def claiming(kind: bytes, *before: bytes, form: bytes = b"WAVE", after: bytes = b"", order: str = "<") -> bytes:
    """A file of chunks, among which a tag says that it has 250 MB: harmless, but seen in the memory of whoever believes it."""
    tags = chunk(b"LIST", b"INFO" + chunk(b"ISFT", b"x" * 8, 250 * 2**20), 251 * 2**20, order)
    return chunk(kind, form + b"".join(before) + tags + after, order=order)


def large_picture(path: Path) -> None:
    """A GIF whose second picture lies so far beside the screen that a screen with both has 81 megapixels."""
    first, second = (Image.fromarray(picture(64, 64)).rotate(angle) for angle in (0, 90))
    first.save(path, "GIF", save_all=True, append_images=[second], duration=40)
    content = bytearray(path.read_bytes())
    place = content.rindex(b"\x21\xf9\x04") + 9  # its descriptor, after the extension that says for how long it stays
    struct.pack_into("<HH", content, place, 9000 - 64, 9000 - 64)
    path.write_bytes(content)


FORMAT, SOUND = (chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)), chunk(b"data", bytes(2 * RATE)))
TURNED = (chunk(b"fmt ", struct.pack(">HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16), order=">"), chunk(b"data", bytes(2 * RATE), order=">"))
CLAIMS = {
    "behind.wav": (content(claiming(b"RIFF", FORMAT, SOUND)), "16000"),
    "broadcast.wav": (content(chunk(b"RIFF", b"WAVE" + FORMAT + SOUND + chunk(b"bext", bytes(700), 2**30))), "16000"),
    "first.wav": (content(claiming(b"RIFF", FORMAT, after=SOUND)),
                  f"first.wav: damaged before its sound; the chunk LIST claims {251 * 2**20} bytes, {12 + 8 + len(SOUND)} follow"),
    "across.wav": (content(claiming(b"RIFX", *TURNED, chunk(b"JUNK", bytes(2**15 - 112), order=">"), order=">")), "16000"),
    "turned.wav": (content(claiming(b"RIFX", *TURNED, order=">")), "16000"),
    "tags.avi": (content(claiming(b"RIFF", form=b"AVI ")), "tags.avi: no audio in this file"),
    "wide.gif": (large_picture, "wide.gif: 9000x9000 px, above the limit of 16.8 megapixels"),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_what_a_damaged_file_claims_takes_no_memory(tmp_path, name):
    """23, 36 and what `make fuzz` found."""
    code = """
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.media.gif import stream_gif

load_audio("ordinary.wav")
before = peak()
try:
    print(len(list(stream_gif(sys.argv[1], 25)) if sys.argv[1].endswith(".gif") else load_audio(sys.argv[1]).samples))
except InvalidInputError as error:
    print(error)
print(peak() - before)
"""
    make, message = CLAIMS[name]
    make(tmp_path / name)
    wav(tmp_path / "ordinary.wav", bytes(2 * RATE))
    said, growth = alone(code, tmp_path, name)
    assert said == message and int(growth) < 100


# --- sound that is read as far as it goes -----------------------------------------------------------------------------

SOUND = tone(1.0, RATE)


def as_it_is(path: Path) -> None:
    wav(path, pcm(SOUND))


def cut(path: Path) -> None:
    as_it_is(path)
    path.write_bytes(path.read_bytes()[:20_044])


def vbr(path: Path) -> None:
    """Frames of three bit rates, no Xing header."""
    parts = [encoded(path.with_name(f"{number}.mp3"), "libmp3lame", write_xing="0", id3v2_version="0") for number in range(3)]
    path.write_bytes(b"".join(parts))


def lying_flac(path: Path) -> None:
    """It announces fifty minutes."""
    data = bytearray(encoded(path, "flac"))
    data[21] &= 0xF0
    data[22:26] = (50 * 60 * 44_100).to_bytes(4, "big")
    path.write_bytes(data)


def part_of(codec: str, share: float = 0.6):
    def make(path: Path) -> None:
        data = encoded(path, codec, seconds=2.0, rate=48_000)
        path.write_bytes(data[:int(share * len(data))])

    return make


def with_values(*values: float):
    """From the hundredth sample on."""
    changed = SOUND.copy()
    changed[100:100 + len(values)] = values
    return floats(changed)


READ = {  # what makes it; seconds, at least and at most; a warning
    "4 length 4294967295.wav": (lambda path: wav(path, pcm(SOUND), announced=2**32 - 1), (1, 1), ""),
    "5 length 0.wav": (lambda path: wav(path, pcm(SOUND), announced=0), (1, 1), ""),
    "6 truncated.wav": (cut, (0.62, 0.63), "truncated.wav: truncated"),
    "10 768 kHz.wav": (lambda path: wav(path, pcm(np.repeat(SOUND, 48)), rate=768_000), (1, 1), ""),
    "13 eight channels.wav": (lambda path: wav(path, pcm(np.repeat(SOUND, 8)), channels=8), (1, 1), ""),
    "16 some NaN.wav": (with_values(*[np.nan] * 100), (1, 1), "100 samples are not finite"),
    "18 infinite.wav": (with_values(np.inf, -np.inf), (1, 1), "2 samples are not finite"),
    "19 1e30.wav": (with_values(1e30, 1e-40), (1, 1), ""),
    "20 silence.wav": (samples(RATE), (1, 1), ""),
    "21 clipped and shifted.wav": (floats(np.clip(3 * SOUND + 0.4, -1, 1)), (1, 1), ""),
    "22 VBR without Xing.mp3": (vbr, (2.9, 3.3), ""),
    "24 truncated.flac": (part_of("flac"), (0.8, 1.6), "truncated.flac: truncated"),
    "25 without end.ogg": (part_of("libopus"), (0.5, 1.9), ""),
    "29 fifty minutes.flac": (lying_flac, (1, 1), "truncated; 1.00 s of the announced 3000.00 s"),
}


@pytest.mark.parametrize("case", READ)
def test_what_is_there_is_heard(tmp_path, caplog, case):
    make, (least, most), warning = READ[case]
    path = tmp_path / case.partition(" ")[2]
    make(path)
    heard = load_audio(path)
    assert least - 1e-6 <= heard.duration <= most + 1e-6 and len(heard.samples) == pytest.approx(heard.duration * RATE, abs=2)
    assert np.isfinite(heard.samples).all() and np.abs(heard.samples).max() <= 1
    assert warning in caplog.text and (warning or not caplog.records)


@pytest.mark.parametrize(("name", "data", "header", "expected"), [
    ("8 bit", lambda x: np.round(128 + 127 * x).astype("u1").tobytes(), {"bits": 8}, lambda x: np.round(127 * x) / 128),
    ("24 bit", lambda x: np.round(x * (2**23 - 1)).astype("<i4").view("u1").reshape(-1, 4)[:, :3].tobytes(), {"bits": 24}, lambda x: x),
    ("64 bit", lambda x: x.astype("<f8").tobytes(), {"bits": 64, "kind": 3}, lambda x: x),
])
def test_samples_of_every_width_are_golden(tmp_path, name, data, header, expected):
    """14: to a thousandth."""
    heard = load_audio(wav(tmp_path / "a.wav", data(SOUND), **header)).samples
    np.testing.assert_allclose(heard, expected(SOUND), atol=1e-3)


@pytest.mark.parametrize("codec", ["pcm_mulaw", "pcm_alaw", "adpcm_ima_wav", "adpcm_ms"])
def test_codecs_of_the_telephone(make_audio, codec):
    """15; AMR is in test_media_audio."""
    heard = load_audio(make_audio("a.wav", rate=8_000, codec=codec)).samples[:RATE]
    assert np.corrcoef(heard[800:-800], SOUND[800:-800])[0, 1] > 0.98


@pytest.mark.parametrize(("name", "codec"), [("a.ogg", "libopus"), ("a.flac", "flac")], ids=["27 Opus", "28 FLAC"])
def test_length_is_counted_while_decoding(tmp_path, monkeypatch, name, codec):
    """27, 28: ten hours of silence are small; what counts is that decoding ends at the limit, not at the end of the file."""
    decoded, rate = [], 48_000
    count = audio_module.check_format
    monkeypatch.setattr(audio_module, "check_format", lambda *about: decoded.append(1) or count(*about))
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        size, packet = stream.codec_context.frame_size or 960, b""
        frame = av.AudioFrame.from_ndarray(np.zeros((1, size), np.int16), format="s16", layout="mono")
        frame.sample_rate = rate
        for number in range(300 * rate // size):
            frame.pts = number * size
            if codec == "flac" or number < 5:
                packets = stream.encode(frame)
                packet = bytes(packets[-1]) if packets else packet
            else:  # silence again, without encoding it
                packets = [av.Packet(packet)]
                packets[0].stream, packets[0].pts, packets[0].dts, packets[0].duration = stream, frame.pts, frame.pts, size
                packets[0].time_base = Fraction(1, rate)
            container.mux(packets)
    with pytest.raises(InvalidInputError, match=f"^{name}: longer than the limit of 5 s$"):
        load_audio(tmp_path / name, max_seconds=5)
    assert len(decoded) <= 5 * rate // size + 5
    assert (tmp_path / name).stat().st_size < 2**20


def test_ten_minutes_are_heard_in_bounded_memory(tmp_path):
    """33: the reading; frames are made and written chunk by chunk."""
    wav(tmp_path / "short.wav", pcm(spoken(10.0)[0]))
    wav(tmp_path / "long.wav", pcm(spoken(10.0)[0]) * 60)
    code = """
from temposync_pipeline.media.audio import load_audio

load_audio("short.wav")
before = peak()
print(len(load_audio("long.wav").samples), peak() - before)
"""
    count, growth = map(int, alone(code, tmp_path)[-1].split())
    assert count == 600 * RATE and growth < 150  # the samples themselves are 38 MB


# --- faces ------------------------------------------------------------------------------------------------------------


def test_each_trouble_with_a_face_has_its_sentence(tmp_path):
    """50: two faces and a covered mouth are in test_cli and test_face_search."""
    aligner = FaceAligner.from_pretrained(bundled_path("temposync-tiny") / "face_aligner").eval()
    with Image.open(MEDIA / "portrait_woman.jpg") as portrait:
        tiny = Image.new("RGB", (400, 400), "grey")
        tiny.paste(portrait.resize((10, 10)), (200, 200))
    with torch.inference_mode(), pytest.raises(FaceError, match="^No face found in tiny.png; .* at least 48 pixels tall"):
        find_face(aligner, np.asarray(tiny), "tiny.png")


# --- video ------------------------------------------------------------------------------------------------------------


def clip(path: Path, codec: str = "mpeg4", rate: float = 25, size: tuple[int, int] = (64, 48), kind: str = "yuv420p", aspect: int = 1,
         options: dict | None = None, frames: int = 3) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1000), options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, kind
        stream.sample_aspect_ratio = Fraction(aspect)
        for number in range(frames):
            frame = av.VideoFrame(*size, kind)
            if max(size) < 1000:
                frame = av.VideoFrame.from_ndarray(picture(size[1], size[0]), format="rgb24").reformat(format=kind)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("case", "settings", "message"), [
    ("52 1000 a second.mp4", {"rate": 1000}, "1000 frames a second, outside the limits of 1 to 240"),
    ("52 one a minute.mp4", {"rate": Fraction(1, 60)}, "0.0166667 frames a second, outside the limits of 1 to 240"),
    ("53 8192 squared.avi", {"size": (8192, 8192), "codec": "mjpeg", "kind": "yuvj420p", "frames": 1},
     "8192x8192 px, above the limit of 16.8 megapixels"),
])
def test_video_that_is_refused(tmp_path, case, settings, message):
    path = clip(tmp_path / case.partition(" ")[2], **settings)
    for fps in (None, 25):
        with pytest.raises(InvalidVideoError) as error:
            read_video(path, fps=fps)
        assert str(error.value) == f"{path.name}: {message}"


def test_a_stream_that_is_missing(tmp_path, make_audio):
    """51."""
    with pytest.raises(InvalidVideoError, match="^a.wav: no video in this file$"):
        read_video(make_audio("a.wav"))
    with pytest.raises(InvalidInputError, match="^a.mp4: no audio in this file$"):
        load_soundtrack(clip(tmp_path / "a.mp4"))


@pytest.mark.parametrize(("name", "settings"), [
    ("10 bit.mp4", {"codec": "libx264", "kind": "yuv420p10le"}), ("odd.mkv", {"codec": "ffv1", "kind": "yuv444p", "size": (63, 47)}),
    ("alpha.mov", {"codec": "qtrle", "kind": "argb"}), ("wide pixels.mp4", {"aspect": 2}),
    ("interlaced.mpg", {"codec": "mpeg2video", "options": {"flags": "+ildct+ilme"}}), ("4:2:2.avi", {"codec": "mjpeg", "kind": "yuvj422p"}),
])
def test_odd_video_comes_out_plain(tmp_path, name, settings):
    """54; turned pictures are in test_video_time."""
    frames, fps = read_video(clip(tmp_path / name, **settings))
    width, height = settings.get("size", (64, 48))
    assert frames.shape == (3, height, width, 3) and np.abs(frames[0].astype(int) - picture(height, width)).mean() < 12
    with VideoWriter(tmp_path / "out.mp4", fps) as writer:
        for frame in frames:
            writer.write(frame)
    with av.open(str(tmp_path / "out.mp4")) as container:
        made = container.streams.video[0].codec_context
        assert (made.pix_fmt, made.width % 2, made.height % 2) == ("yuv420p", 0, 0)


TABLE = Path(__file__).parent.parent / "docs" / "results" / "bad_inputs.md"


@pytest.mark.skipif(not TABLE.exists(), reason="the source archive has no docs")
def test_the_table_names_every_case_and_tests_that_exist():
    rows = [line.split("|") for line in TABLE.read_text(encoding="utf-8").splitlines() if re.match(r"\| \d", line)]
    numbers = {int(number) for row in rows for number in re.match(r" (\d+(?:, \d+)*)", row[1])[1].split(", ")}
    assert numbers == set(range(1, 65))
    for file, name in {match for row in rows for match in re.findall(r"`(\w+)::(test_\w+)`", row[3])}:
        assert f"def {name}(" in Path(__file__).with_name(f"test_{file}.py").read_text(encoding="utf-8"), name
