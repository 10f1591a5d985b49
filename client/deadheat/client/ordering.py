"""In which order this process multiplies a chain: the one with the fewest operations.

On a cluster the order is chosen by predicted seconds; here all products run on the same cores, and
seconds go with operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deadheat.runtime.programs import Chain, Gemm, Operation, Program

Cuts = dict[tuple[int, int], int]


def best_cuts(sizes: Sequence[int]) -> Cuts:
    """Where each stretch of a chain is cut for the fewest operations: `runtime.rules` counts them,
    this remembers where they are. The i-th matrix is sizes[i] x sizes[i + 1]."""
    count = len(sizes) - 1
    cost: dict[tuple[int, int], int] = {(i, i + 1): 0 for i in range(count)}
    cuts: Cuts = {}
    for length in range(2, count + 1):
        for start in range(count - length + 1):
            stop = start + length

            def steps(cut: int, start: int = start, stop: int = stop) -> int:
                here = sizes[start] * sizes[cut] * sizes[stop]
                return cost[start, cut] + cost[cut, stop] + here

            cuts[start, stop] = min(range(start + 1, stop), key=steps)
            cost[start, stop] = steps(cuts[start, stop])
    return cuts


def without_chains(program: Program) -> Program:
    """The program with each chain as products, in the order with the fewest operations."""
    if program.first_chain is None:
        return program
    made: list[Operation] = []
    for operation in program.operations:
        if isinstance(operation.kind, Chain):
            made += _products(program, operation, operation.kind)
        else:
            made.append(operation)
    return Program(program.operands, tuple(made), program.results)


def _products(program: Program, operation: Operation, kind: Chain) -> Iterator[Operation]:
    read = [
        program.types[name].transposed() if at in kind.transposed else program.types[name]
        for at, name in enumerate(operation.operands)
    ]
    last = len(read)
    cuts = best_cuts([read[0].rows, *(matrix.columns for matrix in read)])

    def side(start: int, stop: int) -> tuple[str, bool]:
        if stop - start == 1:
            return operation.operands[start], start in kind.transposed
        whole = (start, stop) == (0, last)
        return (operation.result if whole else f"{operation.result}~{start}~{stop}"), False

    def made(start: int, stop: int) -> Iterator[Operation]:
        if stop - start == 1:
            return
        cut = cuts[start, stop]
        yield from made(start, cut)
        yield from made(cut, stop)
        (a, transpose_a), (b, transpose_b) = side(start, cut), side(cut, stop)
        gemm = Gemm(transpose_a, transpose_b, precision=kind.precision)
        yield Operation(side(start, stop)[0], (a, b), gemm)

    yield from made(0, last)
