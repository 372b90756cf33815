"""Files without permission in tests that run as root."""

import contextlib
import ctypes
import os

CAPABILITY_VERSION_3 = 0x20080522
# CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
CAPABILITIES = (1, 2)


@contextlib.contextmanager
def no_override():
    """Drop the capability that lets root ignore file modes, for this thread (capabilities(7)).

    Without root, nothing needs to be dropped. Switching to another user would not do: that user may not read
    the packages that are imported later.
    """
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable sets: the lower 32 capabilities, then the upper 32.
    current = (ctypes.c_uint32 * 6)()

    def call(name, sets):
        if getattr(libc, name)(header, sets) != 0:
            raise OSError(ctypes.get_errno(), f"{name} refused")

    call("capget", current)
    reduced = (ctypes.c_uint32 * 6)(*current)
    for capability in CAPABILITIES:
        reduced[0] &= ~(1 << capability)
    call("capset", reduced)
    try:
        yield
    finally:
        call("capset", current)
