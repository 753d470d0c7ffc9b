"""Where a process spends its wall time: the main thread's stack, 50 times a second.

Comes in: a running program, once `Sampler` is made in it. Goes out: seconds by stack, a stack being the names of its
functions from the outermost on; the part that a predicate leaves can be drawn as a flame graph.
"""

from __future__ import annotations

import html
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType

INTERVAL = 0.02
WIDTH, ROW = 1200, 17
NARROWEST = 3  # pixels: what is thinner is not drawn

Stack = tuple[str, ...]


class Sampler:
    """Samples the main thread of this process. samples: (Unix time, seconds since the last one, stack)."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float, Stack]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the sampling."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        main, last = threading.main_thread().ident, time.monotonic()
        while not self._stopped.wait(INTERVAL):
            frame, now = sys._current_frames().get(main or 0), time.monotonic()
            self.samples.append((time.time(), now - last, name_frames(frame)))
            last = now


def name_frames(frame: FrameType | None) -> Stack:
    """Function and file of each frame; a pipeline's stage by its own name."""
    names: list[str] = []
    while frame is not None:
        code = frame.f_code
        names.append(f"{code.co_qualname} ({Path(code.co_filename).stem})")
        if code.co_name == "run_stage":
            names[-1] = f"stage {frame.f_locals['stage'].name}"
        frame = frame.f_back
    return tuple(reversed(names))


def draw_flames(stacks: Iterable[tuple[Stack, float]], title: str) -> str:
    """A flame graph as SVG: width is seconds, callees below their callers."""
    seconds: Counter[Stack] = Counter()
    for stack, duration in stacks:
        for depth in range(1, len(stack) + 1):
            seconds[stack[:depth]] += duration
    total = sum(duration for stack, duration in seconds.items() if len(stack) == 1)
    boxes = list(_place_boxes(seconds, (), 0.0, WIDTH / max(total, 1e-9)))
    height = ROW * (2 + max((row for _, row, _, _ in boxes), default=0) + 1)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
            f' font-size="11"><text x="4" y="13">{html.escape(title)}, {total:.1f} s</text>',
            *(_draw_box(*box) for box in boxes),
            "</svg>",
        ]
    )


def _place_boxes(
    seconds: Counter[Stack], parent: Stack, left: float, scale: float
) -> Iterable[tuple[float, int, float, str]]:
    """Left, row, width and text of each box that is wide enough to be seen."""
    depth = len(parent)
    children = [stack for stack in seconds if len(stack) == depth + 1 and stack[:depth] == parent]
    for child in sorted(children):
        width = seconds[child] * scale
        if width >= NARROWEST:
            yield left, depth, width, f"{child[-1]}: {seconds[child]:.2f} s"
            yield from _place_boxes(seconds, child, left, scale)
        left += width


def _draw_box(left: float, row: int, width: float, text: str) -> str:
    y, shown = ROW * (row + 1), text[: max(0, int(width / 6) - 1)]
    label = f'<text x="{left + 2:.1f}" y="{y + 12}">{html.escape(shown)}</text>' if len(shown) > 2 else ""
    colour = f"hsl({25 + 7 * (row % 5)},80%,{68 + 3 * (row % 3)}%)"
    box = f'<rect x="{left:.1f}" y="{y}" width="{max(width - 0.5, 0.5):.1f}" height="{ROW - 1}" fill="{colour}"/>'
    return f"<g><title>{html.escape(text)}</title>{box}{label}</g>"


def cut_stack(stack: Sequence[str], first: str) -> Stack:
    """The stack from the frame on that begins with `first`; the whole one if there is none."""
    for place, name in enumerate(stack):
        if name.startswith(first):
            return tuple(stack[place:])
    return tuple(stack)
