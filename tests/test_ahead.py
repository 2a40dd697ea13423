"""Stages of a video at work at the same time: in order, bounded, and without a thread left behind."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import pytest
import torch

from temposync_pipeline.pipelines import talking_head_base, to_file
from temposync_pipeline.pipelines.ahead import ahead, beside, threads_to_share
from temposync_pipeline.pipelines.rendering import ColourRenderer

from .tiny_components import picture, spoken, tiny_pipeline

pytestmark = pytest.mark.makes_videos


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("temposync")]


def wait_for(made: list, count: int) -> None:
    """Until so many items are made; none may follow."""
    deadline = time.monotonic() + 20
    while len(made) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(0.002)
    assert len(made) == count


@pytest.fixture
def pipeline():
    return tiny_pipeline()


@pytest.mark.parametrize("count", [1, 3])
def test_items_keep_their_order_and_no_more_are_made_than_asked(count):
    made = []

    def numbers():
        for number in range(20):
            made.append(number)
            yield number

    taken = ahead(numbers(), count)
    assert not made and not workers()  # nothing begins before it is asked for
    for number in range(20):
        assert next(taken) == number
        wait_for(made, min(20, number + 1 + count))
    assert list(taken) == [] and not workers()


def test_both_work_at_the_same_time():
    began = threading.Event()

    def items():
        yield 1
        began.set()
        yield 2

    taken = ahead(items())
    assert next(taken) == 1 and began.wait(20)  # while nobody asks for the second
    taken.close()


def test_a_shared_worker_leaves_the_first_item_to_who_asks_for_it():
    def makers():
        while True:
            yield threading.current_thread() is threading.main_thread()

    with threads_to_share(1) as (worker,):
        taken = ahead(makers(), worker=worker)
        assert [next(taken) for _ in range(3)] == [True, False, False]
        taken.close()
        assert not workers()
    with threads_to_share(1) as (worker,):
        assert list(ahead((item for item in ()), worker=worker)) == []
    assert not workers()


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def threads_elsewhere() -> int:
    """Of torch, in a thread that has not chosen."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_stages_share_the_cores_and_nobody_else_does(three_threads):
    with threads_to_share(2) as pair:
        assert [worker.submit(torch.get_num_threads).result() for worker in pair] == [1, 1]
        assert torch.get_num_threads() == threads_elsewhere() == 3
    assert not workers()


def test_a_thread_that_takes_few_keeps_them(three_threads):
    def count(few: int) -> tuple[int, int]:
        torch.set_num_threads(few)
        with threads_to_share(1) as (worker,):
            return worker.submit(torch.get_num_threads).result(), torch.get_num_threads()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(count, 2).result() == (1, 2)
        assert torch.get_num_threads() == 3 and pool.submit(torch.get_num_threads).result() == 2


def test_a_video_leaves_torch_the_threads_it_had(three_threads, pipeline, tmp_path):
    """Also between two frames, and whichever thread goes on with it."""
    chunks = pipeline.stream(picture(), spoken(), 2, chunk_size=4)
    for _ in range(2):
        next(chunks)
        assert torch.get_num_threads() == threads_elsewhere() == 3
    chunks.close()
    stages = pipeline.stream_to_file(picture(), spoken(), tmp_path / "talk.mp4", 2)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        assert one.submit(next, stages).result()[0] == "listening"
        assert other.submit(list, stages).result()[-1][0] == "video"
        assert [pool.submit(torch.get_num_threads).result() for pool in (one, other)] == [3, 3]
    assert torch.get_num_threads() == threads_elsewhere() == 3


def test_what_is_made_beside_comes_when_it_is_asked_for(three_threads):
    def make():
        return threading.current_thread().name, torch.get_num_threads(), torch.is_inference_mode_enabled()

    with torch.inference_mode(), beside(make) as made:
        name, *settings = made()
        assert name.startswith("temposync") and settings == [1, True] and torch.get_num_threads() == 3
    assert not workers() and threads_elsewhere() == 3


def test_what_is_made_beside_fails_where_it_is_asked_for_and_not_before():
    def fail():
        raise OSError("broken")

    with beside(fail):
        pass  # nobody asked
    with beside(fail) as made, pytest.raises(OSError, match="broken"):
        made()
    with pytest.raises(KeyError), beside(fail):
        raise KeyError
    assert not workers()


def test_errors_come_in_their_place():
    def items():
        yield 1
        yield 2
        raise OSError("broken")

    taken = ahead(items(), 3)
    assert [next(taken), next(taken)] == [1, 2]
    with pytest.raises(OSError, match="broken"):
        next(taken)
    assert not workers()


