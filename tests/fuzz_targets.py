"""What `tests.fuzz` damages: a valid file of every format, as small as may be, and how the library reads it."""

import contextlib
import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import torch
from PIL import Image, ImageCms
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from temposync_pipeline.checkpoints.schema import check_component
from temposync_pipeline.commands.batch import read_job, read_table
from temposync_pipeline.data.manifest import read_manifest
from temposync_pipeline.errors import InvalidInputError
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.media.gif import is_gif, stream_gif
from temposync_pipeline.media.image import load_image
from temposync_pipeline.media.video import load_soundtrack, stream_video
from temposync_pipeline.models.identity_encoder import IdentityEncoder
from temposync_pipeline.models.viseme_classifier import VisemeClassifier
from temposync_pipeline.pipelines.auto import pipeline_class
from temposync_pipeline.pipelines.latent_video import LatentVideo
from temposync_pipeline.pipelines.loading import _read_index, load_component
from temposync_pipeline.pipelines.lora import add_lora, save_lora
from temposync_pipeline.pipelines.pipeline_temposync import TempoSyncPipeline
from temposync_pipeline.provenance.verify import read_comment
from temposync_pipeline.schedulers.scheduling_temposync import TempoSyncScheduler
from temposync_pipeline.training.autoencoder import Config
from temposync_pipeline.training.settings import build_config, read_settings

from .conftest import make_sounds, tone
from .fuzz import Target
from .tiny_components import picture, tiny_denoiser, tiny_pipeline

WEIGHTS = "diffusion_pytorch_model.safetensors"
SOUNDS = {"a.wav": {}, "f.wav": {"codec": "pcm_f32le", "rate": 44_100, "layout": "stereo"}, "law.wav": {"codec": "pcm_alaw", "rate": 8_000},
          "adpcm.wav": {"codec": "adpcm_ima_wav"}, "a.flac": {}, "a.mp3": {"rate": 44_100}, "a.m4a": {"rate": 44_100},
          "a.aac": {"rate": 44_100}, "a.ogg": {"rate": 48_000}, "a.opus": {"rate": 48_000, "layout": "stereo"}, "a.wma": {"rate": 44_100},
          "a.ac3": {"rate": 48_000}, "a.au": {}, "a.tta": {}, "a.wv": {}}
VIDEOS = {"a.mp4": "libx264", "a.mov": "mpeg4", "a.mkv": "libx264", "a.webm": "libvpx-vp9", "a.avi": "mpeg4", "a.mpg": "mpeg1video",
          "a.flv": "flv1"}


def make_targets() -> dict[str, Target]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        pipeline = tiny_pipeline()
        pipeline.denoiser = tiny_denoiser(layers_per_block=(0, 0))
        pipeline.identity_encoder = IdentityEncoder(latent_channels=2, channels=(8,), identity_channels=4)
        pipeline.save_pretrained(folder / "model")
        encoder = {name: (folder / "model" / "identity_encoder" / name).read_bytes() for name in ("config.json", WEIGHTS)}
        return {
            "audio": Target(read_audio, sounds(folder), 4),
            "picture": Target(load_image, pictures(), 4),
            "video": Target(read_video, videos(folder)),
            "config": Target(read_config(encoder), configs(folder / "model", encoder["config.json"]), 4),
            "weights": Target(read_weights(encoder), {WEIGHTS: encoder[WEIGHTS]}),
            "adapter": Target(read_adapter(pipeline), {"a.safetensors": adapter(folder)}),
            "latents": Target(read_latents, {"a.safetensors": latents(folder)}, 2),
        }


# --- readers ----------------------------------------------------------------------------------------------------------


def read_audio(path: Path) -> None:
    samples = load_audio(path).samples
    assert np.isfinite(samples).all() and np.abs(samples).max() <= 1


def read_video(path: Path) -> None:
    read_comment(path)
    if is_gif(path):
        for frame in stream_gif(path, 25):
            assert frame.dtype == np.uint8 and frame.ndim == 3
    for fps in (25, None):
        frames, _ = stream_video(path, max_frames=6, fps=fps)
        for frame in frames:
            assert frame.dtype == np.uint8 and frame.ndim == 3
    if not is_gif(path):
        load_soundtrack(path)


def read_weights(companions: dict[str, bytes]) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        with TemporaryDirectory(dir=path.parent) as folder:
            for name, content in companions.items():
                Path(folder, name).write_bytes(content)
            path.rename(Path(folder, path.name))
            model = load_component(IdentityEncoder, Path(folder), "checkpoint")
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values())

    return read


def read_config(companions: dict[str, bytes]) -> Callable[[Path], None]:
    """By the file's name."""

    def read(path: Path) -> None:
        if path.name == "config.json":
            read_weights(companions)(path)
        elif path.name == "model_index.json":
            pipeline_class(path.parent)
            _read_index(TempoSyncPipeline, path.parent, "checkpoint")
        elif path.name == "scheduler_config.json":
            load_component(TempoSyncScheduler, path.parent, "checkpoint").set_timesteps(4)
        elif path.name == "visemes.json":
            path = path.rename(path.with_name("config.json"))
            try:
                check_component(VisemeClassifier, path.parent)
            finally:
                path.unlink()
        elif path.suffix == ".yaml":
            build_config(Config, read_settings(path, []))
        elif path.suffix == ".jsonl":
            read_manifest(path)
        else:
            for line, row in read_table(path):
                with contextlib.suppress(InvalidInputError):  # names the output as the table has it
                    read_job(line, row, path.parent, Path("videos"), {})

    return read


