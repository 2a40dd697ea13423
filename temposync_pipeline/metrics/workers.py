"""Independent tasks spread over processes: small networks leave most of a second core idle, one process a core uses it.

The processes end with the work, with an exception in it, and with the process that started them.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any


def perform_in_processes(start: Callable[..., Callable], arguments: tuple, tasks: Sequence, processes: int) -> Iterator[tuple[int, Any]]:
    """(index, result) of each task, in the order of completion.

    Args:
        start: called as `start(*arguments)` in each process, returns what makes a result of a task; it, arguments, tasks and results are
            pickled.
        processes: how many; no more than there are tasks are started.

    Raises:
        ChildProcessError: one of them died, of an error that it has printed or of too little memory.
    """
    waiting = iter(enumerate(tasks))
    with _workers(min(processes, len(tasks)), start, arguments) as connections:
        try:
            for connection in connections:
                connection.send(next(waiting))
            busy = set(connections)
            while busy:
                for connection in wait(busy):
                    yield connection.recv()
                    if (following := next(waiting, None)) is None:
                        busy.remove(connection)
                    else:
                        connection.send(following)
        except (EOFError, BrokenPipeError):
            raise ChildProcessError(
                "one of the processes died, perhaps of too little memory: each holds all networks; try fewer") from None


@contextmanager
def _workers(count: int, start: Callable[..., Callable], arguments: tuple) -> Iterator[list[Connection]]:
    context, workers, connections = get_context("spawn"), [], []
    try:
        with _ignoring_interrupts():
            for _ in range(count):
                ours, theirs = context.Pipe()
                worker = context.Process(target=_serve, args=(theirs, start, arguments), daemon=True)
                worker.start()
                theirs.close()
                workers.append(worker)
                connections.append(ours)
        yield connections
        for connection in connections:
            connection.close()
        for worker in workers:
            worker.join(5)
    finally:
        # Amid a task, too: they write nothing that could be left half-written.
        for worker in workers:
            worker.kill()


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """What is started meanwhile goes on ignoring Ctrl-C, which a terminal sends to all processes: it is the first one's to end them."""
    if threading.current_thread() is not threading.main_thread():  # only the main one may set signals
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(connection: Connection, start: Callable[..., Callable], arguments: tuple) -> None:
    """Life of a worker: until nobody is left to ask."""
    perform = start(*arguments)
    try:
        while True:
            index, task = connection.recv()
            connection.send((index, perform(task)))
    except (EOFError, BrokenPipeError):
        pass
