"""The same function over many inputs: here when there is little to do, else in processes started afresh.

Workers never inherit this process (no fork: it may hold threads of tokenizers or torch). They count what they read into
one shared number, and end with their parent, however it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from rewarm_api.errors import DependencyError

SMALL = 8_000_000
"""Bytes of text below which starting processes to tokenise them costs more than it saves."""

POLL_SECONDS = 0.2

_counter: Any = None


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(tasks: int, size: int, lightness: int = 1) -> int:
    """Processes for `tasks` inputs of `size` bytes together (0: unknown); 1 means in this process.

    `lightness`: how many times less work a byte is than in tokenisation.
    """
    return 1 if 0 < size < SMALL * lightness else max(1, min(tasks, available_cores()))


def advance(amount: int) -> None:
    """Counts bytes read in this worker."""
    if _counter is not None:
        with _counter.get_lock():
            _counter.value += amount


def _start(counter: Any, threads: int) -> None:
    global _counter
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True, name="end with the parent").start()


def run_all(
    task: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    *,
    workers: int,
    report: Callable[[int], None],
) -> list[Any]:
    """`[task(*a, advance) for a in arguments]`, results in order; the first error ends it.

    `task` must be a function of a module. Its last argument takes the number of bytes read since the last call;
    `report` is given their sum so far, here in this process.
    """
    if workers <= 1:
        return _run_here(task, arguments, report)
    context = multiprocessing.get_context("spawn")
    counter = context.Value("Q", 0)
    before = set(multiprocessing.active_children())
    threads = max(1, available_cores() // workers)
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(counter, threads))
    try:
        futures = [executor.submit(task, *each, advance) for each in arguments]
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=POLL_SECONDS, return_when=FIRST_EXCEPTION)
            report(int(counter.value))
            for future in done:
                future.result()
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise DependencyError(
            "a preparation process was killed (often: out of memory); what it had finished is kept, start again"
        ) from error
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _run_here(
    task: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], report: Callable[[int], None]
) -> list[Any]:
    done, told = 0, 0.0

    def count(amount: int) -> None:
        nonlocal done, told
        done += amount
        if (now := time.monotonic()) - told >= POLL_SECONDS:
            told = now
            report(done)

    return [task(*each, count) for each in arguments]
