"""The app without a browser: what it does, and its endpoints as programs call them, with tiny models."""

import itertools
import logging
import os
import re
import socket
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import av
import gradio as gr
import httpx
import numpy as np
import pytest
from gradio.route_utils import delete_files_created_by_app
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import app
from temposync_pipeline.app import studio as studio_module
from temposync_pipeline.app.answers import plain_errors
from temposync_pipeline.app.memory import UNREAD_SECONDS, Housekeeping
from temposync_pipeline.app.status import draw_status
from temposync_pipeline.app.studio import STAGES, Progress, Studio
from temposync_pipeline.app.timeline import draw_timeline
from temposync_pipeline.errors import FaceError, InvalidAudioError, InvalidInputError
from temposync_pipeline.media.video import VideoWriter
from temposync_pipeline.pipelines.preview import LABEL_COLOUR

from .tiny_components import picture, template_face, tiny_pipeline

pytestmark = [pytest.mark.filterwarnings("ignore::Warning:gradio"), pytest.mark.makes_videos]


@pytest.fixture(scope="module")
def studio():
    return Studio(tiny_pipeline())


@pytest.fixture
def portrait(tmp_path):
    Image.fromarray(picture(96, 80)).save(tmp_path / "portrait.png")
    return str(tmp_path / "portrait.png")


def test_preview_dims_what_stays_still(studio, portrait, tmp_path):
    preview = studio.preview(portrait)
    crop = preview.crop
    assert preview.num_faces == 1 and preview.overview is None
    assert crop.shape == (256, 256, 3) and crop.dtype == np.uint8
    Image.fromarray(np.full((96, 80, 3), 90, np.uint8)).save(tmp_path / "wall.png")
    with pytest.raises(FaceError, match="No face found"):
        studio.preview(tmp_path / "wall.png")


@pytest.fixture
def couple(tmp_path, studio, monkeypatch):
    """A picture, dark on its right, in which two faces are found, the second, smaller one in the dark half."""
    def two_faces(photo):
        first, = template_face(photo)
        return [first, replace(first, landmarks=first.landmarks * 0.5 + [photo.shape[1] / 2, 0])]

    monkeypatch.setattr(studio.pipeline.face_aligner, "detect", two_faces)
    photo = picture(160, 320)
    photo[:, 160:] //= 4
    Image.fromarray(photo).save(tmp_path / "couple.png")
    return str(tmp_path / "couple.png")


def test_faces_are_numbered_and_can_be_chosen(studio, couple, client, make_audio):
    found = studio.preview(couple)
    assert found.num_faces == 2 and found.overview.shape == (320, 640, 3)
    framed = (found.overview == LABEL_COLOUR).all(-1)
    assert framed[:, :320].any() and framed[:, 320:].any()
    second = studio.preview(couple, face_index=1)
    assert second.crop.mean() < 0.6 * found.crop.mean()
    with pytest.raises(FaceError, match="face_index 2 asked for, but the picture has 2"):
        studio.preview(couple, face_index=2)
    shown = np.asarray(Image.open(client.predict(handle_file(couple), 1, api_name="/preview")).convert("RGB"))
    assert abs(shown.mean() - second.crop.mean()) < 2
    speech = handle_file(str(make_audio("a.wav", seconds=0.2)))
    for index in (0, 1):
        assert client.predict(handle_file(couple), speech, True, 1, 0, 1.0, index, api_name="/generate")[1]["frames"] == 5
    with pytest.raises(AppError, match="face_index 2 asked for"):
        client.predict(handle_file(couple), speech, True, 1, 0, 1.0, 2, api_name="/generate")


def test_limits_stand_where_one_uploads(server):
    labels = " ".join(str(getattr(block, "label", "")) for block in server[2].blocks.values())
    assert "up to 40 megapixels and 20 MB" in labels and "up to 60 seconds and 20 MB" in labels
    assert app.LAUNCH["max_file_size"] == "20mb"


