"""How far ``cdam-fast tables`` is, and how long the rest takes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from cdam_fast.commands.progress import spoken
from cdam_fast.commands.streams import tell
from cdam_fast.evaluation.tables import Job, Outcome

_EVERY = 20.0
"""Seconds after which an image is said, where no job was done meanwhile."""


@dataclass
class Progress:
    """A line for each job that is done, and now and then for an image of a long one, with the time that is left."""

    jobs: list[Job] = field(default_factory=list)
    _done: int = 0
    _images: int = 0
    """That were looked at in this run, of all jobs."""
    _of_job: int = 0
    """That were looked at in this run, of the current one."""
    _begin: float = field(default_factory=time.monotonic)
    _said: float = field(default_factory=time.monotonic)

    def on_image(self, name: str) -> None:
        """Hears of each."""
        self._images += 1
        self._of_job += 1
        if time.monotonic() - self._said > _EVERY:
            job = self.jobs[self._done]
            self._say(f"{job.title}: image {name}, {self._of_job} of at most {job.images}")

    def on_job(self, job: Job, outcome: Outcome) -> None:
        """Hears of each, the kept ones too."""
        self._done += 1
        self._of_job = 0
        self._say(f"{job.title}: {_said(outcome)}")

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        waiting = sum(job.images for job in self.jobs[self._done :]) - self._of_job
        left = (self._said - self._begin) / self._images * waiting if self._images else 0.0
        tell(f"[{self._done}/{len(self.jobs)}] {line}" + (f" ({spoken(left)} left)" if left >= 1 else ""))


def _said(outcome: Outcome) -> str:
    if outcome.reason is not None:
        return f"failed: {outcome.reason}"
    worst = max(outcome.values.values(), key=lambda value: value.failed, default=None)
    numbers = [value.number for value in outcome.values.values()]
    said = ", ".join("none" if number is None else f"{number:.3g}" for number in numbers[:3])
    return (
        said
        + (", ..." if len(numbers) > 3 else "")
        + (f"; {worst.failed} images failed, the first: {worst.reason}" if worst and worst.failed else "")
    )
