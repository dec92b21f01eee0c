"""The tables of docs/peers.md, as Markdown, from what `cdam-fast bench --peers --json` wrote.

python benchmarks/peers_table.py [FILE ...]
"""

import json
import sys
from pathlib import Path

FILES = sorted((Path(__file__).parent / "results").glob("peers-cpu-*.json"), key=lambda path: path.stem)


def number(value):
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def cell(row, time):
    if row is None:
        return "not measured"
    return number(row[time]) if row["status"] == "ok" and row[time] is not None else row["status"]


def largest(values, text):
    found = [value for value in values if value is not None]
    return text(max(found)) if found else "not measured"


def table(content, kind):
    """A row for each way of each package, a column for each size; error and memory are the largest over the sizes."""
    rows = [row for row in content["rows"] if row["kind"] == kind]
    sizes = list(dict.fromkeys((row["patches"], row["classes"]) for row in rows))
    time = "cpu_ms" if content["device"] == "cpu" and content["threads"] == 1 else "p50_ms"
    heads = [f"N = {patches}, C = {classes}" for patches, classes in sizes]
    yield "| " + " | ".join([f"{kind}, ms", "dtype", *heads, "error", "MB"]) + " |"
    yield "|---|---|" + "---:|" * (len(sizes) + 2)
    for peer, dtype in dict.fromkeys((row["peer"], row["dtype"]) for row in rows):
        found = {(row["patches"], row["classes"]): row for row in rows if (row["peer"], row["dtype"]) == (peer, dtype)}
        ways = "; ".join(dict.fromkeys(row["how"] for row in found.values() if row["how"]))
        name = f"{peer} ({ways})" if ways else peer
        cells = [cell(found.get(size), time) for size in sizes]
        nan = any(row["status"] == "wrong" and row["error"] is None for row in found.values())
        error = "NaN" if nan else largest((row["error"] for row in found.values()), "{:.0e}".format)
        memory = largest((row["memory_bytes"] for row in found.values()), lambda value: number(value / 1e6))
        yield "| " + " | ".join([name, dtype, *cells, error, memory]) + " |"


def main():
    for path in map(Path, sys.argv[1:] or FILES):
        content = json.loads(path.read_text(encoding="utf-8"))
        for kind in dict.fromkeys(row["kind"] for row in content["rows"]):
            sys.stdout.write("\n".join(table(content, kind)) + "\n\n")


if __name__ == "__main__":
    main()
