"""What a user can get wrong.  A message names the file (never its folder), the limit and the value found."""


class InvalidInputError(ValueError):
    """A file or a value that cannot be used; the message is meant for the user as it is."""


class Terminated(BaseException):
    """SIGTERM, raised where a command's work stands, so that no half-written file stays behind."""


class InvalidAudioError(InvalidInputError):
    """Not audio, or audio outside the limits of `media.audio`."""


class InvalidImageError(InvalidInputError):
    """Not a picture of a known format, or one outside the limits of `media.image`."""


class InvalidVideoError(InvalidInputError):
    """Not a video, or one outside the limits of `media.video`."""


class FaceError(InvalidInputError):
    """A picture in which no usable face was found."""
