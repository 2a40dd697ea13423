"""Visitors who speak into the microphone, without a browser: pieces of sound in, pieces of video out."""

import base64
import io
import threading
import time

import av
import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import app
from temposync_pipeline.app import conversation as conversation_module
from temposync_pipeline.app.conversation import MAX_PIECE_SECONDS, Conversation, Conversations
from temposync_pipeline.app.studio import Studio
from temposync_pipeline.errors import FaceError, InvalidInputError
from temposync_pipeline.media.planes import to_planes

from .tiny_components import picture, spoken, tiny_pipeline

pytestmark = pytest.mark.makes_videos

PHOTO = picture(96, 80)
SPEECH, RATE = spoken(1.2)
PIECE = RATE // 10


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


def session(pipeline):
    return pipeline.session(PHOTO, generator=torch.Generator().manual_seed(7))


def decoded(data: bytes) -> tuple[np.ndarray, int]:
    """Luma uint8 [T, H, W] and how many samples of sound."""
    pictures, samples = [], 0
    with av.open(io.BytesIO(data)) as container:
        assert container.metadata["comment"].startswith("AI-generated")
        for frame in container.decode():
            if isinstance(frame, av.VideoFrame):
                pictures.append(frame.to_ndarray()[:frame.height])
            else:
                samples += frame.samples
    return np.stack(pictures), samples


def test_sound_becomes_a_video_piece_by_piece(pipeline):
    talk = Conversation(session(pipeline))
    pieces = [talk.hear(SPEECH[start:start + PIECE], RATE) for start in range(0, len(SPEECH), PIECE)]
    assert sum(map(bool, pieces)) > 5 and not talk.has_ended
    frames, samples = decoded(b"".join(pieces) + talk.end())
    assert len(frames) == talk.num_frames == 30 and samples == pytest.approx(len(SPEECH), abs=2048) and talk.has_ended
    live = session(pipeline)
    plain = live.push(SPEECH, RATE) + live.flush()
    wanted = np.stack([to_planes(frame.picture).to_ndarray()[:96] for frame in plain])
    assert np.abs(frames.astype(int) - wanted).mean() < 4
    assert talk.end() == b""


def test_a_conversation_has_its_limits(pipeline):
    talk = Conversation(session(pipeline), max_seconds=0.5)
    for samples, message in ((np.zeros(int(MAX_PIECE_SECONDS * RATE) + 1, np.int16), "a piece of 2.0 s, above the limit of 2 s"),
                             (np.zeros((2, 2, 2)), "expected numbers")):
        with pytest.raises(InvalidInputError, match=message):
            talk.hear(samples, RATE)
    data = talk.hear(SPEECH[:int(0.8 * RATE)], RATE)
    assert talk.has_ended and talk.seconds == pytest.approx(0.5) and len(decoded(data)[0]) in (12, 13)


def test_two_pieces_at_once_are_refused(pipeline):
    talk, inside, go = Conversation(session(pipeline)), threading.Event(), threading.Event()

    def slow(sound, rate):
        inside.set()
        go.wait(10)
        return []

    talk._session.push = slow
    first = threading.Thread(target=talk.hear, args=(SPEECH[:PIECE], RATE))
    first.start()
    assert inside.wait(10)
    with pytest.raises(InvalidInputError, match="one piece of sound at a time"):
        talk.hear(SPEECH[:PIECE], RATE)
    go.set()
    first.join(10)