def test_an_early_end_closes_all_stages():
    closed = []

    def items(name, source=None):
        try:
            yield from source or iter(int, 1)
        finally:
            closed.append(name)

    taken = ahead(items("second", ahead(items("first"))))
    assert next(taken) == 0
    taken.close()
    assert sorted(closed) == ["first", "second"] and not workers()


def test_stages_know_that_nothing_is_trained():
    def modes():
        while True:
            yield torch.is_inference_mode_enabled()

    for inference in (True, False):
        with torch.inference_mode(inference):
            taken = ahead(modes())
            assert next(taken) is inference and next(taken) is inference
            taken.close()


def test_frames_are_the_same_as_one_after_the_other(pipeline, monkeypatch):
    def frames():
        return list(pipeline.stream(picture(), spoken(), 2, torch.Generator().manual_seed(0), chunk_size=5, mouth_amplitude=3.0))

    together = frames()
    monkeypatch.setattr(talking_head_base, "ahead", lambda items, **_: items)
    apart = frames()
    assert [len(chunk) for chunk in together] == [5, 5, 5] and not workers()
    assert all((a == b).all() for a, b in zip(together, apart, strict=True))
    assert (together[0][0] != together[2][0]).any()


def test_a_stream_that_is_left_leaves_nothing_behind(pipeline, tmp_path):
    chunks = pipeline.stream(picture(), spoken(), 2, chunk_size=4)
    next(chunks), next(chunks)
    assert workers()
    chunks.close()
    assert not workers()
    stages = pipeline.stream_to_file(picture(), spoken(), tmp_path / "talk.mp4", 2, chunk_size=4)
    assert next(frames for stage, frames, _ in stages if frames > 4) == 8 and workers()
    stages.close()
    assert not workers() and not list(tmp_path.iterdir())


@pytest.mark.parametrize("stage", ["denoiser", "decode", "patch", "write"])
def test_an_error_of_any_stage_ends_all(pipeline, tmp_path, monkeypatch, stage):
    calls, first, aside = [], [], stage in ("denoiser", "decode")

    def failing(*arguments, **named):
        here = threading.current_thread() is threading.main_thread()
        # The mouth at rest is made beside the hearing, the first frames by who asks for them.
        if aside and (here or not first):
            first.extend([here] * here)
            return working(*arguments, **named)
        calls.append(here)
        raise OSError(28, "No space left on device")

    owner, name = {"denoiser": (pipeline.denoiser, "forward"), "decode": (ColourRenderer, "decode"), "patch": (ColourRenderer, "patch"),
                   "write": (to_file.VideoWriter, "write_planes")}[stage]
    working = getattr(owner, name)
    monkeypatch.setattr(owner, name, failing)
    with pytest.raises(OSError, match="No space left"):
        pipeline.generate_to_file(picture(), spoken(), tmp_path / "talk.mp4", 2, chunk_size=4, progress=False)
    assert calls == [not aside]  # and where it happened
    assert not workers() and not list(tmp_path.iterdir())


def test_a_callback_is_called_by_who_called(pipeline):
    threads = set()

    def callback(pipe, step, timestep, tensors):
        threads.add(threading.current_thread())
        assert not workers()
        return tensors

    pipeline(picture(), spoken(), 2, chunk_size=5, callback_on_step_end=callback, output_type="np")
    assert threads == {threading.main_thread()}


def test_opencv_takes_half_of_its_threads_while_stages_share_the_cores():
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        with pytest.raises(KeyError), threads_to_share(1):
            assert cv2.getNumThreads() == 2
            with threads_to_share(1):  # another call's, as in a server
                assert cv2.getNumThreads() == 2
            assert cv2.getNumThreads() == 2
            raise KeyError
        assert cv2.getNumThreads() == 4
        with threads_to_share(1):
            cv2.setNumThreads(3)
        assert cv2.getNumThreads() == 3  # as somebody else wants it
    finally:
        cv2.setNumThreads(before)


def test_what_all_others_wait_for_is_made_with_all_threads():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with threads_to_share(1) as (worker,):
            made = list(ahead(((threading.current_thread(), torch.get_num_threads()) for _ in range(4)), worker=worker, alone=True))
    finally:
        torch.set_num_threads(before)
    makers, threads = zip(*made)
    assert threads == (4, 4, 2, 2) and makers[0] is threading.current_thread() and makers[2] is makers[3] is not makers[1]
    assert not workers()
