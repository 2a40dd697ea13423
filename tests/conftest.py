"""Media made on the spot: the tests need no file from elsewhere."""

import os
import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest

from temposync_pipeline.export import installed_runtimes

# Begun last, one of these would keep a single core busy for minutes.
LONG = ("test_export.py", "test_app_browser.py", "test_asym_training.py", "test_fuzz.py", "test_evaluate.py", "test_bundled_checkpoint.py",
        "test_offloading.py", "test_faults.py", "test_from_clips.py", "test_read_training.py", "test_voice_stage.py", "test_live.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runtime", default="torch", choices=installed_runtimes(),
                     help="What computes the networks (TEMPOSYNC_RUNTIME); others than torch run the tests of how videos are made.")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "makes_videos: to be run with every runtime")
    config.addinivalue_line("markers", "torch_only(why): though it makes videos")
    os.environ["TEMPOSYNC_RUNTIME"] = config.getoption("--runtime")  # also of commands, which would compare those that are installed


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files that take long first, longest first; the others in their order."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
    if config.getoption("--runtime") != "torch":
        others = {item for item in items if not item.get_closest_marker("makes_videos") or item.get_closest_marker("torch_only")}
        config.hook.pytest_deselected(items=list(others))
        items[:] = [item for item in items if item not in others]


@pytest.fixture(autouse=True, scope="session")
def own_cache(request, tmp_path_factory) -> Iterator[None]:
    """Test certificates are not kept among the user's own, nor compiled networks, which processes share."""
    compiles = request.config.getoption("--runtime") != "torch" and "PYTEST_XDIST_WORKER" in os.environ
    folder = tmp_path_factory.getbasetemp().parent / "cache" if compiles else tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPOSYNC_CACHE", str(folder))
        yield


@pytest.fixture(scope="session")
def rendered() -> Iterator[list[str]]:
    """Grows with every call by which a pipeline of this process makes frames of a video."""
    if find_spec("torch") is None:
        yield []
        return
    from temposync_pipeline.pipelines import rendering

    made: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for kind in (rendering.ColourRenderer, rendering.MotionRenderer, rendering.FaceRenderer):
            def decode(*arguments, own=kind.decode, **options):
                made.append(own.__qualname__)
                return own(*arguments, **options)

            patch.setattr(kind, "decode", decode)
        yield made


@pytest.fixture(autouse=True)
def none_is_left_out(request, rendered) -> Iterator[None]:
    """A test for which frames are made, by its fixtures too, is run with every runtime, or says why not."""
    yield
    made = set(rendered)
    rendered.clear()
    assert not made or any(map(request.node.get_closest_marker, ("makes_videos", "torch_only"))), (
        f"{made} made frames: mark it makes_videos, or torch_only with the reason")


CODECS = {
    ".wav": "pcm_s16le", ".flac": "flac", ".mp3": "libmp3lame", ".m4a": "aac", ".aac": "aac", ".ogg": "libopus", ".opus": "libopus",
    ".wma": "wmav2", ".ac3": "ac3", ".au": "pcm_s16be", ".tta": "tta", ".wv": "wavpack",
}


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    """A sine of amplitude 0.5, float32 [N]."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def make_sounds(folder: Path, sound: Callable[[float, int], np.ndarray]) -> Callable[..., Path]:
    """Writes what `sound` gives for (seconds, rate in Hz): make("a.flac", seconds=1, rate=44100, layout="stereo")."""
    def make(name: str, seconds: float = 1.0, rate: int = 16_000, layout: str = "mono", codec: str | None = None) -> Path:
        path = folder / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec or CODECS[path.suffix], rate=rate, layout=layout)
            stream.bit_rate = 128_000
            channels = stream.layout.nb_channels
            samples = np.ascontiguousarray(np.broadcast_to(sound(seconds, rate), (channels, round(seconds * rate))))
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, 0
            resampler = av.AudioResampler(stream.format.name, layout, rate, frame_size=stream.codec_context.frame_size or 1024)
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(stream.encode(piece))
            container.mux(stream.encode(None))
        return path

    return make


@pytest.fixture
def make_audio(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tone: make_audio("a.flac", seconds=1, rate=44100, layout="stereo")."""
    return make_sounds(tmp_path, tone)


@pytest.fixture
def make_speech(tmp_path: Path) -> Callable[..., Path]:
    """The same with a voice: without one lips rest, and a line says so."""
    from .tiny_components import spoken  # here: it needs torch

    return make_sounds(tmp_path, lambda seconds, rate: spoken(seconds, rate)[0])


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth colourful picture, uint8 [63, 95, 3] (odd sides)."""
    y, x = np.mgrid[:63, :95]
    return np.stack([x * 2, y * 3, 255 - x - y], -1).astype(np.uint8)


def hear_interrupts() -> None:
    """For Popen's `preexec_fn`: a shell's background jobs, and all that they start, would ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def command_line(capsys):
    """The command with given arguments: (exit code, lines of stdout, lines of stderr)."""
    from temposync_pipeline import cli  # not above: some tests run where there is no torch

    def command(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out.splitlines(), printed.err.splitlines()

    return command


@pytest.fixture
def temposync(monkeypatch, command_line, pipeline):
    """`command_line` with the test's own `pipeline` for a checkpoint."""
    from temposync_pipeline import TempoSyncPipeline

    monkeypatch.setattr(TempoSyncPipeline, "from_pretrained", lambda name, **_: pipeline)
    return command_line
