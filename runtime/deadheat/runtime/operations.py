"""The kinds of operations and the work in them: values only; what they ask of their operands is in
`rules`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, StrEnum

from deadheat.runtime.dtypes import element_type
from deadheat.runtime.rectangles import Rectangle
from deadheat.runtime.windows import Pooling, Window, Windowed


class Activation(Enum):
    """What is applied to each element of a result; `GELU` is the exact form, with erf."""

    NONE = "none"
    RELU = "relu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    TANH = "tanh"
    SIGMOID = "sigmoid"


class Precision(Enum):
    """How exact the factors of a product of float32 have to be. `STRICT` takes them as they are.
    `TF32` lets a device keep ten bits of each (and eight of the exponent), where it is faster so;
    it sums in float32. A device that has nothing of the kind computes in full."""

    STRICT = "strict"
    TF32 = "tf32"


@dataclass(frozen=True, slots=True)
class Gemm:
    """`activation(alpha * op(A) @ op(B) + bias)`; operands in the order A, B[, bias].

    `inner` takes columns [start, stop) of op(A) and these rows of op(B) only: one part of a
    K-split. `out_dtype` keeps the result in the type in which it was summed (float32 for float16
    and bfloat16), so that parts are not rounded before they are added. Only products of float32 may
    have another `precision` than strict.
    """

    transpose_a: bool = False
    transpose_b: bool = False
    alpha: float = 1.0
    activation: Activation = Activation.NONE
    inner: tuple[int, int] | None = None
    out_dtype: str | None = None
    precision: Precision = Precision.STRICT


@dataclass(frozen=True, slots=True)
class Batched:
    """Products of stacks of matrices, whose batch dimensions are broadcast as NumPy's are: A lies
    there as the rows of all its matrices one below the other, and so do B and the result. Each
    product has the epilogue of `gemm`, which says nothing of transposes, inner parts and types."""

    gemm: Gemm
    a_batch: tuple[int, ...]
    b_batch: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sum:
    """`activation(alpha * (P1 + ... + Pn) + bias)`; operands P1, ..., Pn[, bias].

    Terms are added in the order of the operands, in their accumulation type, and rounded once, to
    `dtype` (None: the terms' own); the bias, if there is one, has that dtype.
    """

    bias: bool = False
    alpha: float = 1.0
    activation: Activation = Activation.NONE
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """`op(M1) @ ... @ op(Mn)` in whatever order is fastest; operands M1, ..., Mn.

    The planner rewrites it into products before anything is assigned: no device ever sees one.
    `transposed` are the positions (from 0, ascending) of operands that are read transposed. Its
    `precision` is that of all these products.
    """

    transposed: tuple[int, ...] = ()
    precision: Precision = Precision.STRICT


class UnaryFunction(Enum):
    """Functions of one element; `GELU` is the exact form, with erf."""

    NEGATIVE = "negative"
    EXP = "exp"
    TANH = "tanh"
    RELU = "relu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    SIGMOID = "sigmoid"


class BinaryFunction(Enum):
    """Functions of two elements."""

    ADD = "add"
    SUBTRACT = "subtract"
    MULTIPLY = "multiply"
    DIVIDE = "divide"


@dataclass(frozen=True, slots=True)
class Unary:
    """`function(A)`, element by element. The result's dtype is NumPy's: that of A, but for exp and
    tanh of integers and bool, which are floats. relu needs real numbers, gelu and sigmoid floats.
    """

    function: UnaryFunction


@dataclass(frozen=True, slots=True)
class Binary:
    """`function(A, B)`, element by element, with NumPy's broadcasting (a side with one row, one
    column or both is repeated) and dtypes."""

    function: BinaryFunction


@dataclass(frozen=True, slots=True)
class Cast:
    """The same elements in another dtype, as `astype` has them; complex stays complex."""

    dtype: str


@dataclass(frozen=True, slots=True)
class Softmax:
    """`exp(x) / sum(exp(x))` along each row, without overflow; real floats only."""


@dataclass(frozen=True, slots=True)
class SumAlong:
    """Sums of columns (`axis` 0: m x n becomes 1 x n) or of rows (`axis` 1: m x 1).

    With `block`, along axis 0, there is one row of sums for each `block` rows, the last block being
    what is left: the first half of a sum that many can make. Elements are added in their
    accumulation type, and rounded once to `dtype`. None stands for NumPy's: int64 or uint64 for
    integers and bool, else the operand's own; the accumulation type will do too, and float64 for
    integers, which then are added as such.
    """

    axis: int
    block: int | None = None
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class Transpose:
    """`A.T`, made in memory. Products read transposed operands where they are."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Some consecutive rows and columns."""

    rectangle: Rectangle


