"""What a kernel's disassembly tells of its order: what its loops wait for, and three hazards.

A loop that is pipelined copies its next tiles asynchronously, in groups (LDGSTS ... LDGDEPBAR), and
waits for all but the newest N of them (DEPBAR.LE SB0, N): N is its wait distance, 0 is no overlap.
Of several such loops in a kernel the first is its main loop: what follows masks what is left over.

A warpgroup's product (HGMMA) reads its operands until its group is waited for (WARPGROUP.DEPBAR),

  - the first one from registers, perhaps: what writes them earlier changes what it reads;
  - the others from shared memory, by another path than copies write there: between the wait for the
    copies and the product there has to be a fence.

A kernel that may begin before the one before it has ended waits for that (ACQBULK): what it loads
or stores earlier, the other may not have written, or still read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import prod
from typing import NamedTuple


class Instruction(NamedTuple):
    address: int
    text: str
    """Without what guards it."""
    is_guarded: bool
    opcode: str
    """Modifiers included."""

    @property
    def operands(self) -> list[str]:
        return [each.strip() for each in self.text.partition(" ")[2].split(",")]


class Loop(NamedTuple):
    """A pipelined one."""

    wait_distance: int
    """Groups of copies that may be on their way while a tile is worked on."""
    groups: int
    """That a turn begins."""
    bytes: int
    """That a thread copies in a turn."""
    instructions: int
    """Of a warp in a turn, and among them"""
    tensor_flops: int
    """of its tensor-core instructions,"""
    exps: int
    """and its exponentials, each of 32 lanes."""

    @property
    def awaited_bytes(self) -> int:
        """Of a thread, on their way while a tile is worked on."""
        return self.bytes * self.wait_distance // self.groups


_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:(@!?\w+)\s+)?([A-Z][^;]*?)\s*;")
_TARGET = re.compile(r"0x([0-9a-f]+)")
_ENDS = re.compile(r"(EXIT|RET|BRX|JMX)\b")
_GLOBAL = re.compile(r"(LDG|LDGSTS|LD|STG|ST|ATOMG?|REDG?|UBLKCP|UTMA\w+)(\.|$)")
_REGISTERS_OF_A = 4  # of a thread, whatever the dtype: 64 rows of 32 bytes over 128 threads


def kernels(listing: str) -> Iterator[tuple[str, list[Instruction]]]:
    """Each kernel of what `cuobjdump -sass` prints, by its symbol."""
    for part in re.split(r"^\s*Function : ", listing, flags=re.M)[1:]:
        symbol, _, code = part.partition("\n")
        yield symbol.strip(), instructions(code)


def instructions(code: str) -> list[Instruction]:
    return [
        Instruction(int(address, 16), " ".join(words), bool(guard), words[0])
        for address, guard, text in _LINE.findall(code)
        if (words := text.split())
    ]


def main_loop(code: Sequence[Instruction]) -> Loop | None:
    """The first loop that is pipelined, None where there is none."""
    for body in _pipelined(code):
        waits = [_number(each) for each in body if each.text.startswith("DEPBAR.LE SB0")]
        if waits:
            copies = [each for each in body if each.opcode.startswith("LDGSTS")]
            groups = sum(each.opcode == "LDGDEPBAR" for each in body)
            return Loop(
                min(waits),
                groups,
                sum(_width(each.opcode) * 4 for each in copies),
                len(body),
                sum(_flops(each.opcode) for each in body),
                sum(each.opcode.startswith("MUFU.EX2") for each in body),
            )
    return None


def _flops(opcode: str) -> int:
    """Of a warp; a warpgroup's four share a product."""
    name, *modifiers = opcode.split(".")
    if name == "HGMMA":
        return 2 * prod(map(int, modifiers[0].split("x"))) // 4
    if name == "HMMA":
        return 2 * 16 * 8 * int(modifiers[0].removeprefix("168"))
    return 0


def gpu_fences(code: Sequence[Instruction]) -> int:
    """Fences that wait for the whole GPU to see what was written."""
    return sum(bool(re.match(r"MEMBAR\.(\w+\.)*(GPU|SYS)\b", each.opcode)) for each in code)


def hazards(code: Sequence[Instruction]) -> list[str]:
    """Where a kernel may read what it should not, in words."""
    return [*_overwritten(code), *_unfenced(code), *_too_early(code)]


