"""`cdam-fast kernels`: what the compiler makes of every shipped configuration, and how its listings are read."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("triton", minversion="3.2")

import cdam_fast
from cdam_fast import cli
from cdam_fast.ahead import compiler, floors, gpus, report
from cdam_fast.ahead.compiler import TARGETS, Compiled
from cdam_fast.ahead.listing import Loop

PACKAGE = Path(cdam_fast.__file__).parent
NVIDIA = [target for target in TARGETS if target.startswith("sm_")]
INSTRUCTIONS_PER_PAIR_CLASS = 6
LOGARITHMS = "range(0, classes - CLASSES_OF_A_SUM + 1, CLASSES_OF_A_SUM)"  # the loop
SHARED_BYTES = dict.fromkeys(NVIDIA, 99 * 1024) | {"gfx942": 64 * 1024}


def run_kernels(arguments, **variables):
    """The command in a process of its own: this one may have imported the kernels interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | variables
    command = [sys.executable, "-m", "cdam_fast", "kernels", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """All configurations for all targets, about 80 s on one core: printed, and as JSON."""
    folder = tmp_path_factory.mktemp("ahead")
    path = folder / "kernels.json"
    done = run_kernels(["--json", str(path)], TRITON_CACHE_DIR=str(folder / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr
    return done, json.loads(path.read_text())


@pytest.fixture(scope="session")
def kernels(run):
    """Compiled configurations of a target; skips where the installed Triton cannot compile for it."""

    def of_target(target):
        found = {kernel["name"]: kernel for kernel in run[1]["kernels"] if kernel["target"] == target}
        if all(kernel["status"] == "not supported by this Triton" for kernel in found.values()):
            pytest.skip(f"Triton {run[1]['triton']} does not know {target}")
        return found

    return of_target


def loop_of(kernel, function, loop_range):
    (loop,) = [found for found in kernel["loops"] if (found["function"], found["range"]) == (function, loop_range)]
    return loop


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_everything_compiles_without_a_spill_that_costs(kernels, target):
    found = kernels(target)
    assert {"distributions js", "divergence js", "divergence kl", "divergence wasserstein"} <= set(found)
    for name, kernel in found.items():
        assert kernel["status"] == "compiled", (name, kernel["message"])
        assert max(kernel["stack_bytes"], kernel["spill_store_bytes"], kernel["spill_load_bytes"]) <= 64, name


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_shared_memory_fits(kernels, target):
    for name, kernel in kernels(target).items():
        assert kernel["shared_bytes"] <= SHARED_BYTES[target], name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "function", "loop_range"),
    [
        ("js", "_js_by_logarithms", LOGARITHMS),
        ("kl", "_kl", "range(0, classes)"),
        ("wasserstein", "_wasserstein", "range(0, classes)"),
    ],
)
@pytest.mark.parametrize("target", NVIDIA)
def test_few_instructions_per_pair_class(kernels, target, metric, function, loop_range):
    loop = loop_of(kernels(target)[f"divergence {metric}"], function, loop_range)
    assert 1 < loop["instructions_per_pair_class"] <= INSTRUCTIONS_PER_PAIR_CLASS


@pytest.mark.slow
@pytest.mark.parametrize("target", NVIDIA)
def test_one_logarithm_per_pair_class(kernels, target):
    loop = loop_of(kernels(target)["divergence js"], "_js_by_logarithms", LOGARITHMS)
    pair_classes = loop["instructions"] / loop["instructions_per_pair_class"]
    assert loop["counts"]["special"] == pytest.approx(pair_classes)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_features_run_on_tensor_cores(kernels, target):
    from cdam_fast.kernels.configurations import products

    if target.startswith("sm_") and products(target) != "tf32":
        pytest.skip("this Triton's products do not fit there")
    kernel = kernels(target)["divergence js"]
    loops = [loop for loop in kernel["loops"] if loop["function"] == "_js_by_features"]
    assert [loop["range"] for loop in loops] == ["range(0, padded_classes, BLOCK_CLASSES)"] * 2  # narrow and wide
    assert all(loop["counts"]["tensor"] > 0 for loop in loops)


@pytest.mark.slow
def test_floors_name_every_gpu_shape_and_path(run):
    known = {kernel["target"] for kernel in run[1]["kernels"] if kernel["status"] == "compiled"}
    expected = {gpu.name for gpu in gpus.GPUS if gpu.target in known}
    found = run[1]["floors"]
    assert {floor["gpu"] for floor in found} == expected
    assert len(found) == len(expected) * (4 * len(floors.SHAPES) + 2)
    for floor in found:
        stages = [floor[stage] for stage in ("distributions", "divergence", "attention")]
        assert all(stage["seconds"] > 0 for stage in stages)
        assert floor["seconds"] == pytest.approx(sum(stage["seconds"] for stage in stages))


@pytest.mark.slow
def test_floor_of_the_logarithms_is_their_number(run):
    """28x28, 161 classes: tiles of 64x64 over 7 scales, half of them by symmetry, 16 logarithms a clock."""
    (floor,) = [
        floor
        for floor in run[1]["floors"]
        if (floor["gpu"], floor["classes"], floor["path"]) == ("H200", 161, "js by logarithms")
    ]
    tiles = sum(count * (count + 1) // 2 for count in (1, 2, 4, 5, 7, 9, 13))
    assert floor["divergence"]["limit"] == "special"
    assert floor["divergence"]["seconds"] == pytest.approx(tiles * 64**2 * 162 / (16 * 132 * 1.98e9))


@pytest.mark.slow
def test_printed_times_are_floors(run):
    printed = run[0].stdout
    assert "divergence js" in printed
    assert "H200" in printed
    assert "nothing here was measured" in " ".join(printed.split())
    assert "…" not in printed


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--target", "sm_90,sm_9"], "--target: got 'sm_9', takes sm_80, sm_86, sm_90, sm_100, sm_120, gfx942"),
        (["--target", ""], "--target: got ''"),
        (["--json", "missing_folder/out.json"], "--json: cannot write missing_folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(arguments, named, capsys):
    assert cli.main(["kernels", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"cdam-fast kernels: error: {named}")
    assert captured.err.count("\n") == 1


def test_an_interpreting_process_is_refused():
    done = run_kernels(["--target", "sm_90"], TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "TRITON_INTERPRET" in done.stderr
    assert "Traceback" not in done.stderr


COMPILE_ONE = """
from cdam_fast.ahead import child
from cdam_fast.kernels.configurations import shipped
launch = next(launch for launch in shipped("sm_90") if launch.name == "distributions js")
child.compile_launch(launch, "sm_90")
"""


@pytest.mark.slow
def test_what_the_cache_holds_does_not_matter(tmp_path):
    """A kernel that was compiled from a folder that is gone, and one without line information."""
    elsewhere, cache = tmp_path / "elsewhere", tmp_path / "cache"
    shutil.copytree(PACKAGE, elsewhere / "cdam_fast", ignore=shutil.ignore_patterns("__pycache__", "kernels.pyi"))
    shutil.copytree(PACKAGE.parent / "kernels", elsewhere / "cdam_fast" / "kernels", dirs_exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(elsewhere), "TRITON_CACHE_DIR": str(cache)}
    subprocess.run([sys.executable, "-c", COMPILE_ONE], env=environment, cwd=elsewhere, check=True)
    assert str(elsewhere).encode() in b"".join(path.read_bytes() for path in cache.rglob("*.ttir"))
    shutil.rmtree(elsewhere)
    done = run_kernels(["--target", "sm_90"], TRITON_CACHE_DIR=str(cache), TRITON_DISABLE_LINE_INFO="1")
    assert done.returncode == 0, done.stderr
    assert "distributions_kernel:" in done.stdout
    assert "H200" in done.stdout


def test_what_is_not_fit_to_ship():
    fine = Compiled("kernel", "sm_86", "compiled", registers=80, shared_bytes=1024)
    harmless = Compiled("kernel", "sm_86", "compiled", registers=255, stack_bytes=64, spill_store_bytes=64)
    spilled = Compiled("kernel", "sm_86", "compiled", registers=255, stack_bytes=72)
    stored = Compiled("kernel", "sm_86", "compiled", registers=255, stack_bytes=16, spill_store_bytes=400)
    loaded = Compiled("kernel", "sm_86", "compiled", registers=255, stack_bytes=16, spill_load_bytes=400)
    large = Compiled("kernel", "sm_86", "compiled", shared_bytes=100 * 1024)
    broken = Compiled("kernel", "sm_86", "failed", "no such operator")
    unknown = Compiled("kernel", "sm_120", "not supported by this Triton", "ptxas")
    assert [report.failed(result) for result in (fine, harmless, spilled, stored, loaded, large, broken, unknown)] == [
        False,
        False,
        True,
        True,
        True,
        True,
        True,
        False,
    ]
    assert not report.notes([fine, harmless])
    assert [note.partition(";")[0] for note in report.notes([spilled, stored, loaded])] == [
        f"kernel, sm_86: SPILLS {bytes_} B" for bytes_ in (72, 400, 400)
    ]
    assert report._stack(harmless) == "64 B"
    assert "the limit is 101376" in report.notes([large])[0]
    assert floors.all_floors([unknown]) == []


def test_a_kernel_without_room_in_tensor_memory_is_none():
    compiler._check_tensor_memory(SimpleNamespace(tmem_size=512))
    compiler._check_tensor_memory(SimpleNamespace(tmem_size=None))
    compiler._check_tensor_memory(SimpleNamespace())
    with pytest.raises(RuntimeError, match="takes 592 columns of tensor memory, there are 512"):
        compiler._check_tensor_memory(SimpleNamespace(tmem_size=592))


@pytest.mark.parametrize(
    ("version", "target", "product"),
    [
        ((3, 2), "sm_86", "tf32"),
        ((3, 3), "sm_86", "ieee"),
        ((3, 3), "sm_100", "tf32"),
        ((3, 4), "sm_100", "ieee"),
        ((3, 7), "sm_103", "ieee"),
        ((3, 8), "sm_100", "tf32"),
        ((3, 5), "sm_90", "tf32"),
    ],
)
def test_products_that_a_triton_does_not_compile_are_others(version, target, product, monkeypatch):
    from cdam_fast.kernels import configurations

    monkeypatch.setattr(configurations, "_TRITON", version)
    options = configurations.divergence(target, "js")
    assert options["PRODUCTS"] == product
    on_tensor_cores = product == "tf32" and target != "sm_86"
    assert options["FEATURES_FIRST"] == on_tensor_cores  # in float32 logarithms are cheaper
    assert options["K_MAJOR"] == on_tensor_cores


def test_loop_ranges_are_counted():
    loop = Loop("kernel", "tl.range(0, classes, STEP)", 1, 1, False, 10, 10, {}, 0.0)
    assert len(floors.loop_range(loop, {"classes": 161, "STEP": 2})) == 81
    of_the_kernels = Loop("kernel", "range(0, classes, CLASSES_OF_A_SUM)", 1, 1, False, 10, 10, {}, 0.0)
    assert len(floors.loop_range(of_the_kernels, {"classes": 161})) == 11
    with pytest.raises(NameError):
        floors.loop_range(loop, {"classes": 161})