def test_a_large_photo_is_shrunk(studio, make_audio, tmp_path):
    Image.fromarray(picture(1200, 2400)).save(tmp_path / "large.png")
    for max_size, size in ((None, (1920, 960)), (480, (480, 240))):
        chosen = {} if max_size is None else {"max_size": max_size}
        list(studio.generate(tmp_path / "large.png", make_audio("a.wav", seconds=0.2), tmp_path / "out.mp4", 1, **chosen))
        with av.open(str(tmp_path / "out.mp4")) as container:
            assert (container.streams.video[0].width, container.streams.video[0].height) == size


def test_generate_reports_every_stage(studio, portrait, make_audio, tmp_path):
    reports = list(studio.generate(portrait, make_audio("a.wav", seconds=0.8), tmp_path / "out.mp4", num_inference_steps=1))
    assert list(dict.fromkeys(report.stage for report in reports)) == list(STAGES)
    assert [report.frames for report in reports] == [0, 0, 0, 0, 8, 16, 20, 20] and reports[-1].finished
    assert list(reports[-1].seconds) == list(STAGES) and all(seconds > 0 for seconds in reports[-1].seconds.values())
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.metadata["comment"].startswith("AI-generated")
        assert container.streams.video[0].frames == 20


def test_closing_the_generator_leaves_nothing(studio, portrait, make_audio, tmp_path):
    audio, folder = make_audio("a.wav", seconds=2), tmp_path / "folder"
    folder.mkdir()
    reports = studio.generate(portrait, audio, folder / "out.mp4", num_inference_steps=1)
    while next(reports).frames == 0:
        pass
    assert os.listdir(folder)  # begun under a hidden name
    reports.close()
    assert not os.listdir(folder)


@pytest.mark.parametrize(("settings", "message"), [
    ({"num_inference_steps": 9}, "steps: 9, outside the limits of 1 to 8"), ({"num_inference_steps": 0}, "steps: 0"),
    ({"seed": -1}, "seed: -1"), ({"face_index": 8}, "face_index: 8, outside the limits of 0 to 7"),
    ({"max_size": 0}, "max_size: 0, outside the limits of 320 to 1920"), ({"life": 3}, "life: 3, outside the limits of 0 to 2"),
    ({"mouth_amplitude": 2.5}, "mouth amplitude: 2.5"), ({"mouth_amplitude": float("nan")}, "mouth amplitude: nan"),
])
def test_limits(studio, portrait, make_audio, tmp_path, settings, message):
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        list(studio.generate(portrait, make_audio("a.wav"), tmp_path / "out.mp4", **settings))


def test_a_long_recording_and_a_full_disk(studio, portrait, make_audio, tmp_path, monkeypatch):
    audio = make_audio("a.wav", seconds=2)
    monkeypatch.setattr(studio_module, "MAX_SECONDS", 1.5)
    for work in (studio.visemes, lambda path: list(studio.generate(portrait, path, tmp_path / "out.mp4"))):
        with pytest.raises(InvalidAudioError, match="a.wav: longer than the limit of 1.5 s"):
            work(audio)
    monkeypatch.setattr(studio_module, "MIN_FREE_BYTES", 2**60)
    with pytest.raises(OSError, match="free"):
        next(studio.generate(portrait, audio, tmp_path / "out.mp4"))


def test_timeline_covers_the_recording():
    probabilities = np.eye(15, dtype=np.float32)[[0, 0, 0, 10, 10, 1, 1, 1, 0, 0]]
    drawing = ElementTree.fromstring(draw_timeline(probabilities, np.sin(np.arange(6400) / 30).astype(np.float32), 25))
    space = "{http://www.w3.org/2000/svg}"
    bands = drawing.findall(f"{space}g/{space}rect")
    assert [(band.get("x"), band.get("width")) for band in bands] == [
        ("0.00%", "30.00%"), ("30.00%", "20.00%"), ("50.00%", "30.00%"), ("80.00%", "20.00%")]
    titles = [title.text for title in drawing.iter(f"{space}title")]
    assert titles == ["sil  0.00–0.12 s", "aa  0.12–0.20 s", "PP  0.20–0.32 s", "sil  0.32–0.40 s"]
    draw_timeline(probabilities[:1], np.zeros(3, np.float32), 25)  # very short, and silent