def _overwritten(code: Sequence[Instruction]) -> Iterator[str]:
    """Registers of a first operand that are written before the product's group is waited for."""
    places = {each.address: place for place, each in enumerate(code)}
    for place, product in enumerate(code):
        operands = product.operands
        if not product.opcode.startswith("HGMMA") or not re.match(r"R\d", operands[1]):
            continue
        first = _first_register(operands[1])
        reads = set(range(first, first + _REGISTERS_OF_A))
        todo, seen = [(place + 1, int("gsb0" in product.text))], set()
        while todo:
            at, groups = todo.pop()
            if at >= len(code) or (at, groups) in seen:
                continue
            seen.add((at, groups))
            each = code[at]
            # Groups end in order: waiting for all but N of them waits for the one before those.
            if each.text.startswith("WARPGROUP.DEPBAR") and groups > _number(each):
                continue
            if reads & _written(each):
                yield f"{product.opcode} at {product.address:#x}: {each.text} overwrites its A"
                break
            if each.opcode.startswith("HGMMA") and "gsb0" in each.text:
                groups = min(groups + 1, 8)
            target = _TARGET.search(each.text) if each.opcode.startswith("BRA") else None
            if target is not None:
                todo.append((places.get(int(target[1], 16), len(code)), groups))
            if not _is_last(each):
                todo.append((at + 1, groups))


def _unfenced(code: Sequence[Instruction]) -> Iterator[str]:
    """Pipelined loops without a fence between the wait for copies and a warpgroup's product."""
    for body in _pipelined(code):
        turn, has_waited = [*body, *body], False
        for each in turn:
            if each.text.startswith("DEPBAR.LE SB0"):
                has_waited = True
            elif each.opcode.startswith("FENCE.VIEW.ASYNC"):
                has_waited = False
            elif each.opcode.startswith("HGMMA") and has_waited:
                yield f"{each.opcode} at {each.address:#x}: no fence since the wait for its copies"
                break


def _too_early(code: Sequence[Instruction]) -> Iterator[str]:
    """Accesses to global memory before the wait for the kernel before, if there is one: by address,
    where what is out of line stands behind what leads there."""
    waits = [each.address for each in code if each.opcode == "ACQBULK"]
    for each in code if waits else ():
        if each.address < waits[0] and _GLOBAL.match(each.opcode):
            yield f"{each.opcode} at {each.address:#x}: before the kernel before has ended"


def _pipelined(code: Sequence[Instruction]) -> Iterator[Sequence[Instruction]]:
    """The bodies of loops that copy asynchronously, innermost ones, in order."""
    places = {each.address: place for place, each in enumerate(code)}
    for end, each in enumerate(code):
        target = _TARGET.search(each.text) if each.opcode.startswith("BRA") else None
        begin = places.get(int(target[1], 16), end) if target is not None else end
        if begin < end and any(inner.opcode == "LDGDEPBAR" for inner in code[begin:end]):
            yield code[begin : end + 1]


def _is_last(each: Instruction) -> bool:
    """Whether what stands behind it is never next."""
    if each.is_guarded:
        return False
    if each.opcode.startswith("BRA"):
        return re.match(r"BRA\S* (0x|`)", each.text) is not None  # not of a predicate, or a mask
    return _ENDS.match(each.opcode) is not None


_WRITES_NONE = re.compile(
    r"(ST[GSL]?|STSM|RED[GS]?|BAR|B[A-Z]*SYNC|BSSY|BREAK|BRA|CALL|RET|EXIT|LDGSTS|LDGDEPBAR|DEPBAR|"
    r"WARPGROUP|WARPSYNC|MEMBAR|FENCE|ERRBAR|CCTL|NOP|ACQBULK|PREEXIT|[IFDH]SETP2?|PLOP3|R2P|U\w+)\b"
)


def _written(each: Instruction) -> set[int]:
    """The registers it writes."""
    operands = each.operands
    if _WRITES_NONE.match(each.opcode) or not operands:
        return set()
    if re.fullmatch(r"P(\d|T)", operands[0]):
        operands = operands[1:]
    if not operands or not re.match(r"R\d", operands[0]):
        return set()
    first = _first_register(operands[0])
    return set(range(first, first + _width(each.opcode)))


def _width(opcode: str) -> int:
    """Registers of a result."""
    name, *modifiers = opcode.split(".")
    if name == "HGMMA":
        return int(modifiers[0].split("x")[1]) // 2
    if name in ("HMMA", "IMMA", "DMMA"):
        return 4
    if name == "LDSM":
        return int(modifiers[-1]) if modifiers[-1].isdigit() else 1
    if name.startswith("LD"):
        return 4 if "128" in modifiers else 2 if "64" in modifiers else 1
    is_double = "WIDE" in modifiers or name in ("DADD", "DMUL", "DFMA", "CS2R")
    return 2 if is_double and "32" not in modifiers else 1


def _first_register(operand: str) -> int:
    found = re.match(r"R(\d+)", operand)
    if found is None:
        raise ValueError(f"no register: {operand!r}")
    return int(found[1])


def _number(each: Instruction) -> int:
    """The last operand: how many may be left."""
    return int(each.operands[-1], 0)
