"""Hazards that are planted into a kernel that has none."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from test_cubin import kernel

from bench import sass, static_limits
from bench.shipped import Compiled

# Of a kernel as it was compiled, the addresses apart: a loop whose second product has its first
# operand in registers.
SOUND = """
    HGMMA.64x64x16.F32.BF16 R88, gdesc[UR8], RZ, !UPT, gsb0
    WARPGROUP.DEPBAR.LE gsb0, 0x0
  loop:
    DEPBAR.LE SB0, 0x2
    FENCE.VIEW.ASYNC.S
    WARPGROUP.ARRIVE
    HGMMA.64x64x16.F32.BF16 R88, gdesc[UR8], R88, gsb0
    WARPGROUP.DEPBAR.LE gsb0, 0x0
    MUFU.EX2 R89, R89
    F2FP.BF16.F32.PACK_AB R128, R89, R88
    WARPGROUP.ARRIVE
    HGMMA.64x128x16.F32.BF16 R24, R128, gdesc[UR8].tnspB, R24
    HGMMA.64x128x16.F32.BF16 R24, R132, gdesc[UR8].tnspB, R24, gsb0
    ISETP.GE.AND P0, PT, R130, R140, PT
    LDGSTS.E.BYPASS.128 [R140+0x10], desc[UR4][R128.64]
    LDGDEPBAR
    IADD3 R140, P1, R140, 0x1, RZ
@P0 BRA loop
    WARPGROUP.DEPBAR.LE gsb0, 0x0
    MOV R128, RZ
    EXIT
