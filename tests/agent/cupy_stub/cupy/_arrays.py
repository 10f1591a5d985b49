"""Arrays of the card, which do not mix with those of the host, and functions of them."""

from __future__ import annotations

from typing import Any

import numpy

from cupy._card import check, log
from cupy._memory import Memory
from cupy._streams import current


class _Pointer:
    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


class ndarray:
    def __init__(self, host: Any, memory: Memory) -> None:
        self._host = host
        self._memory = memory

    shape = property(lambda self: self._host.shape)
    strides = property(lambda self: self._host.strides)
    dtype = property(lambda self: self._host.dtype)
    size = property(lambda self: self._host.size)
    itemsize = property(lambda self: self._host.itemsize)
    nbytes = property(lambda self: self._host.nbytes)
    ndim = property(lambda self: self._host.ndim)
    data = property(lambda self: _Pointer(self._host.ctypes.data))
    flags = property(lambda self: self._host.flags)
    T = property(lambda self: ndarray(self._host.T, self._memory))

    def __array__(self, *args: Any, **keywords: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __getitem__(self, key: Any) -> Any:
        return ndarray(self._host[key], self._memory)

    def __setitem__(self, key: Any, value: Any) -> None:
        current()._drain()
        self._host[key] = _host(value)

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, copy: bool = True) -> Any:
        if not copy and self.dtype == dtype:
            return self
        return _made(numpy.ndarray.astype, self, dtype)

    def view(self, dtype: Any) -> Any:
        return ndarray(self._host.view(dtype), self._memory)

    def reshape(self, *shape: int) -> Any:
        found = self._host.reshape(*shape)
        if numpy.shares_memory(found, self._host) or not found.size:
            return ndarray(found, self._memory)
        return _made(numpy.reshape, self, found.shape)

    def transpose(self, *axes: int) -> Any:
        return ndarray(self._host.transpose(*axes), self._memory)

    def max(self, axis: Any = None, keepdims: bool = False) -> Any:
        return _made(numpy.max, self, axis=axis, keepdims=keepdims)

    def sum(self, axis: Any = None, keepdims: bool = False) -> Any:
        return _made(numpy.sum, self, axis=axis, keepdims=keepdims)


def _operator(name: str) -> Any:
    def apply(self: Any, other: Any) -> Any:
        found = _made(lambda a, b: getattr(a, name)(b), self, other)
        if name.startswith("__i"):
            self._host[...] = found._host
            return self
        return found

    return apply


for _name in ("eq", "ne"):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
for _name in ("add", "sub", "mul", "truediv", "pow", "and", "or", "xor"):
    for _kind in ("", "r", "i"):
        setattr(ndarray, f"__{_kind}{_name}__", _operator(f"__{_kind}{_name}__"))


def _host(value: Any) -> Any:
    """Matrices of the host do not mix with those of the card; numbers do."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, numpy.ndarray) and value.ndim:
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def _new(host: Any) -> ndarray:
    memory = Memory(host.nbytes)
    target = memory.bytes.view(host.dtype).reshape(host.shape) if host.size else host
    if host.size:
        target[...] = host
    return ndarray(target, memory)


def _made(function: Any, *arguments: Any, out: Any = None, **keywords: Any) -> Any:
    check()
    stream = current()
    stream._drain()
    log.append((stream.ptr, "kernel", 0))
    found = numpy.asarray(function(*map(_host, arguments), **keywords))
    if out is None:
        return _new(found)
    out._host[...] = found.astype(out.dtype)
    return out


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    dtype = numpy.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    memory = Memory(int(numpy.prod(shape)) * dtype.itemsize)
    return ndarray(memory.bytes.view(dtype).reshape(shape), memory)


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return _new(numpy.zeros(shape, dtype))


def ones(shape: Any, dtype: Any = float) -> ndarray:
    return _new(numpy.ones(shape, dtype))


def full(shape: Any, fill_value: Any, dtype: Any = None) -> ndarray:
    return _new(numpy.full(shape, fill_value, dtype))


def asnumpy(
    a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True
) -> Any:
    current()._drain()
    return a._host.copy()


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    return _made(numpy.ascontiguousarray, a)


def sum(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False
) -> Any:
    return _made(numpy.sum, a, axis=axis, dtype=dtype, keepdims=keepdims, out=out)


def _function(name: str) -> Any:
    def call(*arguments: Any, out: Any = None, **keywords: Any) -> Any:
        return _made(getattr(numpy, name), *arguments, out=out, **keywords)

    return call


for _name in (
    "add",
    "subtract",
    "multiply",
    "true_divide",
    "negative",
    "maximum",
    "exp",
    "tanh",
    "where",
):
    globals()[_name] = _function(_name)