def test_status_moves():
    assert 'width: 0%' in draw_status(Progress("visemes"), 25) and "Listening" in draw_status(Progress("visemes"), 25)
    assert "Moving the lips: 30 of 120 frames" in draw_status(Progress("frames", 30, 120), 25)
    assert 'width: 25%' in draw_status(Progress("frames", 30, 120), 25)
    done = Progress("video", 120, 120, dict.fromkeys(STAGES, 0.5), finished=True)
    assert "4.8 s of video in 2.0 s" in draw_status(done, 25) and "finding the face 0.5 s" in draw_status(done, 25)


@pytest.fixture(scope="module")
def server(studio, tmp_path_factory):
    """(address, folder of temporary files, page)"""
    folder = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "gradio"))
        patch.setattr(tempfile, "tempdir", str(folder))
        page = app.build(studio)
        _, address, _ = page.launch(**app.LAUNCH, prevent_thread_lock=True, quiet=True, inbrowser=False)
        yield address, folder, page
        page.close()


@pytest.fixture
def client(server, tmp_path):
    return Client(server[0], verbose=False, download_files=str(tmp_path / "downloads"), analytics_enabled=False)


def test_endpoints(client, portrait, make_audio, server):
    speech = handle_file(str(make_audio("a.wav", seconds=0.8)))
    crop = client.predict(handle_file(portrait), api_name="/preview")
    assert Image.open(crop).size == (256, 256)
    numbers, drawing = client.predict(speech, api_name="/visemes")
    assert np.array(numbers["probabilities"]).shape == (20, 15) and numbers["fps"] == 25 and drawing.count("<svg") == 2
    video, timings, _ = client.predict(handle_file(portrait), speech, True, api_name="/generate")
    with av.open(video) as container:
        assert container.streams.video[0].frames == 20 and container.streams.video[0].codec_context.name == "h264"
    assert timings["frames"] == 20 and timings["duration"] == 0.8 and timings["total_seconds"] > 0
    left = [path for path in server[1].rglob("*") if path.is_file() and "gradio" not in path.parts]
    assert left == []


@pytest.fixture
def film(tmp_path):
    with VideoWriter(tmp_path / "film.mp4", 30) as writer:
        for _ in range(6):
            writer.write(picture(96, 128))
    return str(tmp_path / "film.mp4")


@pytest.fixture
def steady_face(studio, monkeypatch):
    monkeypatch.setattr(studio.pipeline.face_aligner, "read_again", lambda frame, pose: template_face(frame)[0])


def test_a_video_is_dubbed(client, film, make_audio, server, steady_face):
    speech = handle_file(str(make_audio("a.wav", seconds=0.4)))
    video, timings, status = client.predict(handle_file(film), speech, True, "loop", api_name="/dub")
    with av.open(video) as container:
        assert container.streams.video[0].frames == 12 and container.streams.video[0].average_rate == 30
        assert (container.streams.video[0].width, container.streams.video[0].height) == (128, 96) and len(container.streams.audio) == 1
    assert timings["frames"] == 12 and timings["duration"] == pytest.approx(0.4) and "0.4 s of video" in status
    left = [path for path in server[1].rglob("*") if path.is_file() and "gradio" not in path.parts]
    assert left == []


def test_mistakes_in_dubbing_become_one_sentence(client, film, make_audio, tmp_path, monkeypatch):
    speech = handle_file(str(make_audio("a.wav", seconds=0.4)))
    (tmp_path / "text.mp4").write_text("no video")
    for arguments, message in (
        ((handle_file(film), speech, False), "Confirm first"), ((None, speech, True), "Choose a video first."),
        ((handle_file(film), None, True), "Choose a recording first."),
        ((handle_file(str(tmp_path / "text.mp4")), speech, True), "text.mp4: not an audio or video file"),
    ):
        with pytest.raises(AppError) as error:
            client.predict(*arguments, api_name="/dub")
        assert message in str(error.value)
    monkeypatch.setattr(studio_module, "MAX_SIZE", 100)
    monkeypatch.setattr(studio_module, "MIN_SIZE", 50)
    with pytest.raises(AppError, match="film.mp4: 128×96 px, above the limit of 100"):
        client.predict(handle_file(film), speech, True, api_name="/dub")


