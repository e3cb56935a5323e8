"""Worker threads for NumPy, and the promise that BLAS has one thread while they run."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import Any, TypeVar

__all__ = ["for_each", "map_on_threads", "num_workers"]

S = TypeVar("S")
T = TypeVar("T")

#: How many threads, where that is not to be every core this process may run on.
VARIABLE = "ATTNFN_NUM_THREADS"


def num_workers() -> int:
    """Return how many threads a call may use: 1 where BLAS cannot be held to one."""
    asked = _asked_for(os.environ.get(VARIABLE, ""))
    if _here.is_working or not _blas.can_be_held():
        return 1
    return asked or _num_cores()


def _asked_for(text: str, /) -> int:
    """Return the number in the environment variable, 0 where it is empty or not set."""
    if not text:
        return 0
    if not text.strip().isdecimal() or int(text) < 1:
        msg = (
            f"`{VARIABLE}` must be a whole number from 1; got {text!r}. "
            f"Unset this environment variable to use every core."
        )
        raise ValueError(msg)
    return int(text)


def for_each(function: Callable[[T], None], items: Iterable[T], /, *, workers: int) -> None:
    """Call the function with every item, in this thread and in up to `workers` - 1 others.

    What a call does must not depend on the thread, nor on the calls before it. The first
    exception ends it all. Called from inside of itself, it uses no other thread.
    """
    todo = deque(items)
    others = 0 if _here.is_working else min(workers, len(todo)) - 1
    with _blas.held():
        helpers = _start(others, lambda: _help(function, todo)) if others > 0 else []
        try:
            _work_off(function, todo)
        finally:
            # Those that have not begun, in a busy pool, are not needed any more.
            begun = [helper for helper in helpers if not helper.cancel()]
            wait(begun)
    for helper in begun:
        helper.result()


def map_on_threads(function: Callable[[S], T], items: list[S], /) -> list[T]:
    """Return what the function makes of each item, as `for_each` calls it."""
    found: dict[int, T] = {}

    def find(i: int) -> None:
        found[i] = function(items[i])

    for_each(find, range(len(items)), workers=num_workers())
    return [found[i] for i in range(len(items))]


def _work_off(function: Callable[[T], None], todo: "deque[T]", /) -> None:
    """Call the function with whatever nobody else has taken yet."""
    was_working, _here.is_working = _here.is_working, True
    try:
        while True:
            try:
                item = todo.popleft()
            except IndexError:
                return
            function(item)
    except BaseException:
        todo.clear()
        raise
    finally:
        _here.is_working = was_working


def _help(function: Callable[[T], None], todo: "deque[T]", /) -> None:
    with _blas.held():
        _work_off(function, todo)


def _start(count: int, work: Callable[[], None], /) -> list["Future[None]"]:
    """Hand work to other threads, in the caller's context: NumPy's errstate is part of it."""
    helpers = []
    # No thread can be had while the interpreter shuts down, or where there are too many.
    with suppress(RuntimeError):
        pool = _pools.of_size(count)
        for _ in range(count):
            helpers.append(pool.submit(copy_context().run, work))
    return helpers


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Here(threading.local):
    """What is so in this thread alone."""

    is_working = False


class _Pools:
    """One pool of threads, replaced by a larger one when more are asked for."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start afresh: in a forked child the threads of the parent do not exist."""
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._size = 0

    def of_size(self, count: int, /) -> ThreadPoolExecutor:
        """Return a pool of so many threads, or more."""
        with self._lock:
            if self._pool is None or self._size < count:
                if self._pool is not None:
                    self._pool.shutdown(wait=False)
                # Threads are only started when those that exist are busy.
                self._size = max(count, _num_cores())
                self._pool = ThreadPoolExecutor(self._size, thread_name_prefix="attnfn")
            return self._pool


class _Blas:
    """BLAS, which is held to one thread while any call is at work.

    Mostly the limit is the process's, so overlapping calls are counted: the first saves the
    number of threads, the last restores it. Where it is the thread's own, with MKL and OpenMP,
    each thread saves and restores it.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._count = 0
        self._saved: list[tuple[Any, int]] = []
        self._found: tuple[list[Any], list[Any]] | None = None

    def can_be_held(self) -> bool:
        """Return whether its number of threads can be set at all."""
        return any(self._libraries())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold BLAS to one thread, as far as it can be."""
        of_process, of_thread = self._libraries()
        with self.lock:
            if self._count == 0:
                self._saved = _limited(of_process)
            self._count += 1
        own = _limited(of_thread)
        try:
            yield
        finally:
            _set(own)
            with self.lock:
                # In a child that was forked in here there is nothing left to restore.
                self._count = max(0, self._count - 1)
                if self._count == 0:
                    self._restore()

    def forget(self) -> None:
        """Start afresh in a forked child, where no call is at work."""
        self.lock = threading.RLock()
        self._count = 0
        self._restore()

    def _restore(self) -> None:
        saved, self._saved = self._saved, []
        _set(saved)

    def _libraries(self) -> tuple[list[Any], list[Any]]:
        # Looking for the libraries takes milliseconds, setting their threads microseconds.
        if self._found is None:
            try:
                from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
            except ImportError:
                self._found = [], []
            else:
                found = ThreadpoolController().select(user_api="blas").lib_controllers
                of_thread = [x for x in found if _is_of_thread(x)]
                self._found = [x for x in found if x not in of_thread], of_thread
        return self._found


def _limited(libraries: list[Any], /) -> list[tuple[Any, int]]:
    """Hold libraries to one thread; return how many they had."""
    had = [(library, library.num_threads) for library in libraries]
    _set([(library, 1) for library in libraries])
    return had


def _set(numbers: list[tuple[Any, int]], /) -> None:
    for library, number in numbers:
        # threadpoolctl lets one thread alone set the limit until it is told otherwise.
        _release(library)
        library.set_num_threads(number)
        _release(library)


def _release(library: Any, /) -> None:
    """Let any thread set the limit; before version 3.7 any thread may."""
    if hasattr(library, "clear_controlling_thread"):
        library.clear_controlling_thread(force=True)


def _is_of_thread(library: Any, /) -> bool:
    """Return whether a limit is set for the thread that asks for it, and no other."""
    if library.internal_api == "mkl":
        return "MKL_Set_Num_Threads_Local" in library.check_symbols
    is_openmp = getattr(library, "threading_layer", None) == "openmp"
    return is_openmp and hasattr(library, "clear_controlling_thread")


_here = _Here()
_pools = _Pools()
_blas = _Blas()


def _in_child() -> None:
    _here.is_working = False
    _pools.forget()
    _blas.forget()


if hasattr(os, "register_at_fork"):
    # The lock is taken so that the child does not see a limit half set.
    os.register_at_fork(
        before=lambda: _blas.lock.acquire(),
        after_in_parent=lambda: _blas.lock.release(),
        after_in_child=_in_child,
    )
