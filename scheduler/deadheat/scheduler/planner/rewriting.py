"""Rewrites of a program that keep its results: products split along K, chains as products.

Rules of this file: pure, and deterministic down to the names, so that a program restored after a
crash is rewritten to the very same one. What was asked for keeps its name; what is new is named
after it, after a `~`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Final

from deadheat.runtime.programs import MAX_NAME, Activation, Chain, Gemm, Operation, Program, Sum
from deadheat.scheduler.planner.orders import Leaf, Order, leaves, products

#: Room that a derived name leaves for its suffix, whatever the length of the name it comes from.
SUFFIX_ROOM: Final = 16


def split_inner(
    program: Program, operation_index: int, parts: Sequence[tuple[int, int]]
) -> Program:
    """A product as partial products over `parts` of its inner dimension, and their sum.

    `parts` are consecutive windows [start, stop) that together are the product's whole inner
    dimension (or its window, if it has one). Factor, bias and activation move to the sum. Parts of
    float16 and bfloat16 are float32 matrices, so that there is one rounding as before:
    |C - R| <= K * eps * (|A| @ |B|) with eps of the accumulation type, plus that rounding, since
    the longest part and the additions together are at most K - 1 roundings.
    """
    operation = program.operations[operation_index]
    kind = operation.kind
    if not isinstance(kind, Gemm):
        raise TypeError(f"{operation.result!r} is not a product: {kind}")
    _check_parts(program, operation, kind, parts)
    if len(parts) == 1:
        return program
    operands = operation.operands
    element = program.types[operands[0]].element
    dtype = program.types[operation.result].dtype
    plain = replace(
        kind,
        alpha=1.0,
        activation=Activation.NONE,
        out_dtype=None if element.compute == element.name else element.compute,
    )
    taken = set(program.types)
    partial = [
        Operation(_derived(operation.result, f"k{n}", taken), operands[:2], replace(plain, inner=p))
        for n, p in enumerate(parts)
    ]
    added = Sum(
        bias=len(operands) == 3,
        alpha=kind.alpha,
        activation=kind.activation,
        dtype=None if element.compute == dtype else dtype,
    )
    names = (*(part.result for part in partial), *operands[2:])
    return _replaced(
        program, operation_index, [*partial, replace(operation, operands=names, kind=added)]
    )


def expand_chain(program: Program, operation_index: int, order: Order) -> Program:
    """A chain as products in the given order; sides come before what they are sides of."""
    operation = program.operations[operation_index]
    kind, operands = operation.kind, operation.operands
    if not isinstance(kind, Chain):
        raise TypeError(f"{operation.result!r} is not a chain: {kind}")
    names = product_names(program, operation_index, order)

    def side(part: Order) -> tuple[str, bool]:
        if isinstance(part, Leaf):
            return operands[part.index], part.index in kind.transposed
        return names[part.start, part.stop], False

    made = []
    for pair in products(order):
        (a, transpose_a), (b, transpose_b) = side(pair.left), side(pair.right)
        gemm = Gemm(transpose_a, transpose_b, precision=kind.precision)
        made.append(Operation(names[pair.start, pair.stop], (a, b), gemm))
    return _replaced(program, operation_index, made)


def product_names(
    program: Program, operation_index: int, order: Order
) -> Mapping[tuple[int, int], str]:
    """What `expand_chain` calls the product of positions [start, stop): `D~2..3` is M2 @ M3."""
    operation = program.operations[operation_index]
    length = len(operation.operands)
    if list(leaves(order)) != list(range(length)):
        raise ValueError(f"{order} is no order of the {length} operands of {operation.result!r}")
    taken = set(program.types)
    names = {}
    for pair in products(order):
        span = (pair.start, pair.stop)
        if span == (0, length):
            names[span] = operation.result
        else:
            names[span] = _derived(operation.result, f"{pair.start + 1}..{pair.stop}", taken)
    return names


def _check_parts(
    program: Program, operation: Operation, kind: Gemm, parts: Sequence[tuple[int, int]]
) -> None:
    start, stop = kind.inner or (0, program.shape_of(operation).inner)
    edge = start
    for part_start, part_stop in parts:
        if part_start != edge or part_stop < part_start:
            break
        edge = part_stop
    else:
        if parts and edge == stop:
            return
    raise ValueError(
        f"parts {list(parts)} of {operation.result!r} are not consecutive windows of "
        f"[{start}, {stop})"
    )


def _derived(name: str, suffix: str, taken: set[str]) -> str:
    """A new name that tells where it comes from; it is taken from then on."""
    stem = name[: MAX_NAME - SUFFIX_ROOM]
    for number in count():
        # The first is free unless somebody else's names look like ours.
        found = f"{stem}~{suffix}" + (f"~{number}" if number else "")
        if found not in taken:
            taken.add(found)
            return found
    raise AssertionError("there is always another number")


def _replaced(program: Program, index: int, made: Sequence[Operation]) -> Program:
    before, after = program.operations[:index], program.operations[index + 1 :]
    return Program(program.operands, (*before, *made, *after), program.results)
