"""Visitors who speak into the microphone: pieces of sound go in, pieces of video come out, and neither is kept."""

import io
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Lock

import numpy as np

from ..errors import InvalidInputError
from ..limits import PAGE_MAX_LIVE_PIECE_SECONDS as MAX_PIECE_SECONDS
from ..limits import PAGE_MAX_LIVE_VISITORS as MOST_VISITORS
from ..limits import PAGE_MAX_SECONDS as MAX_SECONDS
from ..media.live_video import LiveVideoWriter
from ..media.planes import StillPlanes
from ..media.sound_stream import to_mono
from ..pipelines.live import LiveSession

# The page's side of it.
MICROPHONE = Path(__file__).with_name("microphone.js").read_text(encoding="utf-8")
# Who has sent nothing for so long has left without a word: pages send every tenth of a second, silence too.
PATIENCE_SECONDS = 10.0


class Conversation:
    """What one visitor says into a `session`, as the fragmented mp4 that the portrait says it in, marked as AI-generated."""

    def __init__(self, session: LiveSession, max_seconds: float = MAX_SECONDS):
        self._session, self.max_seconds, self.seconds, self.num_frames = session, max_seconds, 0.0, 0
        self._planes = StillPlanes(session.photo, session.origin.watermark())
        self._video, self._open, self._busy = io.BytesIO(), ExitStack(), Lock()
        self._writer: LiveVideoWriter | None = None
        self.heard_at, self.has_ended = time.monotonic(), False

    def hear(self, samples: np.ndarray, rate: int) -> bytes:
        """The video that further sound, [n] at `rate` Hz, makes certain; at the limit of `max_seconds` the conversation ends by itself.

        Raises InvalidInputError for what is no sound, for more than `MAX_PIECE_SECONDS` of it, and while it still hears the last piece.
        """
        if not self._busy.acquire(blocking=False):
            raise InvalidInputError("one piece of sound at a time")
        try:
            sound = to_mono(samples, rate)
            if len(sound) > MAX_PIECE_SECONDS * rate:
                raise InvalidInputError(f"a piece of {len(sound) / rate:.1f} s, above the limit of {MAX_PIECE_SECONDS:g} s")
            self.heard_at = time.monotonic()
            sound = sound[:max(0, round((self.max_seconds - self.seconds) * rate))]
            self.seconds += len(sound) / rate
            writer = self._writer or self._begin(rate)
            writer.hear(sound)
            self._write(writer, sound, rate)
            if self.seconds >= self.max_seconds:
                self._finish()
            return self._taken()
        finally:
            self._busy.release()

    def end(self) -> bytes:
        """The rest of the video."""
        with self._busy:
            self._finish()
            return self._taken()

    def _begin(self, rate: int) -> LiveVideoWriter:
        height, width = self._session.photo.shape[:2]
        self._writer = self._open.enter_context(LiveVideoWriter(
            self._video, width, height, self._session.fps, rate, self._session.origin.tags()))
        return self._writer

    def _write(self, writer: LiveVideoWriter, sound: np.ndarray | None, rate: int = 0) -> None:
        """The frames that the sound, None = its end, determines."""
        for frame in self._session.flush() if sound is None else self._session.push(sound, rate):
            writer.write_planes(self._planes.with_change(*frame.patch))
            self.num_frames += 1

    def _finish(self) -> None:
        if not self.has_ended:
            self.has_ended = True
            if self._writer is not None:
                self._write(self._writer, None)
            self._open.close()

    def _taken(self) -> bytes:
        """What has been written since the last call."""
        data = self._video.getvalue()
        self._video.seek(0)
        self._video.truncate()
        return data


class Conversations:
    """Those under way, each known by a token that its visitor's page alone has, at most `most` at once; `say` is told how each ended."""

    def __init__(self, most: int = MOST_VISITORS, say: Callable[[Conversation], None] = lambda conversation: None):
        self.most, self._say, self._lock = most, say, Lock()
        self._by_token: dict[str, tuple[str, Conversation]] = {}

    def __len__(self) -> int:
        return len(self._by_token)

    def begin(self, visitor: str, session: Callable[[], LiveSession]) -> str:
        """The token of a new conversation of a visitor, whose last one ends.

        Raises InvalidInputError where `most` others speak, and what `session` raises.
        """
        self.leave(visitor)
        self._forget(lambda owner, conversation: time.monotonic() - conversation.heard_at > PATIENCE_SECONDS)
        self._check_room()
        conversation, token = Conversation(session()), secrets.token_urlsafe(16)
        with self._lock:
            self._check_room()
            self._by_token[token] = visitor, conversation
        return token

    def hear(self, token: str, samples: np.ndarray, rate: int) -> tuple[bytes, bool]:
        """(video, whether that was the last of it), see `Conversation.hear`.

        Raises InvalidInputError where there is no such conversation.
        """
        conversation = self._find(token)
        video = conversation.hear(samples, rate)
        if conversation.has_ended:
            self._forget(lambda owner, other: other is conversation)
        return video, conversation.has_ended

    def end(self, token: str) -> bytes:
        """The rest of a conversation's video."""
        conversation = self._find(token)
        video = conversation.end()
        self._forget(lambda owner, other: other is conversation)
        return video

    def leave(self, visitor: str) -> None:
        """What a visitor leaves behind is let go of."""
        self._forget(lambda owner, conversation: owner == visitor)

    def _check_room(self) -> None:
        if len(self) >= self.most:
            raise InvalidInputError(f"Somebody else is speaking: try again in a minute ({self.most} at a time)")

    def _find(self, token: str) -> Conversation:
        try:
            return self._by_token[token][1]
        except KeyError:
            raise InvalidInputError("the conversation has ended: begin another one") from None

    def _forget(self, whether: Callable[[str, Conversation], bool]) -> None:
        with self._lock:
            gone = [token for token, each in self._by_token.items() if whether(*each)]
            ended = [self._by_token.pop(token)[1] for token in gone]
        for conversation in ended:
            self._say(conversation)
