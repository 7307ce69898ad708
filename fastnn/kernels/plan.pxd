"""What the kernel modules share: how a checked call is run, or recorded, and what a plan holds."""

from libc.stdint cimport int64_t, uintptr_t

from fastnn.kernels.csrc cimport fnn_op, fnn_plan

cdef int submit(
    fnn_op op, const void *args, size_t size, double work, tuple reads, tuple writes
) except -1

# Is a plan recording on this thread?  Then buffers need not hold anything sensible yet.
cdef bint capturing() noexcept


cdef class Operand:
    cdef readonly object array
    cdef readonly uintptr_t start, stop

    cdef bint overlaps(self, Operand other)
    cdef bint is_among(self, list others)


cdef bint any_overlap(list these, list those)


cdef class Plan:
    cdef fnn_plan c # the ops as C runs them
    cdef list ops # of each what Python knows: its name and its arrays
    cdef bint running
    cdef bint ended # the last replay came to the end of the data
    cdef int64_t profiled
    #: True when the last replay met a loss that is not finite: that step's update was not applied.
    cdef readonly bint stopped

    cdef int append(
        self, fnn_op op, const void *args, size_t size, double work, tuple reads, tuple writes
    ) except -1
    cdef int insert(
        self, int place, fnn_op op, const void *args, size_t size, double work, list reads, list writes
    ) except -1
    cdef start_capture(self)
    cdef end_capture(self)
    cdef place_barriers(self)
    cdef int64_t *clock(self)
    cdef check_idle(self)
    cdef remove(self, int i)
    cdef int64_t run(self, int64_t steps, double budget, bint profile) except -1
