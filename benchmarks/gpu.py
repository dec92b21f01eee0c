"""The first hour on a GPU: everything that only a GPU shows, step by step, into one JSON file.

    python benchmarks/gpu.py --json benchmarks/results/gpu-NAME.json

Each step is there as soon as it is done, and takes 8 minutes at most; the same command goes on where the last one
stopped, and tries again what failed. `--minutes` starts no step later than that, the most telling ones first. Kernels
are timed only where they are right. `--dry-run` goes through every line on a CPU, at 4 x 4 patches, with stand-ins for
the clock, the graphs and the compiler. `cdam-fast bench --from` makes the documentation's table of the file.
"""

import argparse
import contextlib
import datetime
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

MACHINE = ("name", "torch", "cuda", "triton")
"""Of the environment: what one file's steps share."""


class TooLongError(BaseException):
    """A step's time is over. No Exception, which a step, or what it calls, takes for a backend's."""


def read(path, dry):
    """The content of an earlier run, or of none; ValueError where the file is not such a one."""
    if not path.exists():
        return {"dry_run": dry, "planned": [], "steps": {}}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        before, steps = content["dry_run"], content["steps"]
        if not all(isinstance(step["status"], str) for step in steps.values()):
            raise TypeError("status")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"got {path}, which is no file of this script: {type(error).__name__}: {error}") from None
    if before != dry:
        raise ValueError(f"got {path}, which is of a run with{'out' * (not before)} --dry-run")
    return content


def write(path, content):
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    temporary.replace(path)


def is_done(content, name):
    return content["steps"].get(name, {}).get("status") == "done"


def check_machine(content, path, found):
    """ValueError where an earlier run's steps are of another GPU or of other versions."""
    before = content["steps"]["environment"]["result"]
    for name in MACHINE:
        if before.get(name) != found[name]:
            raise ValueError(
                f"got {path}, which is of {name} {before.get(name)}, here is {found[name]}; takes a new file"
            )


def run_step(work, run, longest):
    """Date, result or what went wrong, and seconds of one step."""

    def stop(number, frame):
        raise TooLongError(f"took over {longest} s")

    step = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}
    started = time.monotonic()
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(longest)
    try:
        step["result"] = work(run)
        step["status"] = "done"
    except (Exception, TooLongError) as error:  # a step that fails leaves the others their time
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name} line {place.lineno}"
        step["status"] = f"failed: {type(error).__name__}: {str(error)[:1500]} ({where})"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    step["seconds"] = round(time.monotonic() - started, 1)
    return step


def parsed_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="where the results go; what is done there is kept")
    parser.add_argument("--steps", default="", help="only steps that begin with one of these, separated by commas")
    parser.add_argument("--compile", choices=("all", "first", "none"), default="all", help="for which latencies")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no step later (default: no limit)")
    parser.add_argument("--dry-run", action="store_true", help="every line on a CPU, at 4 x 4 patches")
    parsed = parser.parse_args(arguments)
    if not parsed.minutes > 0:
        parser.error(f"--minutes: got {parsed.minutes:g}, takes a positive number")
    if not parsed.json.parent.is_dir():
        parser.error(f"--json: got {parsed.json}, whose folder is not there")
    return parser, parsed


def main(arguments=None):
    """The exit status: 0; 1 where a step failed, now or before; 2 for bad arguments; 130 interrupted."""
    parser, parsed = parsed_arguments(arguments)
    if parsed.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported
    import gpu_maps
    import gpu_steps
    import torch

    if not parsed.dry_run and not torch.cuda.is_available():
        parser.error("no GPU; --dry-run goes through the steps without one")
    steps = dict(gpu_steps.steps_of(parsed.compile))
    prefixes = tuple(parsed.steps.split(","))
    chosen = {name: work for name, work in steps.items() if name.startswith(prefixes)}
    if not chosen:
        parser.error(f"--steps: got {parsed.steps!r}, takes beginnings of {', '.join(steps)}")
    begin = time.monotonic()
    run = gpu_maps.Run(parsed.dry_run)
    with contextlib.ExitStack() as stack:
        if parsed.dry_run:
            import gpu_dry_run

            stack.enter_context(gpu_dry_run.stand_ins())
        try:
            content = read(parsed.json, parsed.dry_run)
            if is_done(content, "environment"):
                check_machine(content, parsed.json, gpu_steps.environment(run))
        except ValueError as error:
            parser.error(f"--json: {error}")
        content["planned"] = list(steps)
        left = [name for name in chosen if not is_done(content, name)]
        for number, name in enumerate(left, 1):
            if time.monotonic() - begin > 60 * parsed.minutes:
                print(f"{parsed.minutes:g} minutes are over: {len(left) - number + 1} steps left", flush=True)  # noqa: T201
                break
            try:
                step = run_step(chosen[name], run, gpu_maps.LONGEST_STEP)
            except KeyboardInterrupt:
                print(f"interrupted in {name}: what was done before is in {parsed.json}", flush=True)  # noqa: T201
                return 130
            content["steps"][name] = step
            write(parsed.json, content)
            print(f"[{number}/{len(left)}] {name}: {step['status'][:300]}, {step['seconds']} s", flush=True)  # noqa: T201
    return 1 if any(step["status"] != "done" for step in content["steps"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