def read_adapter(pipeline: TempoSyncPipeline) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        pipeline.load_lora_weights(path)
        pipeline.unload_lora_weights()

    return read


def read_latents(path: Path) -> None:
    sound = path.with_name("sound")
    sound.write_bytes(LatentVideo.load(path).audio)
    try:
        load_audio(sound)
    finally:
        sound.unlink()


# --- files ------------------------------------------------------------------------------------------------------------


def sounds(folder: Path) -> dict[str, bytes]:
    make = make_sounds(folder, tone)
    files = {name: make(name, seconds=0.15, **settings).read_bytes() for name, settings in SOUNDS.items()}
    speech = 20 * (bytes([0x3C]) + bytes(range(7, 38)))
    return files | {"a.amr": b"#!AMR\n" + speech + bytes([0x44, 1, 2, 3, 4, 5]) + b"\x7c\x7c" + speech}


def pictures() -> dict[str, bytes]:
    image, files = Image.fromarray(picture(40, 36)), {}
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, mode, options in (
        ("a.png", "RGB", {"icc_profile": profile}), ("p.png", "P", {}), ("la.png", "LA", {}), ("16.png", "I;16", {}),
        ("a.jpg", "RGB", {"exif": exif}), ("c.jpg", "CMYK", {}), ("p.jpg", "RGB", {"progressive": True}), ("a.webp", "RGBA", {}),
        ("l.webp", "RGB", {"lossless": True}), ("a.bmp", "RGB", {}), ("a.tif", "RGB", {"compression": "tiff_lzw", "exif": exif}),
        ("j.tif", "RGB", {"compression": "jpeg"}), ("a.gif", "P", {}), ("a.avif", "RGB", {"exif": exif}),
    ):
        file = io.BytesIO()
        converted = image.convert("L").convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
        converted.save(file, Image.registered_extensions()[Path(name).suffix], **options)
        files[name] = file.getvalue()
    return files


def videos(folder: Path) -> dict[str, bytes]:
    first, *others = (Image.fromarray(np.roll(picture(32, 48), 4 * number, axis=1)).quantize(16) for number in range(3))
    first.save(folder / "a.gif", save_all=True, append_images=others, duration=40, comment=b"AI-generated")
    return {name: video(folder / name, codec) for name, codec in VIDEOS.items()} | {"a.gif": (folder / "a.gif").read_bytes()}


def video(path: Path, codec: str) -> bytes:
    """Six frames of 48 × 32 px and their sound."""
    sound = {".webm": "libopus", ".mpg": "mp2"}.get(path.suffix, "aac" if path.suffix != ".avi" else "pcm_s16le")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        speech = container.add_stream(sound, rate=48_000, layout="mono")
        for number in range(6):
            frame = av.VideoFrame.from_ndarray(np.roll(picture(32, 48), 4 * number, axis=1), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        frame = av.AudioFrame.from_ndarray(tone(0.24, 48_000)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, 0
        resampler = av.AudioResampler(speech.format.name, "mono", 48_000, frame_size=speech.codec_context.frame_size or 1024)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(speech.encode(piece))
        container.mux(speech.encode(None))
    return path.read_bytes()


def configs(model: Path, encoder: bytes) -> dict[str, bytes]:
    clip = json.dumps({"id": "a/1", "talker": "a", "split": "train", "video": "a.mp4", "landmarks": "a.npz", "offset": 2})
    return {
        "config.json": encoder, "model_index.json": (model / "model_index.json").read_bytes(),
        "scheduler_config.json": (model / "scheduler" / "scheduler_config.json").read_bytes(),
        "visemes.json": (model / "viseme_classifier" / "config.json").read_bytes(),
        "settings.yaml": b"learning_rate: 1e-3\nbatch_size: 4\nmax_minutes: 2\nsources: {portraits: 1, talkers: 2.5}\n",
        "jobs.csv": b"image,audio,output,steps,seed,max_size\na.png,a.wav,1.mp4,4,7,\nb.png,b.wav,sub/2.mp4,,,640\n",
        "clips.jsonl": f"{clip}\n{clip.replace('a/1', 'a/2')}\n".encode()}


def adapter(folder: Path) -> bytes:
    """Of one layer, so that its settings are damaged as often as its tensors."""
    denoiser = tiny_denoiser(layers_per_block=(0, 0))
    add_lora(denoiser, rank=2)
    save_lora(denoiser, folder)
    path = folder / "pytorch_lora_weights.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({name: tensor for name, tensor in load_file(path).items() if "identity_embedding" in name}, path, metadata)
    return path.read_bytes()


def latents(folder: Path) -> bytes:
    video = LatentVideo(
        latents=torch.randn(2, 32, 10, 12), portrait_latents=torch.randn(1, 32, 16, 16), matrix=np.float32([[1, 0, 3], [0, 1, 4]]),
        visemes=np.full((2, 15), 1 / 15, np.float32), photo=picture(40, 36), audio=(tone(0.15, 16_000), 16_000), fps=25, chunk_size=2,
        model="tiny", autoencoder="0" * 64)
    video.save(folder / "a.safetensors")
    return (folder / "a.safetensors").read_bytes()