def test_dubbing_reports_every_stage_and_stops_without_a_trace(studio, film, make_audio, tmp_path, steady_face):
    audio, folder = make_audio("a.wav", seconds=2), tmp_path / "folder"
    folder.mkdir()
    reports = studio.dub(film, audio, folder / "out.mp4", num_inference_steps=1)
    stages = []
    while not (report := next(reports)).frames:
        stages.append(report.stage)
    assert list(dict.fromkeys(stages)) == ["visemes", "portrait", "frames"] and (report.frames, report.total) == (8, 60)
    assert os.listdir(folder)
    reports.close()
    assert not os.listdir(folder)
    with pytest.raises(InvalidInputError, match="end must be one of"):
        list(studio.dub(film, audio, folder / "out.mp4", 1, end="rewind"))


def test_endpoint_names_stay(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    names = {name: [parameter["parameter_name"] for parameter in endpoint["parameters"]] for name, endpoint in endpoints.items()}
    assert names == {
        "/preview": ["portrait", "face_index"], "/visemes": ["recording"],
        "/generate": ["portrait", "recording", "consent", "steps", "seed", "amplitude", "face_index", "max_size", "life"],
        "/dub": ["film", "recording", "consent", "end", "face_index", "steps", "seed", "amplitude"]}


def test_mistakes_become_one_sentence(client, portrait, make_audio, tmp_path, server):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "<b>text.wav").write_text("no sound")
    speech = make_audio("a.wav", seconds=0.4)
    cases = [
        (("/preview", handle_file(str(tmp_path / "text.png"))), "text.png: not a readable PNG, JPEG, WebP, BMP, TIFF, GIF or AVIF picture"),
        (("/visemes", handle_file(str(tmp_path / "<b>text.wav"))), "not an audio or video file"),
        (("/generate", handle_file(portrait), handle_file(str(speech)), False), "Confirm first"),
        (("/generate", handle_file(portrait), handle_file(str(speech)), None), "Confirm first"),
        (("/generate", None, handle_file(str(speech)), True), "Choose a portrait first."),
        (("/generate", handle_file(portrait), None, True), "Choose a recording first."),
        (("/generate", handle_file(portrait), handle_file(str(speech)), True, 8, 2**40), "Value"),
    ]
    for (name, *values), message in cases:
        with pytest.raises(AppError) as error:
            client.predict(*values, api_name=name)
        assert message in str(error.value), (name, str(error.value))
        assert "Traceback" not in str(error.value) and str(server[1]) not in str(error.value) and "<b>" not in str(error.value)


def call(address: str, name: str, *values) -> str:
    """The answer of an endpoint to a plain HTTP client, or why it gives none."""
    posted = httpx.post(f"{address}gradio_api/call{name}", json={"data": values}, timeout=60)
    if posted.status_code != 200:
        return f"{posted.status_code} {posted.text}"
    return httpx.get(f"{address}gradio_api/call{name}/{posted.json()['event_id']}", timeout=120).text


@pytest.mark.parametrize(("name", "settings", "message"), [
    ("/generate", [True, 99], "greater than maximum value 8"), ("/generate", [True, 0], "less than minimum value 1"),
    ("/generate", [True, "many"], "not those that this endpoint takes"), ("/generate", [True, 4, None], "seed must be a whole number"),
    ("/generate", [True, 4, 0, 1, "<b>"], "&lt;b&gt;"), ("/generate", [True, 10**300], "not those that this endpoint takes"),
    ("/generate", [True, 4, 0, 1, 0, 512, True], "life: True, outside the limits of 0 to 2"),
    ("/dub", [True, "never"], "not in the list of choices"),
])
def test_values_out_of_range_are_one_line_of_the_log(server, portrait, make_audio, capfd, caplog, name, settings, message):
    inputs = [uploaded(server[0], path) for path in (portrait, make_audio("a.wav", seconds=0.2))]
    missing = call(server[0], name, *inputs[:1])
    assert "not those that this endpoint takes" in missing
    usual = [True, 4, 0, 1, 0, 512, 0] if name == "/generate" else [True, "loop", 0, 4, 0, 1]
    assert message in call(server[0], name, *inputs, *settings, *usual[len(settings):])
    assert "Traceback" not in capfd.readouterr().err + caplog.text
    assert len(caplog.records) <= 3  # and a line on the video that was not made


