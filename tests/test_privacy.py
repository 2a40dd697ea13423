"""What a photo and a recording tell beside picture and sound gets into no output, and nothing stays behind; test_app looks at the log."""

import json
import os
import struct
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from temposync_pipeline import cli
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.pipelines.latent_video import LatentVideo
from temposync_pipeline.pipelines.pipeline_temposync import TempoSyncPipeline

from .tiny_components import picture, spoken, tiny_pipeline

pytestmark = pytest.mark.makes_videos

CANARY = "Canary-4711"
SECONDS = 1_234_567  # of arc, ten thousandths: where the photo was taken


def canary_photo(path: Path) -> Path:
    """Camera, photographer, time and place in EXIF, the same in XMP, a comment, a note of the maker's, and a thumbnail's worth of bytes."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x013B], exif[0x8298] = (f"{CANARY} {what}" for what in ("make", "model", "artist", "copyright"))
    exif.get_ifd(0x8769).update({0x9003: f"{CANARY} 2026", 0x927C: CANARY.encode() * 20, 0xA431: f"{CANARY} serial"})
    exif.get_ifd(0x8825).update({1: "N", 2: (Fraction(52), Fraction(31), Fraction(SECONDS, 10_000)), 29: f"{CANARY} 2026"})
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a>{CANARY}</a></x:xmpmeta>'.encode()
    options = {"exif": exif, "xmp": xmp, "comment": CANARY, "quality": 95}
    if path.suffix == ".png":
        notes = PngImagePlugin.PngInfo()
        notes.add_itxt("XML:com.adobe.xmp", CANARY)
        notes.add_text("Author", CANARY)
        options = {"exif": exif, "pnginfo": notes}
    Image.fromarray(picture(96, 80)).save(path, **options)
    return path


def canary_recording(path: Path) -> Path:
    """Title, place and device, as a telephone writes them, and a cover picture's worth of bytes."""
    samples, rate = spoken(0.4, 44_100)
    with av.open(str(path), "w") as container:
        container.metadata.update(dict.fromkeys(("title", "artist", "comment", "location", "make", "model"), CANARY))
        stream = container.add_stream({".m4a": "aac", ".mp3": "libmp3lame", ".flac": "flac", ".wav": "pcm_s16le"}[path.suffix], rate=rate,
                                      layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(stream.format.name, "mono", rate, frame_size=stream.codec_context.frame_size or 1024)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


def tells(content: bytes) -> bool:
    traces = [CANARY.encode(encoding) for encoding in ("utf-8", "utf-16-le", "utf-16-be")]
    return any(trace in content for trace in (*traces, struct.pack("<I", SECONDS), struct.pack(">I", SECONDS)))


@pytest.mark.parametrize("photo", ["a.jpg", "a.png", "a.webp", "a.tif"])
@pytest.mark.parametrize("sound", ["a.m4a", "a.mp3", "a.flac", "a.wav"])
def test_the_canaries_sing(tmp_path, photo, sound):
    """40: what is looked for below is there to be found."""
    for path in (canary_photo(tmp_path / photo), canary_recording(tmp_path / sound)):
        assert tells(path.read_bytes())


@pytest.mark.parametrize(("photo", "sound"), [("a.jpg", "a.m4a"), ("a.png", "a.wav"), ("a.webp", "a.mp3"), ("a.tif", "a.flac")])
def test_no_output_tells(tmp_path, monkeypatch, photo, sound):
    """40: videos, GIFs, latents and what is made of them, and reports; and nothing else is left behind."""
    inputs, outputs, scratch = (tmp_path / name for name in ("inputs", "outputs", "scratch"))
    for folder in (inputs, outputs, scratch):
        folder.mkdir()
    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda name, **_: tiny_pipeline())
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.chdir(scratch)
    image, audio = canary_photo(inputs / photo), canary_recording(inputs / sound)
    commands = [
        ["generate", "--image", image, "--audio", audio, "--steps", 1, "--output", outputs / "a.mp4", "--json", outputs / "a.json"],
        ["generate", "--image", image, "--audio", audio, "--steps", 1, "--output", outputs / "a.safetensors"],
        ["decode", "--latents", outputs / "a.safetensors", "--output", outputs / "decoded.mp4"],
        ["visemes", "--audio", audio, "--json", outputs / "visemes.json"],
    ]
    for command in commands:
        with pytest.raises(SystemExit) as end:
            cli.main([str(each) for each in command])
        assert not end.value.code
    output = tiny_pipeline()(image, audio, 1)
    output.save(outputs / "a.gif")
    output.frames[0].save(outputs / "frame.png")
    output.frames[0].save(outputs / "frame.jpg")
    made = sorted(path.name for path in outputs.iterdir())
    assert made == ["a.gif", "a.json", "a.mp4", "a.safetensors", "decoded.mp4", "frame.jpg", "frame.png", "visemes.json"]
    assert not [path.name for path in outputs.iterdir() if tells(path.read_bytes())]
    assert sorted(path.name for path in inputs.iterdir()) == sorted([photo, sound]) and not os.listdir(scratch)
    photo_in_latents = LatentVideo.load(outputs / "a.safetensors").photo
    assert photo_in_latents.shape == (96, 80, 3)
    with av.open(str(outputs / "a.mp4")) as container:
        assert not {"location", "make", "model", "title", "artist"} & set(container.metadata)
    assert set(json.loads((outputs / "a.json").read_text())) == {"output", "wall_seconds", "frames", "fps", "seconds"}


@pytest.mark.parametrize("sound", ["a.wav", "a.m4a"])
def test_latents_keep_every_sample(tmp_path, sound):
    """Without the file's tags, but with its sound."""
    path = canary_recording(tmp_path / sound)
    tiny_pipeline()(picture(96, 80), path, 1, output_type="latent").save_latents(tmp_path / "a.safetensors")
    kept = tmp_path / "kept.wav"
    kept.write_bytes(LatentVideo.load(tmp_path / "a.safetensors").audio)
    assert np.array_equal(load_audio(kept).samples, load_audio(path).samples) and load_audio(kept).source_rate == 44_100
    if sound == "a.wav":
        assert kept.stat().st_size < path.stat().st_size


@pytest.mark.torch_only("each is imported in a process of its own")
@pytest.mark.parametrize("library, code", [
    ("onnxruntime", "sessions.load_onnxruntime()"),
    ("openvino", "sessions.load_openvino().convert_model(torch.export.export(torch.nn.Linear(2, 2).eval(), (torch.ones(1, 2),)))")])
def test_runtimes_tell_nobody_that_they_are_used(tmp_path, library, code):
    """Both number their users in the home folder before they send anything."""
    pytest.importorskip(library)
    environment = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    subprocess.run([sys.executable, "-c", f"import torch; from temposync_pipeline.export import sessions; {code}"], check=True,
                   env=environment | {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
