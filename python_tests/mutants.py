"""Breaks the CUDA kernels, one thing at a time, and asks whether the emulator's tests see it.

    python python_tests/mutants.py [NAME...]     one takes a minute or so: a build and tests

Each mutant is applied to a copy of csrc, of which the emulated library is built and tested. Says
which died of what, and ends with 1 if one survives that should not, or a line is not found.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutant:
    file: str
    old: str
    new: str
    tests: str
    """Files of tests, each without `test_` and `.py`."""
    survives: str = ""
    """Why no test can see it."""


RESIDUAL = "native_sampling_rows native_residual accept_residual_exact"
APART = "native_residual_apart"
MUTANTS = {
    "commit: no release": Mutant(
        "cuda/commit.cu",
        "__threadfence();\n    const uint32_t last",
        "const uint32_t last",
        "native_gather",
    ),
    "commit: no acquire": Mutant(
        "cuda/commit.cu", "if (is_last) __threadfence();", "", "native_gather"
    ),
    "commit: the other lanes do not wait": Mutant(
        "cuda/commit.cu", "__syncwarp();  // the other lanes come behind the fence too", "",
        "native_pages",
    ),
    "pages: a page that is not there": Mutant(
        "kernels/pages.h", "page >= 0 && page < num_blocks", "page >= 0", "native_pages"
    ),
    "pages: a slot behind the table": Mutant(
        "kernels/pages.h", "slot < 0 || slot >= capacity()", "slot < 0", "native_pages"
    ),
    "commit: no barrier before the count": Mutant(
        "cuda/commit.cu", "__syncthreads();  // every thread has read prefix_len", "",
        "native_gather",
    ),
    "commit: counted by a plain addition": Mutant(
        "cuda/commit.cu",
        "atomicInc(&advance.counters[b], last) == last",
        "advance.counters[b]++ == last",
        "native_gather",
    ),
    "commit: the counter is not zero again": Mutant(
        "cuda/commit.cu",
        "atomicInc(&advance.counters[b], last)",
        "atomicAdd(&advance.counters[b], 1)",
        "native_gather",
    ),
    "residual: nobody waits for the masses": Mutant(
        "cuda/team.h", "from_blocks.wait(turn_ / 2 % 2);", "", RESIDUAL
    ),
    "residual: blocks may not have begun": Mutant(
        "cuda/residual.cu", "cluster_begin();", "", RESIDUAL
    ),
    "residual: one mailbox for all turns": Mutant(
        "cuda/team.h", "exchange_.boxes[turn % 2]", "exchange_.boxes[0]", RESIDUAL
    ),
    "residual: the warps' masses overwritten while they are read": Mutant(
        "cuda/team.h", "exchange_.of_warp[turn % 2]", "exchange_.of_warp[0]", RESIDUAL
    ),
    "residual: no barrier behind the tree's links": Mutant(
        "cuda/residual.cu", "cluster_begin();\n  __syncthreads();", "cluster_begin();", RESIDUAL
    ),
    "residual: warps are summed before they have written": Mutant(
        "cuda/team.h", "__syncthreads();\n    Masses all", "Masses all", RESIDUAL
    ),
    "residual: the parity of the other turn": Mutant(
        "cuda/team.h", "wait(turn_ / 2 % 2)", "wait(turn_ % 2)", RESIDUAL
    ),
    "residual: a pair too few is expected": Mutant(
        "cuda/team.h", ".expect(blocks)", ".expect(blocks - 1)", RESIDUAL
    ),
    "residual: masses stay in their block": Mutant(
        "cuda/team.h",
        "static_cast<int>(threadIdx.x) < blocks) {\n      from_blocks.send(lane(),",
        "threadIdx.x == 0) {\n      from_blocks.send(cluster_rank(),",
        RESIDUAL,
    ),
    "residual: a refused id stays in the draft's mass": Mutant(
        "cuda/residual_node.h",
        "if (team_.owns(lost)) own_draft_ = draft_sum.value();",
        "",
        RESIDUAL,
    ),
    "residual: the last groups of a part are summed twice": Mutant(
        "cuda/residual_node.h",
        "first += kTurnGroups",
        "first += kTurnGroups - kWarp",
        RESIDUAL,
    ),
    "residual: no warp barrier behind a refusal": Mutant(
        "cuda/residual_node.h",
        "own_.draft[place] = 0;\n    }\n    __syncwarp();",
        "own_.draft[place] = 0;\n    }",
        RESIDUAL,
        survives="a lane reads back only what it wrote itself",
    ),
    "apart: no release": Mutant(
        "cuda/residual_apart.h", "__threadfence();\n    const uint32_t last", "const uint32_t last",
        APART,
    ),
    "apart: no acquire": Mutant(
        "cuda/residual_apart.h", "__threadfence();\n    join(steps);", "join(steps);",
        APART,
    ),
    "apart: counted by a plain addition": Mutant(
        "cuda/residual_apart.h", "atomicInc(&apart_.counters[b_], last) != last",
        "apart_.counters[b_]++ != last", APART,
    ),
    "apart: the counter is not zero again": Mutant(
        "cuda/residual_apart.h", "atomicInc(&apart_.counters[b_], last)",
        "atomicAdd(&apart_.counters[b_], 1u)", APART,
    ),
    "apart: more nodes than clusters": Mutant(
        "cuda/residual_apart.h", "count > clusters || ", "", APART
    ),
    "apart: depths are believed": Mutant(
        "cuda/residual_apart.h", " || !__all_sync(kWholeWarp, is_sound)", "", APART
    ),
    "apart: both go on where a child has its own": Mutant(
        "cuda/residual_apart.h", "if (in_.tree.child(child) < 0) return true;", "return true;",
        APART,
    ),
    "apart: nobody draws at a leaf": Mutant(
        "cuda/residual_apart.h", "if (in_.tree.child(child) < 0) return true;", "", APART
    ),
    "path: matched before its targets are there": Mutant(
        "cuda/accept_path.h",
        "__syncthreads();\n\n  bool agrees = true;",
        "bool agrees = true;",
        "native_walk",
    ),
    "path: walked before all have matched": Mutant(
        "cuda/accept_path.h",
        "__syncthreads();\n  // A list of node n",
        "// A list of node n",
        "native_walk",
    ),
    "path: nodes marked by plain stores": Mutant(
        "cuda/accept_path.h", "atomicOr(&is_linked[child], 1);", "is_linked[child] = 1;",
        "native_walk",
    ),
    "tree: a first child is written while it is read": Mutant(
        "cuda/tree.cu", "__syncwarp(children);", "", "native_tree"
    ),
    "tree: the next word's siblings come too early": Mutant(
        "cuda/tree.cu", "next;\n    __syncwarp();", "next;", "native_tree"
    ),
    "tree: the lowest bad node is not reset in time": Mutant(
        "cuda/tree.cu",
        "lowest = kNone;\n  __syncthreads();",
        "lowest = kNone;",
        "native_tree",
    ),
    "select: counts are overwritten while they are read": Mutant(
        "cuda/select.cu",
        "visit(node, place);\n    __syncthreads();",
        "visit(node, place);",
        "native_tree",
    ),
    "topk: ranked before all keys are there": Mutant(
        "cuda/topk.cu",
        "__syncthreads();\n\n  Key* keys = tile_keys",
        "Key* keys = tile_keys",
        "native_topk",
    ),
    "topk: merged while tiles are ranked": Mutant(
        "cuda/topk.cu", "wait_for_kernel_before();", "", "native_topk"
    ),
    "sample: drawn while parts are weighed": Mutant(
        "cuda/sample.cu", "wait_for_kernel_before();", "", "native_sample"
    ),
}  # fmt: skip


def build(folder: Path) -> str:
    """Empty, or what the compiler said."""
    path = f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}"
    output = folder / "build"
    configure = ["cmake", "-S", folder, "-B", output, "-G", "Ninja", "-DSPARROW_CUDA=0"]
    configure += [f"-DPython3_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=Release"]
    configure += [f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}"]
    compile_ = ["cmake", "--build", output, "--target", "sparrow_emulated", "-j", "1"]
    for command in [] if (output / "build.ninja").exists() else [configure], [compile_]:
        for words in command:
            done = subprocess.run(
                words, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
            )
            if done.returncode:
                return done.stdout + done.stderr
    return ""


def what_tests_say(folder: Path, tests: str) -> str:
    """Empty, or what made the first test fail."""
    folder_of_tests = ROOT / "python_tests"
    files = [next(folder_of_tests.rglob(f"test_{name}.py")) for name in tests.split()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header"]
        + ["--hypothesis-seed=0", "-k", "emulated", *files],
        env=os.environ
        | {"SPARROW_EMULATED": str(folder / "build/libsparrow_emulated.so")}
        | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return ""
    reasons = re.findall(
        r"^E +(.*emulated launch.*|.*Error.*|assert .*)$", done.stdout, re.MULTILINE
    )
    reason = reasons[0] if reasons else (done.stdout.strip().splitlines() or [done.stderr])[-1]
    return re.sub(r".*SPARROW_EMULATION_SEED=\d+\): ", "", reason)


def verdict(folder: Path, mutant: Mutant) -> tuple[str, bool]:
    """In words, and whether it is as it should be."""
    path = folder / "csrc" / mutant.file
    source = path.read_text()
    if source.count(mutant.old) != 1:
        return f"its line is {source.count(mutant.old)} times in {mutant.file}", False
    path.write_text(source.replace(mutant.old, mutant.new))
    try:
        if error := build(folder):
            return f"does not compile: {error.strip().splitlines()[-1]}", False
        reason = what_tests_say(folder, mutant.tests)
    finally:
        path.write_text(source)
    if reason:
        return f"died: {reason[:150]}", not mutant.survives
    return f"SURVIVES{mutant.survives and ', as it must: '}{mutant.survives}", bool(mutant.survives)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a part of a mutant's name")
    names = parser.parse_args().names
    chosen = [n for n in MUTANTS if not names or any(part in n for part in names)]
    as_expected = True
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copytree(ROOT / "csrc", folder / "csrc")
        shutil.copy(ROOT / "CMakeLists.txt", folder)
        if error := build(folder):
            print(error)
            return 1
        for name in chosen:
            said, is_right = verdict(folder, MUTANTS[name])
            as_expected &= is_right
            print(f"{name:52} {said}", flush=True)
    return 0 if as_expected else 1


if __name__ == "__main__":
    sys.exit(main())
