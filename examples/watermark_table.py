"""What the watermark survives, next to those of the library `invisible-watermark`, if that is installed.

    python examples/watermark_table.py examples/media/portrait_*.jpg --unmarked 10000
    python examples/watermark_table.py --films FILM.mp4 ...

Each portrait speaks for two seconds; the video is marked, written as the pipelines write it, treated, encoded again (H.264, CRF 23 where
the row says nothing else) and read without the original: the share of right bits, mean and lowest over the portraits.  "similar" is the
PSNR between frames with and without the mark, before encoding, in the face's crop for ours, in the whole picture for theirs.
Films are dubbed instead, for two seconds, as `dub_to_file` writes them: the mark moves with the face.
`--unmarked N` reads N crops of pictures without a mark, wherever they fall, every tenth with the whole search, and prints the scores.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np

from temposync_pipeline import FaceError, TempoSyncPipeline
from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.media.image import load_image
from temposync_pipeline.media.planes import luma_of, to_planes
from temposync_pipeline.provenance.origin import Origin, model_identifier
from temposync_pipeline.provenance.reading import FOUND_SCORE, product_score, read_crop, read_watermark
from temposync_pipeline.provenance.watermark import PAYLOAD_BITS, MovingMark, evidence, luma_crop, payload_bits, watermark

MEDIA = Path(__file__).parent / "media"
SECONDS, FPS = 2, 25
Frames = list[np.ndarray]


def encode(path: Path, frames: Iterator[av.VideoFrame], crf: int = 23, fps: int = FPS, bitrate: int = 0) -> Path:
    with av.open(str(path), "w") as container:
        stream = None
        for number, frame in enumerate(frames):
            if stream is None:
                options = {"preset": "veryfast"} | ({} if bitrate else {"crf": str(crf)})
                stream = container.add_stream("libx264", rate=fps, options=options)
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
                if bitrate:
                    stream.bit_rate = bitrate
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decode(path: Path) -> Frames:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def scaled(frames: Frames, factor: float) -> Frames:
    height, width = (round(side * factor / 2) * 2 for side in frames[0].shape[:2])
    return [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in frames]


def cut(frames: Frames, share: float) -> Frames:
    """Without that share of the width and height, most of it from the top and the left."""
    (top, bottom), (left, right) = ((round(0.7 * share * side), round((1 - 0.3 * share) * side)) for side in frames[0].shape[:2])
    return [frame[top:bottom, left:right] for frame in frames]


def on_a_phone(frames: Frames) -> Frames:
    """Fitted into 480×848 with black bars."""
    frames = scaled(frames, min(480 / frames[0].shape[1], 848 / frames[0].shape[0]))
    top, left = (848 - frames[0].shape[0]) // 2, (480 - frames[0].shape[1]) // 2
    return [cv2.copyMakeBorder(frame, top, 848 - frame.shape[0] - top, left, 480 - frame.shape[1] - left, cv2.BORDER_CONSTANT)
            for frame in frames]


# What is done to the frames, and how they are encoded again.
TREATMENTS: dict[str, tuple[Callable[[Frames], Frames], dict]] = {
    "CRF 18": (lambda frames: frames, {"crf": 18}),
    "CRF 23": (lambda frames: frames, {}),
    "CRF 28": (lambda frames: frames, {"crf": 28}),
    "CRF 33": (lambda frames: frames, {"crf": 33}),
    "×0.5": (lambda frames: scaled(frames, 0.5), {}),
    "10 % cut off": (lambda frames: cut(frames, 0.1), {}),
    "20 % cut off": (lambda frames: cut(frames, 0.2), {}),
    "25→15 fps": (lambda frames: [frames[index * FPS // 15] for index in range(len(frames) * 15 // FPS)], {"fps": 15}),
    "phone, 700 kbit/s": (on_a_phone, {"bitrate": 700_000}),
}


class Ours:
    name = "this one"

    def __init__(self, pipeline: TempoSyncPipeline):
        self.pipeline = pipeline

    def mark(self, frames: Frames, origin, identifier: int) -> tuple[list[av.VideoFrame], float]:
        """The marked frames and the squared error in the crop."""
        levels = watermark(luma_of(origin.photo), origin.matrix, identifier)
        inside = cv2.warpAffine(np.ones((256, 256), np.uint8), origin.matrix, levels.shape[::-1], flags=cv2.WARP_INVERSE_MAP) > 0
        return [to_planes(frame, levels) for frame in frames], float(np.square(levels[inside].astype(float)).mean())

    def read(self, path: Path) -> np.ndarray:
        reading = read_watermark(path, self.pipeline.face_aligner)
        return np.zeros(PAYLOAD_BITS) if reading is None else reading.bits


class Theirs:
    """A method of `invisible-watermark`, on whole frames; all frames vote."""

    def __init__(self, name: str):
        from imwatermark import WatermarkDecoder, WatermarkEncoder

        self.name, self._encoder, self._decoder = name, WatermarkEncoder, WatermarkDecoder

    def mark(self, frames: Frames, origin, identifier: int) -> tuple[list[av.VideoFrame], float]:
        encoder = self._encoder()
        encoder.set_watermark("bits", (payload_bits(identifier) > 0).astype(int).tolist())
        marked = [encoder.encode(frame[..., ::-1].copy(), self.name)[..., ::-1] for frame in frames]
        error = np.mean([np.square(a.astype(float) - b).mean() for a, b in zip(marked, frames)])
        return [to_planes(np.ascontiguousarray(frame)) for frame in marked], float(error)

    def read(self, path: Path) -> np.ndarray:
        decoder = self._decoder("bits", PAYLOAD_BITS)
        votes = [np.asarray(decoder.decode(frame[..., ::-1].copy(), self.name), float) for frame in decode(path)[::5]]
        return np.mean(votes, 0) - 0.5


def measure(methods: list, portraits: list[Path], pipeline: TempoSyncPipeline, folder: Path) -> None:
    speech = load_audio(MEDIA / "speech_weather.wav").samples[16_000:(1 + SECONDS) * 16_000]
    right = {method.name: {row: [] for row in TREATMENTS} for method in methods}
    cost = {method.name: [] for method in methods}
    errors = {method.name: [] for method in methods}
    for number, portrait in enumerate(portraits):
        try:
            output = pipeline(portrait, (speech, 16_000))
        except FaceError as error:
            print(error)
            continue
        frames, identifier = [np.asarray(frame) for frame in output.frames], 0x9E3779B1 * (number + 1) % 2**32
        for method in methods:
            started = time.process_time()
            marked, error = method.mark(frames, output.origin, identifier)
            marking = time.process_time() - started
            started = time.process_time()
            for frame in frames:
                to_planes(frame)
            cost[method.name].append((marking - time.process_time() + started) / len(frames))
            errors[method.name].append(error)
            written = decode(encode(folder / "written.mp4", iter(marked), 18))
            for row, (treat, settings) in TREATMENTS.items():
                path = encode(folder / "treated.mp4", map(to_planes, treat(written)), **settings)
                right[method.name][row].append(((method.read(path) > 0) == (payload_bits(identifier) > 0)).mean())
        print(portrait.name, *(f"{row} {right[methods[0].name][row][-1]:.3f}" for row in TREATMENTS), sep=", ", flush=True)
    print("\n| |", " | ".join(method.name for method in methods), "|\n|---|" + "---|" * len(methods))
    for row in TREATMENTS:
        shares = [right[method.name][row] for method in methods]
        print(f"| {row} |", " | ".join(f"{np.mean(share):.3f} (lowest {np.min(share):.3f})" for share in shares), "|")
    print("| similar, dB |", " | ".join(f"{10 * np.log10(255**2 / np.mean(errors[method.name])):.1f}" for method in methods), "|")
    print("| ms a frame |", " | ".join(f"{1000 * np.mean(cost[method.name]):.1f}" for method in methods), "|")


class Weighed(MovingMark):
    """A mark that counts what it costs and changes; the latter in the face's crop."""

    def __init__(self, identifier: int):
        super().__init__(identifier)
        self.seconds, self.errors = 0.0, []

    def lay(self, luma: np.ndarray, matrix: np.ndarray, shot: int) -> None:
        before, started = luma.copy(), time.process_time()
        super().lay(luma, matrix, shot)
        self.seconds += time.process_time() - started
        inside = cv2.warpAffine(np.ones((256, 256), np.uint8), matrix, luma.shape[::-1], flags=cv2.WARP_INVERSE_MAP) > 0
        self.errors.append(float(np.square(luma[inside].astype(float) - before[inside]).mean()))


