"""From a disassembly to loops and instruction counts, for NVIDIA (SASS) and AMD (gfx9 assembly).

Both listings become the same ``Instruction`` rows, so that one search finds the loops of either:
basic blocks → dominators → back edges → natural loops. Counts are static: an instruction of a loop
body counts once.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from cdam_fast.ahead.opcodes import CLASSES, classify, operations, tensor_flop

Place = tuple[str, int]  # file and line of the Python source


class Instruction(NamedTuple):
    """One line of a listing."""

    opcode: str  # full, with its modifiers: "LDG.E.128"
    target: str | None  # label of a branch
    predicated: bool
    places: tuple[Place, ...]  # where it comes from, then the calls that it was inlined through


class Listing(NamedTuple):
    """The instructions of one kernel; ``labels`` maps a label to the index of the instruction after it."""

    instructions: list[Instruction]
    labels: dict[str, int]
    vendor: str  # "nvidia" or "amd"


@dataclass(frozen=True)
class Loop:
    """One natural loop, without the loops nested in it."""

    function: str  # of the Python source, "" where the listing names none
    range: str  # that its ``for`` goes over: "range(0, classes)"
    line: int
    depth: int  # 1: not nested
    waiting: bool  # only spins on a barrier
    instructions: int
    issued: int  # of them, those that share the issue slots: all on NVIDIA, the vector ones on AMD
    counts: dict[str, int]  # by class, see ``opcodes``
    tensor_flop: float  # per warp and iteration, in TF32 (NVIDIA) or float32 (AMD) equivalents


class _Statement(NamedTuple):
    function: str
    range: str
    first: int
    last: int


_LABEL = re.compile(r"^(\.L\w+|\$?\w+):")
_SASS = re.compile(r"^/\*[0-9a-f]+\*/\s+(?:\{\s*)?(@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)$")
# CALL to a numbered label is a far jump; a subroutine's label has a name.
_SASS_BRANCH = ("BRA", "BRX", "CALL.REL.NOINC")
_SASS_TARGET = re.compile(r"`\((\.L_x_\w+)\)")
_SASS_PLACE = re.compile(r'^//## File "(.*?)", line (\d+)( inlined at)?')
_GCN = re.compile(r"^([a-z]\w+)\b(.*)$")
_GCN_PLACE = re.compile(r"^\.loc\s+(\d+)\s+(\d+)")
_GCN_CALLER = re.compile(r"@\[ ([^:\s]+):(\d+):")
_GCN_FILE = re.compile(r'^\.file\s+(\d+)\s+"([^"]*)"(?:\s+"([^"]*)")?')


def parse_sass(text: str) -> Listing:
    """Read the output of ``nvdisasm -c -gi``."""
    rows: list[Instruction] = []
    labels: dict[str, int] = {}
    places: tuple[Place, ...] = ()
    inlined = False  # the line before was inlined at the place of this one
    for raw in text.splitlines():
        line = raw.strip()
        if mark := _SASS_PLACE.match(line):
            places = (*(places if inlined else ()), (mark[1], int(mark[2])))
            inlined = mark[3] is not None
        elif label := _LABEL.match(line):
            labels[label[1]] = len(rows)
        elif found := _SASS.match(line):
            branch = found[2].startswith(_SASS_BRANCH)
            target = _SASS_TARGET.search(found[3]) if branch else None
            # BRA.U and some others carry the uniform predicate as an operand.
            predicated = found[1] is not None or bool(branch and re.match(r"\s*!?U?P\d", found[3]))
            rows.append(Instruction(found[2], target[1] if target else None, predicated, places))
    return Listing(rows, labels, "nvidia")


def parse_gcn(text: str) -> Listing:
    """Read the AMD assembly that Triton keeps in ``asm["amdgcn"]``."""
    rows: list[Instruction] = []
    labels: dict[str, int] = {}
    # The numbers of files are declared once; a comment names the callers by the files' last part.
    declared = [mark for raw in text.splitlines() if (mark := _GCN_FILE.match(raw.strip()))]
    files = {mark[1]: str(Path(mark[2], mark[3] or "")) for mark in declared}
    paths = {Path(path).name: path for path in files.values()}
    places: tuple[Place, ...] = ()
    for raw in text.splitlines():
        line = raw.split(";")[0].strip()
        if mark := _GCN_PLACE.match(line):
            if mark[2] != "0":
                callers = [(paths.get(name, name), int(number)) for name, number in _GCN_CALLER.findall(raw)]
                places = ((files.get(mark[1], ""), int(mark[2])), *callers)
        elif line.startswith(".Lfunc_end"):
            break  # what follows are descriptors and constants
        elif label := _LABEL.match(line):
            labels[label[1]] = len(rows)
        elif found := _GCN.match(line):
            branch = found[1].startswith(("s_cbranch", "s_branch"))
            target = found[2].strip() if branch else None
            rows.append(Instruction(found[1], target, found[1].startswith("s_cbranch"), places))
    return Listing(rows, labels, "amd")


def find_loops(listing: Listing) -> list[Loop]:
    """Every natural loop of a kernel, in the order of the listing."""
    if not listing.instructions:
        return []
    blocks, edges = _blocks(listing)
    dominators = _dominators(edges)
    bodies: dict[int, set[int]] = {}
    for source, targets in edges.items():
        for header in targets:
            # A block that jumps to itself and nothing else pads the end of a kernel; it has no way in.
            if header in dominators.get(source, ()):
                bodies.setdefault(header, set()).update(_natural_loop(edges, header, source))
    loops: dict[int, Loop] = {}
    statements: dict[int, _Statement] = {}
    for header, body in sorted(bodies.items(), key=lambda found: len(found[1])):  # inner loops before outer ones
        nested = [other for other in bodies if other != header and other in body]
        own = body.difference(*(bodies[other] for other in nested))
        rows = [row for block in sorted(own) for row in listing.instructions[slice(*blocks[block])]]
        # a loop that polls a barrier stems from the statement around it
        statements[header] = _statement(rows, {statements[other] for other in nested if not loops[other].waiting})
        depth = sum(header in around for around in bodies.values())
        loops[header] = _loop(rows, statements[header], listing.vendor, depth)
    return [loops[header] for header in sorted(loops)]


def _loop(rows: list[Instruction], statement: _Statement, vendor: str, depth: int) -> Loop:
    counts: Counter[str] = Counter()
    for row in rows:
        name = classify(row.opcode, vendor)
        counts[name] += operations(row.opcode) if name == "fp32" else 1
    return Loop(
        function=statement.function,
        range=statement.range,
        line=statement.first,
        depth=depth,
        waiting=_waits(len(rows), counts),
        instructions=len(rows),
        issued=sum(vendor == "nvidia" or row.opcode.startswith("v_") for row in rows),
        counts={name: counts[name] for name in CLASSES if counts[name]},
        tensor_flop=sum(tensor_flop(row.opcode) for row in rows),
    )


def _statement(rows: list[Instruction], nested: set[_Statement]) -> _Statement:
    """The narrowest loop of the source that more than half of the instructions which lie in one come from.

    ``nested`` are the loops inside: their first and last rounds may have been moved out.
    """
    votes: Counter[_Statement] = Counter()
    voters = 0
    for row in rows:
        found = {
            statement
            for file, line in row.places
            for statement in loop_statements(file)
            if statement.first <= line <= statement.last
        }
        votes.update(found)
        voters += bool(found)
    likely = [statement for statement, count in votes.items() if 2 * count > voters and statement not in nested]
    return min(likely, key=lambda found: found.last - found.first, default=_Statement("", "", 0, 0))


@lru_cache(maxsize=64)
def loop_statements(file: str) -> tuple[_Statement, ...]:
    """The loops of a Python file that stay loops, none where there is no such file."""
    if not Path(file).is_file():
        return ()
    functions = ast.walk(ast.parse(Path(file).read_text(encoding="utf-8")))
    return tuple(
        _Statement(function.name, ast.unparse(node.iter), node.lineno, node.end_lineno or node.lineno)
        for function in functions
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.For) and not ast.unparse(node.iter).startswith("tl.static_range")
    )


def _waits(length: int, counts: Counter[str]) -> bool:
    """Whether a loop only polls a barrier: short, and nothing in it computes or loads."""
    work = ("special", "fp32", "fp64", "half", "tensor", "global_load", "global_store", "shared_load", "conversion")
    return length <= 16 and counts["barrier"] > 0 and not any(counts[name] for name in work)


def _blocks(listing: Listing) -> tuple[list[tuple[int, int]], dict[int, list[int]]]:
    """Cut a listing into basic blocks (first, end) and link each to its successors."""
    rows = listing.instructions
    starts = {0, *listing.labels.values()}
    starts.update(i + 1 for i, row in enumerate(rows) if row.target or _leaves(row))
    cuts = sorted(start for start in starts if start < len(rows))
    blocks = list(zip(cuts, [*cuts[1:], len(rows)]))
    index = {first: number for number, (first, _) in enumerate(blocks)}
    edges: dict[int, list[int]] = {}
    for number, (_, end) in enumerate(blocks):
        last = rows[end - 1]
        targets = []
        if last.target is not None and (place := index.get(listing.labels.get(last.target, -1))) is not None:
            targets.append(place)
        stops = (last.target is not None or _leaves(last)) and not last.predicated
        if not stops and number + 1 < len(blocks):
            targets.append(number + 1)
        edges[number] = targets
    return blocks, edges


def _leaves(row: Instruction) -> bool:
    return row.opcode.split(".")[0] in {"EXIT", "RET", "BRX", "JMX"} or row.opcode.startswith(("s_endpgm", "s_setpc"))


def _dominators(edges: dict[int, list[int]]) -> dict[int, set[int]]:
    """Blocks that every path from the entry to a block passes; blocks without a way in are left out."""
    order: list[int] = []
    pending, seen = [0], {0}
    while pending:
        block = pending.pop()
        order.append(block)
        for target in edges[block]:
            if target not in seen:
                seen.add(target)
                pending.append(target)
    before: dict[int, list[int]] = {block: [] for block in order}
    for block in order:
        for target in edges[block]:
            before[target].append(block)
    found = {block: set(order) for block in order}
    found[0] = {0}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            new = set.intersection(*(found[b] for b in before[block])) | {block}
            if new != found[block]:
                found[block], changed = new, True
    return found


def _natural_loop(edges: dict[int, list[int]], header: int, source: int) -> set[int]:
    """The header and every block that reaches ``source`` without passing it."""
    body, pending = {header}, [source]
    while pending:
        block = pending.pop()
        if block not in body:
            body.add(block)
            pending.extend(b for b, targets in edges.items() if block in targets)
    return body
