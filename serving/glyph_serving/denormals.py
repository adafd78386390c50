"""Flushing denormal numbers to zero, as TensorFlow does in its own threads.

A session that runs in the caller's thread runs with the caller's rounding; without this, tiny numbers would come out
differently from the genuine server's, and be a hundred times slower.
"""

import ctypes
import platform

# Which 32-bit word of glibc's fenv_t holds the control register, and its bits that flush denormals.
_CONTROL = {"x86_64": (7, 0x8040), "aarch64": (0, 1 << 24)}


def flush_in_this_thread() -> None:
    """Makes arithmetic in the calling thread take and give zero for denormal numbers, where the CPU is known."""
    known = _CONTROL.get(platform.machine())
    if known is None or platform.system() != "Linux":
        return
    word, bits = known
    libm = ctypes.CDLL("libm.so.6")
    environment = (ctypes.c_uint32 * 8)()
    libm.fegetenv(environment)
    environment[word] |= bits
    libm.fesetenv(environment)
