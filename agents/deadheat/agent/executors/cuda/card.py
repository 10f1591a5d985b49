"""One card through CuPy: all that this package asks of it, and what its errors mean.

Rules of this file: CuPy is imported when a card is opened, nowhere else; the process sees exactly
one card (CUDA_VISIBLE_DEVICES names it by its UUID), which is therefore number 0.
"""

from __future__ import annotations

import importlib
import time
from enum import Enum
from typing import Any, Final

import numpy as np

from deadheat.runtime.errors import DeadheatError, Unavailable

#: cudaErrorMemoryAllocation, and CUBLAS_STATUS_ALLOC_FAILED in cuBLAS's own numbers.
_NO_MEMORY: Final = 2
_CUBLAS_NO_MEMORY: Final = 3
#: Errors after which a context does nothing any more (the CUDA runtime's numbers): ECC, an illegal
#: address or instruction, an assertion, a launch that failed or never ended, a device that is gone.
_STICKY: Final = frozenset({46, 214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 720, 999})
#: cudaHostRegisterReadOnly, without which what is mapped read-only cannot be pinned.
_READ_ONLY: Final = 8
#: The most bytes from one row to the next in a copy of several (cudaDeviceProp.memPitch).
MAX_PITCH_BYTES: Final = (1 << 31) - 1
#: The smallest product that takes cuBLAS and a compiled kernel: both are libraries of their own.
_PROBE_SIZE: Final = 16
#: Copies by which the link to a card is measured: a third of a millisecond each behind PCIe 5.
_LINK_PROBE_BYTES: Final = 16 << 20
_LINK_PROBES: Final = 5


class Fault(Enum):
    """What an error means for those who go on."""

    NONE = "the card is well"
    MEMORY = "less at once may do"
    LOST = "this process cannot use the card any more"


class Card:
    """The card that this process sees."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy
        self._runtime = cupy.cuda.runtime
        properties = self._runtime.getDeviceProperties(0)
        name = properties["name"]
        self.model: str = name.decode() if isinstance(name, bytes) else str(name)
        self.memory_free_bytes: int = self._runtime.memGetInfo()[0]
        handle = cupy.cuda.device.get_cublas_handle()
        #: A calibration holds for these, together with the card's model.
        self.library = (
            f"{self.model}, driver {self._runtime.driverGetVersion()}, "
            f"CuPy {cupy.__version__}, cuBLAS {cupy.cuda.cublas.getVersion(handle)}"
        )

    @staticmethod
    def open() -> Card:
        """Raises Unavailable that says what is missing: CuPy, a driver, a library of CUDA."""
        try:
            cupy = importlib.import_module("cupy")
        except ImportError as error:
            raise Unavailable(
                f"CuPy cannot be imported ({error}); install deadheat[cuda12] or deadheat[cuda13]"
            ) from error
        try:
            count = cupy.cuda.runtime.getDeviceCount()
            if count != 1:
                raise Unavailable(f"CUDA shows {count} cards where one was chosen")
            card = Card(cupy)
            card._prove()
        except DeadheatError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            raise Unavailable(f"the card cannot be used: {text}") from error
        return card

    def _prove(self) -> None:
        """Nobody shall find out in the middle of a job that a library is missing."""
        ones = self.cupy.ones((_PROBE_SIZE, _PROBE_SIZE), np.float32)
        made = self.cupy.asnumpy(self.cupy.matmul(ones, ones) + ones)
        if not np.all(made == _PROBE_SIZE + 1.0):
            raise Unavailable("the card multiplies wrong: ones by ones are not what they should be")

    # Memory and streams

    def stream(self) -> Any:
        """Does not wait for the default stream, nor that for it."""
        return self.cupy.cuda.Stream(non_blocking=True)

    def event(self) -> Any:
        """Whoever waits for it sleeps: a spinning thread would take a core from the CPU pool."""
        return self.cupy.cuda.Event(block=True, disable_timing=True)

    def pinned(self, size_bytes: int) -> np.ndarray[Any, Any]:
        """Host memory that the card reads and writes by itself, as bytes."""
        return np.frombuffer(self.cupy.cuda.alloc_pinned_memory(size_bytes), np.uint8, size_bytes)

    def pin(self, memory: np.ndarray[Any, Any], *, is_writable: bool) -> None:
        """Lets the card read (and write) mapped memory by itself. Raises CUDARuntimeError."""
        flags = 0 if is_writable else _READ_ONLY
        self._runtime.hostRegister(memory.ctypes.data, memory.nbytes, flags)

    def unpin(self, memory: np.ndarray[Any, Any]) -> None:
        """What has been pinned, when nothing is copied from it or to it any more."""
        self._runtime.hostUnregister(memory.ctypes.data)

    def link_bytes_per_s(self) -> float:
        """How fast it copies pinned memory to itself: the best of some copies."""
        host = self.pinned(_LINK_PROBE_BYTES).reshape(1, -1)
        array, stream = self.cupy.empty(host.shape, np.uint8), self.stream()
        took_s = []
        for _ in range(_LINK_PROBES):
            started_s = time.perf_counter()
            self.send(host, array, stream)
            stream.synchronize()
            took_s.append(time.perf_counter() - started_s)
        return _LINK_PROBE_BYTES / max(1e-9, min(took_s))

    def free_unused(self) -> None:
        """Gives memory back to the driver that arrays have left to CuPy."""
        self.cupy.get_default_memory_pool().free_all_blocks()

    def send(self, host: np.ndarray[Any, Any], array: Any, stream: Any) -> None:
        """Copies pinned memory, rows without gaps in themselves, to a card's array, later."""
        self._copy(array, host, stream, is_to_card=True)

    def fetch(self, array: Any, host: np.ndarray[Any, Any], stream: Any) -> None:
        """Copies a card's array to pinned memory, rows without gaps in themselves, later."""
        self._copy(array, host, stream, is_to_card=False)

    def _copy(
        self, array: Any, host: np.ndarray[Any, Any], stream: Any, *, is_to_card: bool
    ) -> None:
        runtime, (rows, columns) = self._runtime, array.shape
        width = columns * array.itemsize
        kind = runtime.memcpyHostToDevice if is_to_card else runtime.memcpyDeviceToHost
        there, here = array.data.ptr, host.ctypes.data
        target, source = (there, here) if is_to_card else (here, there)
        pitches = (array.strides[0], host.strides[0])
        if rows == 1 or pitches == (width, width):
            # In one run: a pitch has a limit, which it need not keep then.
            runtime.memcpyAsync(target, source, rows * width, kind, stream.ptr)
            return
        to, of = pitches if is_to_card else (pitches[1], pitches[0])
        runtime.memcpy2DAsync(target, to, source, of, width, rows, kind, stream.ptr)

    # Errors

    def fault_of(self, error: BaseException) -> Fault:
        """What an exception says of the card. One that is not known is put to the test: after a
        sticky error every call fails."""
        if isinstance(error, MemoryError):
            return Fault.MEMORY
        cuda = self.cupy.cuda
        kinds = (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError)
        status = getattr(error, "status", None)
        if isinstance(error, cuda.cublas.CUBLASError):
            return Fault.MEMORY if status == _CUBLAS_NO_MEMORY else self._health()
        if not isinstance(error, kinds):
            return Fault.NONE
        if status == _NO_MEMORY:
            return Fault.MEMORY
        return Fault.LOST if status in _STICKY else self._health()

    def _health(self) -> Fault:
        try:
            self._runtime.deviceSynchronize()
        except RuntimeError:  # The root of all of CUDA's errors in CuPy.
            return Fault.LOST
        return Fault.NONE
