"""Expressions as programs: common parts once, epilogues into products, products into chains.

Rules of this file: pure and deterministic. An operation becomes a part of another one (a transpose,
a bias, an activation, an inner product of a chain) only where nobody else needs its result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from deadheat.client.expressions import Held, Node
from deadheat.runtime.errors import InvalidInput
from deadheat.runtime.programs import (
    MAX_CHAIN,
    MAX_OPERATIONS,
    UNSENT,
    Activation,
    Binary,
    BinaryFunction,
    Chain,
    Gemm,
    Kind,
    Operand,
    Operation,
    Program,
    Transpose,
    Unary,
    UnaryFunction,
)

_ACTIVATIONS: Final = {
    UnaryFunction.TANH: Activation.TANH,
    UnaryFunction.RELU: Activation.RELU,
    UnaryFunction.GELU: Activation.GELU,
    UnaryFunction.GELU_TANH: Activation.GELU_TANH,
    UnaryFunction.SIGMOID: Activation.SIGMOID,
}
#: Constants up to this size are compared by their bytes, so that the number 2 is there once.
SAME_BYTES: Final = 64
#: Nodes of an expression: many become one operation, but not without bound.
MAX_NODES: Final = 4 * MAX_OPERATIONS


@dataclass(frozen=True)
class Lowered:
    """A program (None where the outputs are operands all), what its operands are, and the name of
    each output, which is that of an operand where nothing has to be computed."""

    program: Program | None
    held: Mapping[str, Held]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class _Step:
    kind: Kind
    reads: tuple[Node, ...]


def lower(outputs: Sequence[Node]) -> Lowered:
    """The program of several expressions; raises InvalidInput for one that is too large."""
    order, wanted = _without_repeats(outputs)
    steps = _Steps(order, wanted).made
    names: dict[int, str] = {}
    held: dict[str, Held] = {}
    operands: list[Operand] = []
    operations: list[Operation] = []
    needed = {id(read) for step in steps.values() for read in step.reads} | {id(n) for n in wanted}
    for node in order:
        if id(node) not in needed:
            continue
        if node.held is not None:
            name = names[id(node)] = f"x{len(operands) + 1}"
            held[name] = node.held
            operands.append(Operand(name, node.type, matrix_id=UNSENT))
            continue
        step = steps[id(node)]
        name = names[id(node)] = f"{type(step.kind).__name__.lower()}{len(operations) + 1}"
        operations.append(Operation(name, tuple(names[id(r)] for r in step.reads), step.kind))
    results = tuple(names[id(node)] for node in wanted)
    computed = tuple(dict.fromkeys(name for name in results if name not in held))
    if not computed:
        return Lowered(None, held, results)
    return Lowered(Program(tuple(operands), tuple(operations), computed), held, results)


def _without_repeats(outputs: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """All nodes, inputs first, equal ones once; and the outputs among them."""
    same: dict[object, Node] = {}
    became: dict[int, Node] = {}
    order: list[Node] = []
    waiting = [(node, False) for node in reversed(outputs)]
    while waiting:
        node, is_open = waiting.pop()
        if id(node) in became:
            continue
        if not is_open:
            waiting.append((node, True))
            waiting += [(other, False) for other in reversed(node.inputs)]
            continue
        inputs = tuple(became[id(other)] for other in node.inputs)
        key = _key(node, inputs)
        if key not in same:
            same[key] = node if inputs == node.inputs else replace(node, inputs=inputs)
            order.append(same[key])
            if len(order) > MAX_NODES:
                raise InvalidInput(f"the expression has more than {MAX_NODES} operations")
        became[id(node)] = same[key]
    return order, [became[id(node)] for node in outputs]


def _key(node: Node, inputs: tuple[Node, ...]) -> object:
    if node.held is None:
        return node.kind, tuple(id(other) for other in inputs)
    array = node.held.array
    if array is not None and array.nbytes <= SAME_BYTES:
        return node.type, array.tobytes()
    return id(node.held)


class _Steps:
    """What each node that is needed becomes, found from the outputs backwards."""

    def __init__(self, order: Sequence[Node], outputs: Sequence[Node]) -> None:
        self._uses = Counter(id(other) for node in order for other in node.inputs)
        # Whoever is an output is needed as it is, however few read it.
        self._uses.update({id(node): 2 for node in outputs})
        self.made: dict[int, _Step] = {}
        needed = {id(node) for node in outputs}
        for node in reversed(order):
            if id(node) in needed and node.kind is not None:
                step = self.made[id(node)] = self._step(node)
                needed |= {id(read) for read in step.reads}

    def _step(self, node: Node) -> _Step:
        assert node.kind is not None
        if fused := self._activated(node) or self._biased(node):
            return fused
        if self._is_product(node):
            return self._product(node)
        return _Step(node.kind, node.inputs)

    def _activated(self, node: Node) -> _Step | None:
        """`relu(A @ B + bias)` and its like, as one operation."""
        kind = node.kind
        if not isinstance(kind, Unary) or kind.function not in _ACTIVATIONS:
            return None
        inner = node.inputs[0]
        if self._uses[id(inner)] > 1 or not inner.type.element.is_float:
            return None
        step = self._biased(inner) or (self._product(inner) if self._is_product(inner) else None)
        if step is None or not isinstance(step.kind, Gemm):
            return None
        return replace(step, kind=replace(step.kind, activation=_ACTIVATIONS[kind.function]))

    def _biased(self, node: Node) -> _Step | None:
        """`A @ B + bias`, the bias being one row, in either order."""
        if node.kind != Binary(BinaryFunction.ADD):
            return None
        for inner, bias in (node.inputs, node.inputs[::-1]):
            is_row = bias.type == replace(inner.type, rows=1) and inner.type == node.type
            if is_row and self._is_product(inner) and self._uses[id(inner)] == 1:
                step = self._product(inner)
                if isinstance(step.kind, Gemm):
                    return replace(step, reads=(*step.reads, bias))
        return None

    @staticmethod
    def _is_product(node: Node) -> bool:
        return isinstance(node.kind, Gemm)

    def _product(self, node: Node) -> _Step:
        factors, flags = [], []
        for factor in self._factors(node):
            is_transposed = factor.kind == Transpose()
            factors.append(factor.inputs[0] if is_transposed else factor)
            flags.append(is_transposed)
        if len(factors) == 2:
            return _Step(Gemm(transpose_a=flags[0], transpose_b=flags[1]), tuple(factors))
        transposed = tuple(at for at, flag in enumerate(flags) if flag)
        return _Step(Chain(transposed), tuple(factors))

    def _factors(self, node: Node) -> list[Node]:
        """The matrices of a product, and of products in it that nobody else needs."""
        found: list[Node] = []
        waiting = list(reversed(node.inputs))
        while waiting:
            part = waiting.pop()
            is_inner = self._is_product(part) and self._uses[id(part)] == 1
            # An inner product adds a factor to those there are.
            if is_inner and len(found) + len(waiting) + 2 <= MAX_CHAIN:
                waiting += reversed(part.inputs)
            else:
                found.append(part)
        return found
