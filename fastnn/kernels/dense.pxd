from libc.stdint cimport int64_t

cdef run_gemm(
    const float[:, ::1] a, const float[:, ::1] b, float[:, ::1] out, int64_t k, bint transpose_a, bint transpose_b
)
cdef sum_rows(const float[:, ::1] x, int64_t start, object out, float *to, int64_t n)