def test_visitors_take_turns_and_are_forgotten_when_they_leave(pipeline, monkeypatch):
    told = []
    talks = Conversations(most=1, say=told.append)
    first = talks.begin("anna", lambda: session(pipeline))
    with pytest.raises(InvalidInputError, match="Somebody else is speaking"):
        talks.begin("ben", lambda: session(pipeline))
    second = talks.begin("anna", lambda: session(pipeline))  # once more: her last one ends
    with pytest.raises(InvalidInputError, match="the conversation has ended"):
        talks.hear(first, SPEECH[:PIECE], RATE)
    video, has_ended = talks.hear(second, SPEECH[:PIECE], RATE)
    assert not has_ended and isinstance(video, bytes)
    talks.leave("ben")
    assert len(talks) == 1
    talks.leave("anna")
    assert len(talks) == 0 and len(told) == 2
    third = talks.begin("anna", lambda: session(pipeline))
    later = time.monotonic() + 11
    monkeypatch.setattr(conversation_module.time, "monotonic", lambda: later)
    assert talks.begin("ben", lambda: session(pipeline)) != third  # anna has sent nothing for long
    assert len(talks) == 1


def test_what_goes_wrong_at_the_beginning_takes_no_place(pipeline):
    talks = Conversations(most=1)
    with pytest.raises(FaceError):
        talks.begin("anna", lambda: pipeline.session(np.full((96, 80, 3), 90, np.uint8)))
    assert talks.begin("ben", lambda: session(pipeline))


@pytest.fixture(scope="module")
def page(pipeline):
    """(address, configuration, the page) with the live tab."""
    page = app.build(Studio(pipeline))
    _, address, _ = page.launch(**app.LAUNCH, prevent_thread_lock=True, quiet=True, inbrowser=False)
    yield address, page.config, page
    page.close()


@pytest.fixture
def ask(page):
    """ask("hear", …): what the page's script does, as a visitor."""
    address, config, _ = page
    stage = next(component["id"] for component in config["components"] if component["props"].get("elem_id") == "live")

    def post(name, data):
        body = {"component_id": stage, "fn_name": name, "session_hash": "anna", "data": data}
        answer = httpx.post(f"{address}gradio_api/component_server/", json=body, timeout=60)
        assert answer.status_code == 200
        return answer.json()

    return post


def begun(page, portrait):
    """The token of a conversation that the button begins."""
    address, config, _ = page
    path = httpx.post(f"{address}gradio_api/upload", files={"files": open(portrait, "rb")}, timeout=60).json()[0]
    begin = next(each["id"] for each in config["dependencies"] if each["targets"] and each["api_name"] == "begin")
    joined = httpx.post(f"{address}gradio_api/queue/join", timeout=60, json={
        "fn_index": begin, "session_hash": "anna", "data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, True, 1.0, 0, 0.0]})
    assert joined.status_code == 200
    with httpx.stream("GET", f"{address}gradio_api/queue/data?session_hash=anna", timeout=60) as lines:
        done = next(line for line in lines.iter_lines() if "process_completed" in line)
    return done.split('"data":["')[1].split('"')[0]


def sample_text(samples):
    return base64.b64encode((32767 * samples).astype("<i2").tobytes()).decode()


def test_the_pages_script_is_served(page, ask, tmp_path):
    Image.fromarray(PHOTO).save(tmp_path / "portrait.png")
    token, video = begun(page, tmp_path / "portrait.png"), b""
    for start in range(0, len(SPEECH), PIECE):
        answer = ask("hear", {"token": token, "rate": RATE, "samples": sample_text(SPEECH[start:start + PIECE])})
        assert answer["ended"] is None
        video += base64.b64decode(answer["video"])
    video += base64.b64decode(ask("finish", {"token": token})["video"])
    assert len(decoded(video)[0]) == 30
    assert "the conversation has ended" in ask("hear", {"token": token, "rate": RATE, "samples": ""})["error"]
    assert ask("finish", {"token": token}) == {}


@pytest.mark.parametrize("piece", [
    {}, None, [], {"token": "x"}, {"token": "x", "rate": RATE, "samples": "???"}, {"token": "x", "rate": RATE, "samples": "AAA="},
    {"token": ["x"], "rate": RATE, "samples": ""}, {"token": "x", "rate": "fast", "samples": ""},
])
def test_nonsense_gets_one_sentence(ask, piece):
    answer = ask("hear", piece)
    assert set(answer) == {"error"} and "Traceback" not in answer["error"]
    assert ask("finish", piece) == {}
