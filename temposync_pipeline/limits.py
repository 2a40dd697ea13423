"""How large an input may be: every limit, in one place.

Each may be set by an environment variable of its name, read once, at the first import: `TEMPOSYNC_MAX_SECONDS=1800 temposync generate …`
takes recordings of half an hour.  A larger limit costs memory and time, which is what the limits are for; what exceeds one is refused
with `InvalidInputError`, in a sentence that names the limit and the value found.
"""

import math
import os
from contextlib import suppress
from typing import TypeVar

from .errors import InvalidInputError

Number = TypeVar("Number", int, float)
PREFIX = "TEMPOSYNC_"
# What stands for no limit: more than any machine has of anything, and sums and products of two still fit where libraries count.
_ENDLESS = 10**12


def limit(name: str, default: Number) -> Number:
    """The number in the variable `TEMPOSYNC_<name>`, at most `_ENDLESS`, else `default`; raises InvalidInputError for anything but a
    positive number."""
    text = os.environ.get(PREFIX + name, "")
    if not text:
        return default
    with suppress(ValueError):
        value = type(default)(text)
        if 0 < value < math.inf:
            return min(value, type(default)(_ENDLESS))
    raise InvalidInputError(f"{PREFIX}{name}={text}: expected a {'whole ' * isinstance(default, int)}number above 0")


def megapixels(pixels: int) -> str:
    """As messages say it, with three digits or all before the point: "0.05 megapixels", "4225 megapixels"."""
    return f"{pixels / 10**6:.{0 if pixels >= 10**8 else 3}{'f' if pixels >= 10**8 else 'g'}} megapixels"


# Recordings. A header may claim 1 Hz, which resampling would blow up 16,000-fold, or 65,535 channels.
MIN_SECONDS = limit("MIN_SECONDS", 0.1)
MAX_SECONDS = limit("MAX_SECONDS", 900.0)
MIN_RATE = limit("MIN_RATE", 4_000)  # Hz
MAX_RATE = limit("MAX_RATE", 768_000)
MAX_CHANNELS = limit("MAX_CHANNELS", 64)
# Files of sound or video, of which the search for WAV headers reads all, and what is read of an .npz.
MAX_MEDIA_BYTES = limit("MAX_MEDIA_BYTES", 4 * 2**30)

# Pictures.
MIN_SIDE = limit("MIN_SIDE", 32)  # px
MAX_PIXELS = limit("MAX_PIXELS", 40_000_000)
MAX_PICTURE_BYTES = limit("MAX_PICTURE_BYTES", 200 * 2**20)
MAX_PROFILE_BYTES = limit("MAX_PROFILE_BYTES", 8 * 2**20)  # of colours: printing presses have the largest, 0.5 to 3 MB are usual
MAX_FACES = limit("MAX_FACES", 16)  # looked at in each pass over a picture

# Video. A broken time stamp can claim that one frame stays for years.
MAX_FRAME_PIXELS = limit("MAX_FRAME_PIXELS", 4096 * 4096)
MIN_FPS = limit("MIN_FPS", 1)
MAX_FPS = limit("MAX_FPS", 240)
MAX_STILL_SECONDS = limit("MAX_STILL_SECONDS", 120)
MAX_FRAMES = limit("MAX_FRAMES", 216_000)  # two hours of 30 a second

# Checkpoints, adapters and files of latents. The format itself allows headers of 100 MB.
MAX_HEADER_BYTES = limit("MAX_HEADER_BYTES", 5_000_000)
MAX_CONFIG_BYTES = limit("MAX_CONFIG_BYTES", 1_000_000)
# Tables of `batch`, manifests, lists of sentences: what is text, and read as a whole.
MAX_TABLE_BYTES = limit("MAX_TABLE_BYTES", 64 * 2**20)
MAX_TABLE_LINES = limit("MAX_TABLE_LINES", 200_000)
# Each layer or block that a config.json asks for takes time to build, whether there are weights for it or not.
MAX_LAYERS = limit("MAX_LAYERS", 256)
# Pixels a side of the pictures that a face aligner's config.json wants to look at, and of the faces that it looks for.
MAX_SEEN_SIDE = limit("MAX_SEEN_SIDE", 2048)
# What an adapter adds to a layer, as a multiple of the layer's own weights (root mean square); trained ones stay below 1.
MAX_ADAPTER_CHANGE = limit("MAX_ADAPTER_CHANGE", 100.0)
MAX_WEIGHT = limit("MAX_WEIGHT", 1_000_000.0)  # or latent of a file; those of the bundled checkpoint stay below 10
# The crop's pixels, 256 a side, to one of the photo: from a crop of 256,000 pixels a side to one of 3.
MIN_STRETCH = limit("MIN_STRETCH", 0.001)
MAX_STRETCH = limit("MAX_STRETCH", 100.0)
MAX_CHUNK_FRAMES = limit("MAX_CHUNK_FRAMES", 1024)  # decoded at once

# What a visitor of the page may ask for.
PAGE_MAX_SECONDS = limit("PAGE_MAX_SECONDS", 60.0)
PAGE_MAX_UPLOAD_MB = limit("PAGE_MAX_UPLOAD_MB", 20)
PAGE_MAX_SIZE = limit("PAGE_MAX_SIZE", 1920)  # longer side of the video, px: at full size a photo keeps everybody else waiting
PAGE_MAX_FACES = limit("PAGE_MAX_FACES", 8)  # to choose from, the largest
PAGE_MAX_LIVE_SIZE = limit("PAGE_MAX_LIVE_SIZE", 512)  # the same of a video that is made while one speaks
PAGE_MAX_LIVE_PIECE_SECONDS = limit("PAGE_MAX_LIVE_PIECE_SECONDS", 2.0)  # of sound at once; a browser sends 0.1 s
PAGE_MAX_LIVE_VISITORS = limit("PAGE_MAX_LIVE_VISITORS", 1)  # who speak at once: one takes most of two CPU cores
PAGE_MAX_WAITING = limit("PAGE_MAX_WAITING", 16)  # visitors whose video is waited for or made
PAGE_MIN_FREE_BYTES = limit("PAGE_MIN_FREE_BYTES", 200 * 2**20)  # on the disk, or no video is begun
