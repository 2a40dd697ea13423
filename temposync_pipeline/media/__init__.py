"""Everything that opens a media file: decode, resample, encode, mux."""

from .audio import Audio, load_audio
from .image import load_image
from .video import VideoWriter, load_soundtrack, read_video, stream_video

__all__ = ["Audio", "VideoWriter", "load_audio", "load_image", "load_soundtrack", "read_video", "stream_video"]
