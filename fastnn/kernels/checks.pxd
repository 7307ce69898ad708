"""The shape checks that every module of kernels makes, inlined."""


cdef inline tuple shape_of(const float[:, :, :, ::1] a):
    return (a.shape[0], a.shape[1], a.shape[2], a.shape[3])


cdef inline int same(
    str kernel, str name, Py_ssize_t size, str other, Py_ssize_t other_size
) except -1:
    """Checks that two vectors are equally long."""
    if size != other_size:
        raise ValueError(
            f"{kernel}: {name} of shape ({size},) does not fit {other} of shape ({other_size},)"
        )
    return 0


cdef inline int same_2d(
    str kernel, str name, const float[:, ::1] array, str other, const float[:, ::1] other_array
) except -1:
    """Checks that two matrices have the same shape; None fits."""
    if array is not None and (
        array.shape[0] != other_array.shape[0] or array.shape[1] != other_array.shape[1]
    ):
        raise ValueError(
            f"{kernel}: {name} of shape {(array.shape[0], array.shape[1])} does not fit {other} "
            f"of shape {(other_array.shape[0], other_array.shape[1])}"
        )
    return 0


cdef inline int fixed(str kernel, str name, Py_ssize_t size, Py_ssize_t wanted) except -1:
    """Checks a vector whose length is given by the contract."""
    if size != wanted:
        raise ValueError(f"{kernel}: {name} has shape ({size},), expected ({wanted},)")
    return 0