@dataclass(frozen=True, slots=True)
class Segment:
    """Operations that follow one another on the same rows, without a barrier between them.

    Its operands are what they read from outside, its result is that of the last one; what the
    others make is used inside only, and kept nowhere. `segments` says which may be joined.
    """

    operations: tuple[Operation, ...]


class Loss(Enum):
    """What a network is trained to make less of: a mean over the rows of a batch, and for mean
    squares over all elements."""

    CROSS_ENTROPY = "cross_entropy"
    MEAN_SQUARES = "mse"


class LayerFunction(Enum):
    """Layers without parameters; softmax goes along each row."""

    RELU = "relu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"


@dataclass(frozen=True, slots=True)
class Dense:
    """`x @ weight + bias`; the weight is inputs x outputs."""

    inputs: int
    outputs: int
    bias: bool = True

    @property
    def weight(self) -> tuple[int, int]:
        """Rows and columns of the weight; a bias has as many elements as it has columns."""
        return self.inputs, self.outputs

    @property
    def places(self) -> int:
        """How often a sample meets the weight."""
        return 1


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution that makes so many `channels`: a dense layer of all windows of a sample. The
    weight is depth x channels, a row for each element of a window."""

    window: Window
    channels: int
    bias: bool = True

    @property
    def inputs(self) -> int:
        return self.window.inputs

    @property
    def outputs(self) -> int:
        return self.channels * self.window.places

    @property
    def weight(self) -> tuple[int, int]:
        """As that of `Dense`."""
        return self.window.depth, self.channels

    @property
    def places(self) -> int:
        return self.window.places


Weighted = Dense | Convolution
TrainedLayer = Weighted | Pooling | LayerFunction


@dataclass(frozen=True, slots=True)
class Descent:
    """One pass of stochastic gradient descent over samples: epoch `epoch` (from 0) of `epochs`.

    Operands are the samples, their targets, the orders (one row of sample numbers for each epoch)
    and the state before; the result is the state behind it. What a state is says `descents`. For
    each batch, v = momentum * v + gradient and p = p - learning_rate * v for each parameter p.
    """

    layers: tuple[TrainedLayer, ...]
    loss: Loss
    batch_size: int
    learning_rate: float
    momentum: float
    epoch: int
    epochs: int


Elementwise = Unary | Binary | Cast
Rearranged = Transpose | Slice
Kind = (
    Gemm
    | Batched
    | Sum
    | Chain
    | Elementwise
    | Softmax
    | SumAlong
    | Rearranged
    | Windowed
    | Segment
    | Descent
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One step: `result = kind(*operands)`."""

    result: str
    operands: tuple[str, ...]
    kind: Kind


class Op(StrEnum):
    """What a device's speed depends on besides shape and dtype: a product is bound by arithmetic,
    a sum by memory, and the one says nothing of the other. Nor does a product in float32 of one
    whose factors may be TF32: on some cards that is many times as fast."""

    PRODUCT = "product"
    SUM = "sum"
    TF32_PRODUCT = "tf32_product"

    @property
    def is_product(self) -> bool:
        return self is not Op.SUM

    @staticmethod
    def of(precision: Precision) -> Op:
        return Op.TF32_PRODUCT if precision is Precision.TF32 else Op.PRODUCT


@dataclass(frozen=True, slots=True)
class GemmShape:
    """The sizes of one product, C (rows x columns) = A (rows x inner) @ B (inner x columns).

    Of a sum, `inner` counts the operations for one element: additions and epilogue. A segment has
    `parts`, the shapes of its operations, and takes as long as these on as many rows as it has; so
    has a convolution.
    A descent has the products of one step as parts, which are done as they are, so many `times`.
    """

    rows: int
    inner: int
    columns: int
    dtype: str
    op: Op = Op.PRODUCT
    parts: tuple[GemmShape, ...] = ()
    times: int = 0

    @property
    def flops(self) -> float:
        if self.parts:
            return max(1, self.times) * sum(part.flops for part in self.sized_parts)
        element = element_type(self.dtype)
        steps = float(self.rows) * self.inner * self.columns
        return steps * (element.flops_per_step if self.op.is_product else element.flops_per_add)

    @property
    def sized_parts(self) -> tuple[GemmShape, ...]:
        """The parts with the rows that they are done on."""
        return self.parts if self.times else tuple(p.with_rows(self.rows) for p in self.parts)

    def with_rows(self, rows: int) -> GemmShape:
        return replace(self, rows=rows)
