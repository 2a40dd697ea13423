"""Everything that opens a media file: decode, resample, encode, mux."""

from .audio import Audio, load_audio
from .image import load_image
from .video import VideoWriter, read_video, stream_video

__all__ = ["Audio", "VideoWriter", "load_audio", "load_image", "read_video", "stream_video"]