"""


def listing(code: str) -> list[sass.Instruction]:
    """As `cuobjdump` prints it: an address before each, and for the label."""
    lines = [line.strip() for line in code.strip().splitlines()]
    label = lines.index("loop:")
    lines.remove("loop:")
    lines = [line.replace("BRA loop", f"BRA {16 * label:#x}") for line in lines]
    return sass.instructions(
        "\n".join(f"  /*{16 * place:04x}*/  {line} ;" for place, line in enumerate(lines))
    )


def planted(after: str, line: str) -> list[str]:
    """The hazards with `line` behind the one that begins with `after`."""
    found = re.sub(rf"(\n *{re.escape(after)}[^\n]*)", rf"\1\n    {line}", SOUND, count=1)
    assert found != SOUND
    return sass.hazards(listing(found))


def test_a_sound_loop_has_none() -> None:
    code = listing(SOUND)
    assert len(code) == 20 and code[16].text == "BRA 0x20" and code[16].is_guarded
    assert sass.hazards(code) == []
    flops = 2 * 64 * (64 + 128 + 128) * 16 // 4
    assert sass.main_loop(code) == sass.Loop(2, 1, 16, 15, flops, exps=1)


OVERWRITES = {
    "right behind": ("HGMMA.64x128x16.F32.BF16 R24, R132", "MOV R128, R3"),
    "of the group's last product": ("ISETP", "FADD R135, R3, R4"),
    "the end of a wide load": ("ISETP", "LDS.128 R125, [R3]"),
    "before a predicate": ("ISETP", "IADD3 R131, P2, R5, R6, RZ"),
    "behind a predicate": ("ISETP", "SHFL.BFLY PT, R131, R5, 0x1, 0x1f"),
    "over the back edge": ("DEPBAR.LE SB0", "LDS.64 R130, [R3]"),
    "on the way out": ("@P0", "IMAD.WIDE R134, R3, R4, R6"),
    "by another product": ("LDGDEPBAR", "HGMMA.64x64x16.F32.BF16 R120, gdesc[UR8], RZ, !UPT, gsb0"),
}


@pytest.mark.parametrize("name", OVERWRITES)
def test_a_register_overwritten_before_the_wait(name: str) -> None:
    after, line = OVERWRITES[name]
    found = planted(after, line)
    assert found and all("overwrites its A" in each and line in each for each in found)


HARMLESS = {
    "another register": ("ISETP", "MOV R136, R3"),
    "a store": ("ISETP", "STS.128 [R3], R128"),
    "a comparison": ("ISETP", "FSETP.GEU.AND P2, PT, R128, R3, PT"),
    "a uniform register": ("ISETP", "R2UR UR12, R128"),
    "after the wait": ("WARPGROUP.DEPBAR", "MOV R128, R3"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_overwrites_nothing(name: str) -> None:
    assert planted(*HARMLESS[name]) == []


def test_a_wait_that_leaves_the_group_is_none() -> None:
    """One group may be left; a second one, begun meanwhile, makes it wait for the first."""
    left = "WARPGROUP.DEPBAR.LE gsb0, 0x1"
    assert planted("ISETP", f"{left}\n    MOV R128, R3") != []
    second = "HGMMA.64x64x16.F32.BF16 R88, gdesc[UR8], RZ, !UPT, gsb0"
    assert planted("ISETP", f"{second}\n    {left}\n    MOV R128, R3") == []


def test_a_missing_fence() -> None:
    (found,) = sass.hazards(listing(SOUND.replace("    FENCE.VIEW.ASYNC.S\n", "")))
    assert "no fence since the wait for its copies" in found
    wait = "    DEPBAR.LE SB0, 0x2\n    FENCE.VIEW.ASYNC.S\n"
    at_the_end = SOUND.replace(wait, "").replace("@P0 BRA", "DEPBAR.LE SB0, 0x2\n@P0 BRA")
    (found,) = sass.hazards(listing(at_the_end))  # in the next turn
    assert "no fence since the wait for its copies" in found


def test_memory_that_is_touched_too_early() -> None:
    """By a kernel that waits for the one before it; others need not."""
    early = "    LDG.E.128 R4, desc[UR4][R2.64]\n    STS.128 [R9], R4\n"
    waiting = "    ACQBULK\n"
    assert sass.hazards(listing(early + SOUND)) == []
    assert sass.hazards(listing(waiting + early + SOUND)) == []
    for line in (early, "@P0 LDGSTS.E [R3], desc[UR4][R2.64]\n", "    ATOMG.E.ADD R4, R2, R5\n"):
        (found,) = sass.hazards(listing(line + waiting + SOUND))
        assert "before the kernel before has ended" in found


@pytest.mark.parametrize("name", ["merge_tiles<float>", "draw<PlainWeights>", "merge of 4 x 8"])
def test_a_dependent_kernel_that_never_waits(name: str) -> None:
    careless = Compiled(f"{name} splits", 90, kernel(), 0, 128, False)
    assert careless.hazards() == ["no wait for the kernel before it"]
    assert replace(careless, arch=80).hazards() == []
    assert replace(careless, kernel=replace(kernel(), waits=True)).hazards() == []


def test_cycles_of_a_turn() -> None:
    """Of a kernel whose instructions were counted by hand: two warps on each of four schedulers."""
    loop = sass.Loop(2, 2, 128, instructions=669, tensor_flops=2048 * 4096 // 8, exps=68)
    each = Compiled("a", 90, replace(kernel(), main_loop=loop), 0, 256, True)
    assert each.cycles() == (1338, 2048, 1088)
    assert replace(each, arch=80).cycles() == (1338, 4096, 1088)
    assert replace(each, kernel=kernel()).cycles() == (None, None, None)
    (line,) = sass.instructions("/*0000*/ HMMA.16816.F32.BF16 R4, R8, R12, R4 ;")
    assert sass._flops(line.opcode) == 2 * 16 * 8 * 16


def test_a_hazard_is_a_failure() -> None:
    unsound = replace(kernel(), hazards=("HGMMA at 0x80: MOV R128 overwrites its A",))
    assert static_limits.kernel_failures(Compiled("a", 90, unsound, 0, 128, False)) == [
        "a sm_90: HGMMA at 0x80: MOV R128 overwrites its A"
    ]
    assert static_limits.kernel_failures(Compiled("a", 90, kernel(), 0, 128, False)) == []