def measure_films(films: list[Path], pipeline: TempoSyncPipeline, folder: Path) -> None:
    """The same for films that are dubbed."""
    speech = load_audio(MEDIA / "speech_weather.wav").samples[16_000:(1 + SECONDS) * 16_000]
    right: dict[str, list[float]] = {row: [] for row in TREATMENTS}
    errors, cost = [], []
    for film in films:
        mark = Weighed(model_identifier(pipeline.model_name, pipeline.model_revision))
        Origin.moving_mark = lambda origin, mark=mark: mark
        pipeline.dub_to_file(film, (speech, 16_000), folder / "written.mp4", progress=False)
        written = decode(folder / "written.mp4")
        for row, (treat, settings) in TREATMENTS.items():
            path = encode(folder / "treated.mp4", map(to_planes, treat(written)), **settings)
            bits = Ours(pipeline).read(path)
            right[row].append(((bits > 0) == (payload_bits(mark.identifier) > 0)).mean())
        errors.append(np.mean(mark.errors))
        cost.append(mark.seconds / len(mark.errors))
        print(film.name, *(f"{row} {right[row][-1]:.3f}" for row in TREATMENTS), sep=", ", flush=True)
    print("\n| | films |\n|---|---|")
    for row, shares in right.items():
        print(f"| {row} | {np.mean(shares):.3f} (lowest {np.min(shares):.3f}) |")
    print(f"| similar, dB | {10 * np.log10(255**2 / np.mean(errors)):.1f} |\n| ms a frame | {1000 * np.mean(cost):.1f} |")


