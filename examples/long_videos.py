"""Does a long video keep its person?  A portrait speaks for longer and longer; its last second is compared with its first.

    python examples/long_videos.py --model MODEL --frames 121,241,505,1017 [--portrait PICTURE --audio SPEECH]

The recording is repeated as often as needed.  Prints, for each number of frames: the similarity to the portrait (proxy CSIM, 1 = the same)
in the first and the last second, how far the mean colour of the face has moved between them (levels), how far the head (crop pixels), and
the jump where clips join (1 = none).
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from temposync_pipeline.media.audio import load_audio
from temposync_pipeline.media.image import load_image
from temposync_pipeline.metrics.crop_video import PortraitCrop, VideoMaker
from temposync_pipeline.metrics.identity import proxy_csim
from temposync_pipeline.metrics.whole_face import head_places, in_first_crop, seam
from temposync_pipeline.pipelines.auto import load_pipeline

MEDIA = Path(__file__).parent / "media"
SECOND = 25
FACE = np.s_[:, 60:220, 60:196]


def figures(maker: VideoMaker, portrait: PortraitCrop, voice: np.ndarray, frames: int, steps: int) -> list[float]:
    video = maker.student(portrait, (np.resize(voice, frames * 16_000 // SECOND), 16_000), steps)
    crops = video.crops if video.moving is None else video.moving
    ends = [slice(0, SECOND), slice(len(crops) - SECOND, None)]
    similarity = [proxy_csim(maker.identity_encoder, maker.pipe.vae, video.crops[end], portrait.crop) for end in ends]
    colours = [crops[end][FACE].mean((0, 1, 2)) for end in ends]
    places = head_places(in_first_crop(maker.pipe.face_aligner.track(crops)))
    moved = np.hypot(*(places[ends[1]].mean(0) - places[ends[0]].mean(0))[:2])
    jump = None if video.joints is None else seam(crops, video.joints)
    return [len(crops), *similarity, float(np.abs(colours[1] - colours[0]).max()), float(moved), float("nan") if jump is None else jump]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint: a bundled name, a directory, or org/name")
    parser.add_argument("--portrait", type=Path, default=MEDIA / "portrait_man.jpg")
    parser.add_argument("--audio", type=Path, default=MEDIA / "speech_weather.wav")
    parser.add_argument("--frames", default="121,241,505,1017")
    parser.add_argument("--steps", type=int, default=None, help="default: the model's own")
    arguments = parser.parse_args()
    pipe = load_pipeline(arguments.model)
    pipe.set_progress_bar_config(disable=True)
    maker, voice = VideoMaker(pipe), load_audio(arguments.audio).samples
    print("frames  CSIM first   last  colour  place   seam")
    with torch.inference_mode():
        portrait = maker.portrait(load_image(arguments.portrait))
        for frames in map(int, arguments.frames.split(",")):
            values = figures(maker, portrait, voice, frames, arguments.steps or pipe.default_steps)
            print("{:6d} {:11.3f} {:6.3f} {:7.2f} {:6.2f} {:6.2f}".format(*values), flush=True)


if __name__ == "__main__":
    main()