def uploaded(address: str, path: str | Path) -> dict:
    with open(path, "rb") as file:
        names = httpx.post(f"{address}gradio_api/upload", files={"files": file}, timeout=60).json()
    return {"path": names[0], "meta": {"_type": "gradio.FileData"}}


def test_an_upload_that_was_cleaned_away(server):
    gone = {"path": str(server[1] / "gradio" / "gone.png"), "orig_name": "gone.png", "meta": {"_type": "gradio.FileData"}}
    answer = call(server[0], "/preview", gone, 0)
    assert "no longer on the server" in answer and str(server[1]) not in answer


def test_no_address_is_asked_and_no_file_of_the_machine_is_handed_out(server, portrait, tmp_path):
    """Neither where a file is expected nor where files are fetched; what lies beside a visitor's upload is not listed either."""
    secret = tmp_path / "secret.png"
    Image.open(portrait).save(secret)
    own = uploaded(server[0], portrait)
    assert "event: complete" in call(server[0], "/preview", own, 0)
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        url = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/a.png"
        for path in (url, str(secret), f"file://{secret}", f"{own['path']}/../../../{secret.name}", str(Path(app.__file__)), "/etc/passwd"):
            for given in (own | {"path": path}, own | {"path": path, "url": url}, path):
                assert "event: error" in call(server[0], "/preview", given, 0), given
        assert "event: complete" in call(server[0], "/preview", own | {"url": url}, 0)  # the upload, not what it says of itself
        folder = Path(own["path"]).parent
        for path in (url, secret, Path(app.__file__), "/etc/passwd", folder, folder.parent, f"{folder}/../../secret.png"):
            assert httpx.get(f"{server[0]}gradio_api/file={path}", timeout=60).status_code in (403, 404), path
        assert httpx.get(f"{server[0]}gradio_api/proxy={url}", timeout=60).status_code == 400
        elsewhere.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody called
            elsewhere.accept()


@pytest.mark.parametrize("name", ["generate", "dub", "visemes", "preview"])
def test_nobody_passes_the_queue_by(server, portrait, name):
    """Where nothing waits, nothing ends either: a video that was begun so kept its folder."""
    answer = httpx.post(f"{server[0]}gradio_api/run/{name}", json={"data": [uploaded(server[0], portrait), None]}, timeout=60)
    assert answer.status_code == 404 and "join the queue" in answer.text
    assert not list(server[1].glob("tmp*"))


@pytest.mark.parametrize("path", ["process_recording", "deep_link?session_hash=a", "custom_component/a%0aline/client/b/c"])
def test_what_the_page_does_without_is_closed(server, path, film, capfd):
    for answer in (httpx.get(f"{server[0]}gradio_api/{path}"),
                   httpx.post(f"{server[0]}gradio_api/{path}", files={"video": Path(film).read_bytes()})):
        assert answer.status_code == 404 and answer.json() == {"detail": "Not Found"}
    assert not (server[1] / "gradio" / "deep_links").exists() and "line" not in capfd.readouterr().out


@pytest.mark.parametrize("number", [None, 99, "a"])
def test_an_example_that_is_none_is_told(server, capfd, caplog, number):
    index, = (index for index, function in server[2].fns.items() if getattr(function.fn, "__name__", "") == "load_example")
    for path in ("run/predict", "queue/join"):
        answer = httpx.post(f"{server[0]}gradio_api/{path}", json={"data": [number], "fn_index": index, "session_hash": f"example{number}"})
        if path == "queue/join":
            answer = httpx.get(f"{server[0]}gradio_api/queue/data", params={"session_hash": f"example{number}"}, timeout=60)
        assert "not those that this endpoint takes" in answer.text
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_nobody_is_told_how_much_the_page_is_used(server):
    assert {httpx.get(f"{server[0]}{path}").status_code for path in ("monitoring", "monitoring/summary")} == {403}