def unmarked_crops(pictures: list[np.ndarray], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Lumas [H, W] and ways to crops of any place, size and turn, most of them not around a face."""
    rng = np.random.default_rng(seed)
    while True:
        luma = pictures[rng.integers(len(pictures))]
        side, angle = rng.uniform(0.3, 1.0) * min(luma.shape), rng.uniform(-0.4, 0.4)
        turn = 256 / side * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = rng.uniform(side / 2, np.array(luma.shape[::-1]) - side / 2)
        yield luma, np.column_stack([turn, 128 - turn @ centre])


def report_unmarked(pictures: list[np.ndarray], count: int, seed: int) -> None:
    """Scores where the crops lie, which are to have mean 0 and deviation 1; and, of every tenth crop, the highest that a search finds."""
    placed, searched = [], []
    for luma, matrix in islice(unmarked_crops(pictures, seed), count):
        placed.append(product_score(evidence(luma_crop(luma, matrix))))
        if len(placed) % 10 == 0:
            searched.append(read_crop(luma, matrix).score)
        if len(placed) % 2000 == 0 or len(placed) == count:
            print(f"{len(placed)} crops without a mark: score {np.mean(placed):.3f} ± {np.std(placed):.3f}, highest {np.max(placed):.2f}; "
                  f"searched {len(searched)}: {np.mean(searched):.2f} ± {np.std(searched):.2f}, highest {np.max(searched):.2f}; "
                  f"a mark is found from {FOUND_SCORE} on", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("portraits", type=Path, nargs="*")
    parser.add_argument("--films", type=Path, nargs="+", default=[], help="dub these instead")
    parser.add_argument("--unmarked", type=int, default=0, metavar="N", help="read N crops without a mark instead")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.unmarked:
        pictures = [luma_of(load_image(path)) for path in arguments.portraits]
        report_unmarked(pictures, arguments.unmarked, arguments.seed)
        return
    pipeline = TempoSyncPipeline.from_pretrained("temposync-tiny")
    pipeline.set_progress_bar_config(disable=True)
    if arguments.films:
        with tempfile.TemporaryDirectory() as folder:
            measure_films(arguments.films, pipeline, Path(folder))
        return
    methods: list = [Ours(pipeline)]
    try:
        methods += [Theirs("dwtDct"), Theirs("dwtDctSvd")]
    except ImportError:
        print("invisible-watermark is not installed: its columns are left out")
    with tempfile.TemporaryDirectory() as folder:
        measure(methods, arguments.portraits, pipeline, Path(folder))


if __name__ == "__main__":
    main()
