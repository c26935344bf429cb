"""Worker threads that load ahead of whoever uses the results.

Threads, not processes: Pillow and zlib release the interpreter lock while they decode.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def prefetch(
    items: Iterable[Item], load: Callable[[Item], Loaded], workers: int = 2, ahead: int = 8
) -> Generator[Loaded, None, None]:
    """Yield `load(item)` in the order of `items`, computed by `workers` threads at most `ahead` items early.

    An exception of `load` is raised where its result would have been yielded; what lies behind it is cancelled, as it
    is when the caller stops early. Nothing starts before the first result is asked for.
    """
    if workers < 1 or ahead < 1:
        raise ValueError(f"prefetch needs at least one worker and one item ahead, got {workers} and {ahead}")
    waiting: deque[Future[Loaded]] = deque()
    source = iter(items)
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="prefetch")
    try:
        waiting.extend(pool.submit(load, item) for item in islice(source, ahead))
        while waiting:
            result = waiting.popleft().result()
            # refill before yielding, so that the threads work while the caller uses this result
            waiting.extend(pool.submit(load, item) for item in islice(source, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