@pytest.mark.parametrize(("path", "sent"), [
    ("call/nothing", {"data": []}), ("call/v2/generate", {"x": 1}), ("call/v2/nothing", {}), ("run/nothing", {"data": []}),
    ("queue/join", {"data": [], "fn_index": 999, "session_hash": "a"}),
    ("component_server", {"data": [], "component_id": 10**9, "fn_name": "hear", "session_hash": "a"}),
])
def test_a_request_that_no_endpoint_takes_is_one_line_of_the_log(server, path, sent, capfd, caplog):
    answer = httpx.post(f"{server[0]}gradio_api/{path}", json=sent)
    assert answer.status_code == 400 and answer.json() == {"detail": "No endpoint here takes this request."}
    assert "Traceback" not in capfd.readouterr().err + caplog.text
    assert [record.getMessage().split(":")[0] for record in caplog.records if record.name == "temposync.app"] == ["a request was refused"]


def test_the_pages_own_functions_are_no_endpoints(server, capfd):
    own = [index for index, function in server[2].fns.items() if function.fn is None]
    for index in own:
        httpx.post(f"{server[0]}gradio_api/queue/join", json={"data": [], "fn_index": index, "session_hash": f"own{index}"})
        answer = httpx.get(f"{server[0]}gradio_api/queue/data", params={"session_hash": f"own{index}"}, timeout=60).text
        assert "not those that this endpoint takes" in answer
    assert own and "Traceback" not in capfd.readouterr().err


def test_one_visitor_makes_two_videos_at_once(server, portrait, film, make_audio, steady_face):
    """By /generate and /dub: one waits for the other, and both are there at the end."""
    speech = uploaded(server[0], make_audio("a.wav", seconds=2))
    names = {function.api_name: index for index, function in server[2].fns.items()}
    for name, values in (("generate", [uploaded(server[0], portrait), speech, True, 1, 0, 1, 0, 512, 0]),
                         ("dub", [uploaded(server[0], film), speech, True, "loop", 0, 1, 0, 1])):
        posted = {"data": values, "fn_index": names[name], "session_hash": "both"}
        assert httpx.post(f"{server[0]}gradio_api/queue/join", json=posted).status_code == 200
    told = httpx.get(f"{server[0]}gradio_api/queue/data", params={"session_hash": "both"}, timeout=120).text
    ends = [line for line in told.splitlines() if '"process_completed"' in line]
    assert len(ends) == 2 and all("ai-generated.mp4" in line for line in ends), ends
    begun = [line.split('"event_id":"')[1][:32] for line in told.splitlines() if '"process_generating"' in line]
    assert [event for event, _ in itertools.groupby(begun)] == list(dict.fromkeys(begun))


