"""Processes that share tasks: all results, each once, and nobody left behind."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import pytest

from temposync_pipeline.metrics.workers import perform_in_processes

from .conftest import hear_interrupts


def start(factor: int):
    """Squares, but dies of 7, and takes its time over 100."""

    def perform(number: int) -> tuple[int, int]:
        if number == 7:
            os._exit(1)
        if number == 100:
            time.sleep(60)
        return factor * number**2, os.getpid()

    return perform


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"


def gone(pids, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


def test_every_task_is_done_once_by_some_process():
    results = dict(perform_in_processes(start, (3,), list(range(6)), 2))
    assert {index: value for index, (value, _) in results.items()} == {index: 3 * index**2 for index in range(6)}
    assert len({pid for _, pid in results.values()} - {os.getpid()}) == 2


def test_a_process_that_dies_is_told_of():
    with pytest.raises(ChildProcessError, match="too little memory"):
        list(perform_in_processes(start, (1,), [1, 7, 2], 2))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_whoever_stops_early_leaves_no_process_behind():
    with closing(perform_in_processes(start, (1,), [1, 100, 100], 2)) as results:
        _, (_, pid) = next(results)
        assert alive(pid)
    assert gone([pid])


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them(tmp_path, end):
    """Ctrl-C reaches them all, and only the first one answers; killed, it cannot, and they find nobody to ask."""
    program = tmp_path / "program.py"
    program.write_text(
        "from tests.test_workers import start\n"
        "from temposync_pipeline.metrics.workers import perform_in_processes\n"
        "def main():\n"
        f"    for _, (_, pid) in perform_in_processes(start, (1,), [1, 2] + {[100] if end == signal.SIGINT else []} * 2, 2):\n"
        "        print(pid, flush=True)\n"
        "    input()\n"
        "if __name__ == '__main__':\n"
        "    main()\n")
    root = os.path.dirname(os.path.dirname(__file__))
    process = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE,
                               text=True, start_new_session=True, preexec_fn=hear_interrupts, env=os.environ | {"PYTHONPATH": root})
    pids = {int(process.stdout.readline()) for _ in range(2)}
    if end == signal.SIGINT:
        time.sleep(0.5)  # now both are at work on what takes a minute
        os.killpg(process.pid, end)
    else:
        process.send_signal(end)
    assert gone({*pids, process.pid})
    assert process.stderr.read().count("Traceback") <= 1
