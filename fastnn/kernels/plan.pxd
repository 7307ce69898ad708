"""What the kernel modules share: how a checked call is run, or recorded."""

from fastnn.kernels.csrc cimport fnn_op

cdef int submit(
    fnn_op op, const void *args, size_t size, double work, tuple reads, tuple writes
) except -1

# Is a plan recording on this thread?  Then buffers need not hold anything sensible yet.
cdef bint capturing() noexcept
