"""Writes a tape, instruction by instruction: what is equal is written once, what nobody needs is left out.

While it is written, a register has a number of its own kind: 0 holds 0, negative ones other fixed numbers, 1 … n the
arguments, and those beyond the results of instructions. So a torch operation that moves numbers about and fills with
zeros can be applied to registers as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from nnflow.names import Refusal
from nnflow.systems.tapes import loops
from nnflow.systems.tapes.loops import Tape

ZERO = 0
MOST = 4096  # instructions: beyond, tensors are as fast (benchmarks/test_losses.py)
COMMUTING = (loops.ADD, loops.MULTIPLY)

Instruction = tuple[int, int, int, int]


class Unwritable(Refusal):
    """What cannot be written on a tape, with the reason."""


class Writer:
    """A tape in the making.

    Args:
        size: How many arguments the function has.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._numbers = [0.0]
        self._number_at = {struct.pack("d", 0.0): ZERO}
        self._code: list[Instruction] = []
        self._at: dict[Instruction, int] = {}
        self._moving = [False, *[True] * size]  # whether a register that is no number depends on the arguments

    def number(self, value: float) -> int:
        """The register of a fixed number."""
        key = struct.pack("d", value)  # −0 is not 0
        if key not in self._number_at:
            self._number_at[key] = -len(self._numbers)
            self._numbers.append(float(value))
        return self._number_at[key]

    def is_number(self, register: int, value: float) -> bool:
        """Whether a register holds this fixed number."""
        return register <= 0 and self._numbers[-register] == value

    def moves(self, register: int) -> bool:
        """Whether what a register holds has derivatives."""
        return register > 0 and self._moving[register]

    def __call__(self, op: int, a: int, b: int = ZERO, c: int = ZERO) -> int:
        """Write an instruction.

        Args:
            op: What it does.
            a: The first register that it reads.
            b: The second.
            c: The third.

        Returns:
            The register of its result.

        Raises:
            Unwritable: beyond `MOST` instructions, of which some may yet be left out.
        """
        if op == loops.MULTIPLY and (self.is_number(a, 1.0) or self.is_number(b, 1.0)):
            return b if self.is_number(a, 1.0) else a
        if op == loops.CHOOSE and b == c:
            return b
        if op in COMMUTING:
            a, b = min(a, b), max(a, b)
        instruction = op, a, b, c
        if instruction not in self._at:
            if len(self._code) >= 2 * MOST:
                raise Unwritable(f"it takes more than {MOST} operations on single numbers")
            self._code.append(instruction)
            self._at[instruction] = self.size + len(self._code)
            moved = (b, c) if op == loops.CHOOSE else (a, b, c)
            self._moving.append(op not in loops.FLAT and any(map(self.moves, moved)))
        return self._at[instruction]

    def tape(self, out: Sequence[int]) -> Tape:
        """What leads to these registers, as a tape. Raises Unwritable if it is too long."""
        used = self._used(out)
        if len(used) > MOST:
            raise Unwritable(f"it takes {len(used)} operations on single numbers, and {MOST} at most are compiled")
        beyond = len(self._numbers) - 1  # what a register above 0 is moved by
        place = {i: self.size + n for n, i in enumerate(used, start=1)}  # instruction → register
        written = {self.size + 1 + i: register for i, register in place.items()}

        def final(register: int) -> int:
            return -register if register <= 0 else written.get(register, register) + beyond

        def row(register: int) -> int:
            return written.get(register, register) if self.moves(register) else 0

        code = [
            (op, final(a), final(b), final(c), row(a) if op != loops.CHOOSE else 0, row(b), row(c))
            if op not in loops.FLAT
            else (op, final(a), final(b), final(c), 0, 0, 0)
            for op, a, b, c in (self._code[i] for i in used)
        ]
        return Tape(
            np.array(self._numbers),
            np.array(code, dtype=np.int64).reshape(-1, 7),
            np.array([final(register) for register in out], dtype=np.int64),
            np.array([row(register) for register in out], dtype=np.int64),
        )

    def _used(self, out: Sequence[int]) -> list[int]:
        """The instructions that lead to these registers, in order."""
        needed, left = set[int](), [register for register in out if register > self.size]
        while left:
            i = left.pop() - self.size - 1
            if i not in needed:
                needed.add(i)
                left += [register for register in self._code[i][1:] if register > self.size]
        return sorted(needed)