def test_uploads_that_break_off_are_removed(server):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nhalf of it'
    httpx.post(f"{server[0]}gradio_api/upload", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    left = list((server[1] / "gradio").glob("tmp*"))
    assert left
    Housekeeping(server[2]).sweep()
    assert all(path.exists() for path in left)  # it may still be under way
    for path in left:
        os.utime(path, (0, 0))
    Housekeeping(server[2]).sweep()
    assert not any(path.exists() for path in left)


def test_the_log_holds_no_name(monkeypatch, capsys):
    """Neither in what the library says of a file, nor in what an error says of it."""
    root, library = logging.getLogger(), logging.getLogger("temposync_pipeline")
    monkeypatch.setattr(library, "propagate", True)
    monkeypatch.setattr(library, "handlers", [])
    monkeypatch.setattr(root, "handlers", [logging.StreamHandler()])
    app.set_up_log()
    logging.getLogger("temposync_pipeline.media.audio").warning("%s: truncated", "anna.wav")
    for error in (RuntimeError("anna.wav"), OSError(5, "Input/output error", "/uploads/anna.wav")):
        with pytest.raises(gr.Error) as shown, plain_errors():
            raise error
        assert "anna" not in str(shown.value)
    log = capsys.readouterr().err
    assert "RuntimeError at" in log and "OSError at" in log and "in plain_errors" in log and "anna" not in log


def test_a_fault_of_the_server_is_logged_and_not_shown(studio, client, portrait, monkeypatch, caplog):
    monkeypatch.setattr(studio, "preview", lambda *_: 1 / 0)
    with caplog.at_level(logging.ERROR), pytest.raises(AppError, match="Something went wrong on the server."):
        client.predict(handle_file(portrait), api_name="/preview")
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("visitors", [12, 24])
def test_a_crowd_is_served_or_told_to_wait(server, portrait, make_audio, visitors):
    inputs, together = [uploaded(server[0], path) for path in (portrait, make_audio("a.wav", seconds=0.2))], threading.Barrier(visitors)

    def visit(number: int) -> str:
        together.wait(60)
        return call(server[0], "/generate", *inputs, True, 1, number, 1.0, 0, 1920, 0.0)

    with ThreadPoolExecutor(visitors) as pool:
        answers = list(pool.map(visit, range(visitors)))
    served = sum("event: complete" in answer and "ai-generated.mp4" in answer for answer in answers)
    refused = [answer for answer in answers if "queue is full" in answer.lower()]
    assert served + len(refused) == visitors and served >= min(visitors, 16), [answer[:200] for answer in answers]


def test_cancelled_work_stops(server, client, portrait, make_audio, caplog):
    with caplog.at_level(logging.INFO, "temposync.app"):
        job = client.submit(handle_file(portrait), handle_file(str(make_audio("a.wav", seconds=50))), True, 8, api_name="/generate")
        next(iter(job))
        job.cancel()
        client.predict(handle_file(portrait), handle_file(str(make_audio("b.wav", seconds=0.4))), True, api_name="/generate")
    told = [record.message for record in caplog.records if record.name == "temposync.app"]
    assert all(re.fullmatch(r"[0-9a-f]{8}: \d+ of \d+ frames, [\d.]+ s", line) for line in told)  # sizes and durations only
    frames = [re.search(r"(\d+) of (\d+) frames", line) for line in told]
    assert int(frames[0][1]) < 1250 and frames[-1][0] == "10 of 10 frames"
    assert not list(server[1].glob("tmp*"))


def test_examples_outlive_the_cleaning(server):
    page = server[2]
    cached = [Path(file) for block in page.blocks.values() for file in block.keep_in_cache]
    delete_files_created_by_app(page, age=-1)
    assert len(cached) >= 3 and all(file.is_file() for file in cached)


def test_the_page_asks_nobody_else(server):
    """No font, script or counter from elsewhere: the app works without a network."""
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False" and server[2].analytics_enabled is False


def test_visits_that_ended_are_forgotten(client, server, portrait, make_audio, monkeypatch):
    page = server[2]
    keeper, queue = Housekeeping(page), page._queue
    speech = handle_file(str(make_audio("a.wav", seconds=0.2)))
    client.predict(handle_file(portrait), speech, True, 1, 0, 1.0, api_name="/generate")
    posted = httpx.post(f"{server[0]}gradio_api/call/visemes", json={"data": [None]}).json()["event_id"]  # whose answer nobody fetches
    deadline = time.monotonic() + 30
    while queue.event_ids_to_events and time.monotonic() < deadline:
        time.sleep(0.05)
    page.temp_file_sets[0].add("/no/longer/there")
    keeper.sweep(1000.0)
    keeper.sweep(1000.0 + UNREAD_SECONDS - 1)
    assert posted in queue.pending_messages_per_session and "/no/longer/there" not in page.temp_file_sets[0]
    keeper.sweep(1000.0 + UNREAD_SECONDS)
    assert not queue.pending_messages_per_session and not queue.pending_event_ids_session
    assert client.predict(handle_file(portrait), speech, True, 1, 0, 1.0, api_name="/generate")[1]["frames"] == 5
