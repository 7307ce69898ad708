"""The recorded step: what kernels append to instead of computing, and what replays it without Python.

Owns the compiled core (instruction set, threads) and the fusion of neighbouring ops; what a step
consists of is the trainer's business.
"""

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, intptr_t, uintptr_t

from contextlib import contextmanager

import numpy as np

from fastnn.kernels.csrc cimport *

cdef extern from *:
    """
    static _Thread_local void *fnn_capturing; /* the Plan that this thread records, borrowed */
    """
    void *fnn_capturing

cnp.import_array()

# floats between two parameters of a flat vector are fewer than this
cdef int64_t PADDING = 16
# convolutions of fewer images are shared by rows and channels, too, and pooled apart
cdef int64_t POOLED_IMAGES = 16

# the time to read a weight is that of a product of so many samples
cdef int64_t READING = 3
# a thread sums the terms of its rows of a weight for so many samples: adding up the threads' sums takes
# its time, too
cdef int64_t MANY = 128
# a recurrent layer's sums over so many rows or more are worth adding up
cdef int64_t LONG = 128

cdef extern from "Python.h":
    int check_signals "PyErr_CheckSignals" () noexcept


cdef int poll() noexcept with gil:
    return check_signals()


cdef int raise_pending() except -1:
    """Raises what poll() left set."""
    return -1


cdef int check_aligned(fnn_op op, tuple arrays) except -1:
    """Buffers say nothing of alignment, and C may not read a float at an odd address."""
    for array in arrays:
        if cnp.PyArray_Check(array) and not cnp.PyArray_ISALIGNED(<cnp.ndarray>array):
            raise ValueError(
                f"{fnn_op_names[<int>op].decode()}: an array of shape {array.shape} lies at an address that "
                f"is no multiple of its item's size; copy it first"
            )
    return 0


cdef int submit(
    fnn_op op, const void *args, size_t size, double work, tuple reads, tuple writes
) except -1:
    """Runs a checked call, or records it where a plan is capturing on this thread.

    `reads` and `writes` are the arrays behind the pointers in `args`.
    """
    cdef fnn_outcome outcome
    check_aligned(op, reads)
    check_aligned(op, writes)
    if fnn_capturing == NULL:
        with nogil:
            outcome = fnn_run_op(op, args, work, poll)
        if outcome == FNN_HALTED_USER:
            raise_pending()
    else:
        (<Plan>fnn_capturing).append(op, args, size, work, reads, writes)
    return 0


cdef bint capturing() noexcept:
    return fnn_capturing != NULL


def recorded():
    """How many calls the plan that is being captured on this thread holds; None outside a capture."""
    return None if fnn_capturing == NULL else len(<Plan>fnn_capturing)


cdef class Operand:
    """One array of a recorded op: kept alive, its shape and its bytes."""

    cdef readonly object array
    cdef readonly uintptr_t start, stop

    def __cinit__(self, array):
        self.array = array
        cdef const unsigned char[:] raw = memoryview(array).cast("B") if array.size else b""
        self.start = <uintptr_t>&raw[0] if raw.shape[0] else 0
        self.stop = self.start + raw.shape[0]

    cdef bint overlaps(self, Operand other):
        return self.start < other.stop and other.start < self.stop

    cdef bint is_among(self, list others):
        cdef Operand other
        for other in others:
            if self.start == other.start and self.stop == other.stop:
                return True
        return False


cdef bint any_overlap(list these, list those):
    cdef Operand a, b
    for a in these:
        for b in those:
            if a.overlaps(b):
                return True
    return False


# copy from their first array as many elements as they write; their work is time, not FLOPs
cdef set GATHERS = {FNN_OP_gather_rows, FNN_OP_gather_labels, FNN_OP_embedding_forward}


class Op:
    """What a plan knows of one op beside its C arguments."""

    def __init__(self, name, gathers, reads, writes):
        self.name, self.gathers = name, gathers
        self.reads = [Operand(array) for array in reads if array is not None]
        self.writes = [Operand(array) for array in writes if array is not None]
        self.shapes = [tuple(operand.array.shape) for operand in self.reads + self.writes]

    @property
    def nbytes(self):
        """What it reads and writes."""
        arrays = [operand.array for operand in self.reads + self.writes]
        if self.gathers:
            return sum((operand.array.itemsize + arrays[0].itemsize) * operand.array.size for operand in self.writes)
        return sum(array.nbytes for array in arrays)


cdef set UPDATES = {
    FNN_OP_sgd_update, FNN_OP_rmsprop_update, FNN_OP_adam_update, FNN_OP_batchnorm_update, FNN_OP_advance
}


cdef object make_parts(int64_t size, float **parts, int **arrived):
    """Scratch for the sums of the threads that do not come last, and two counters of those that came, in lines apart."""
    array = np.zeros(size + 3 * FNN_LINE, np.float32)
    cdef float[::1] view = array
    parts[0], arrived[0] = &view[0], <int *>&view[size + FNN_LINE]
    return array


cdef set WEIGHT_GRADIENTS = {FNN_OP_dense_backward_w, FNN_OP_conv2d_backward_w, FNN_OP_sum_rows}


cdef struct activation_args:
    fnn_activation activation
    float slope
    const float *x # forward: input; backward: upstream gradient
    const float *saved # backward only
    float *out
    int64_t n


cdef activation_args forward_activation(fnn_plan_op *op):
    """The arguments of an activation; FNN_LINEAR for any other op."""
    cdef activation_args f
    cdef fnn_map_args *map
    cdef fnn_leaky_relu_forward_args *leaky
    cdef fnn_gelu_forward_args *gelu
    f = activation_args(FNN_LINEAR, 0, NULL, NULL, NULL, 0)
    if op.op in (FNN_OP_relu_forward, FNN_OP_sigmoid_forward, FNN_OP_tanh_forward):
        map = <fnn_map_args *>op.args
        f.x, f.out, f.n = map.x, map.out, map.n
        f.activation = (
            FNN_RELU if op.op == FNN_OP_relu_forward
            else FNN_SIGMOID if op.op == FNN_OP_sigmoid_forward else FNN_TANH
        )
    elif op.op == FNN_OP_leaky_relu_forward:
        leaky = <fnn_leaky_relu_forward_args *>op.args
        f.x, f.out, f.n = leaky.x, leaky.out, leaky.n
        f.activation, f.slope = FNN_LEAKY_RELU, leaky.slope
    elif op.op == FNN_OP_gelu_forward:
        gelu = <fnn_gelu_forward_args *>op.args
        f.x, f.out, f.n, f.slope = gelu.x, gelu.out, gelu.n, gelu.slope
        f.activation = FNN_GELU_TANH if gelu.approximate else FNN_GELU
    return f


cdef activation_args backward_activation(fnn_plan_op *op):
    """The arguments of an activation's gradient; FNN_LINEAR for any other op."""
    cdef activation_args f
    cdef fnn_map_backward_args *map
    cdef fnn_leaky_relu_backward_args *leaky
    cdef fnn_gelu_backward_args *gelu
    f = activation_args(FNN_LINEAR, 0, NULL, NULL, NULL, 0)
    if op.op in (FNN_OP_relu_backward, FNN_OP_sigmoid_backward, FNN_OP_tanh_backward):
        map = <fnn_map_backward_args *>op.args
        f.x, f.saved, f.out, f.n = map.dout, map.out, map.dx, map.n
        f.activation = (
            FNN_RELU if op.op == FNN_OP_relu_backward
            else FNN_SIGMOID if op.op == FNN_OP_sigmoid_backward else FNN_TANH
        )
    elif op.op == FNN_OP_leaky_relu_backward:
        leaky = <fnn_leaky_relu_backward_args *>op.args
        f.x, f.saved, f.out, f.n = leaky.dout, leaky.out, leaky.dx, leaky.n
        f.activation, f.slope = FNN_LEAKY_RELU, leaky.slope
    elif op.op == FNN_OP_gelu_backward:
        gelu = <fnn_gelu_backward_args *>op.args
        f.x, f.saved, f.out, f.n, f.slope = gelu.dout, gelu.x, gelu.dx, gelu.n, gelu.slope
        f.activation = FNN_GELU_TANH if gelu.approximate else FNN_GELU
    return f


cdef struct forward_host: # an op that can apply an activation to its output
    fnn_activation *activation # NULL: only a ReLU
    float *slope
    float **y
    cbool *relu
    const float *out # NULL: it cannot
    int64_t n


cdef forward_host host_of_forward(fnn_plan_op *op):
    cdef forward_host h
    cdef fnn_dense_forward_args *dense
    cdef fnn_conv2d_forward_args *conv
    cdef fnn_conv2d_backward_x_args *transposed
    h = forward_host(NULL, NULL, NULL, NULL, NULL, 0)
    if op.op == FNN_OP_dense_forward:
        dense = <fnn_dense_forward_args *>op.args
        if dense.activation == FNN_LINEAR:
            h.activation, h.slope, h.y = &dense.activation, &dense.slope, &dense.y
            h.out, h.n = dense.out, dense.n * dense.o
    elif op.op == FNN_OP_conv2d_forward:
        conv = <fnn_conv2d_forward_args *>op.args
        h.relu, h.out = &conv.relu, conv.out
        h.n = conv.shape.n * conv.shape.oh * conv.shape.ow * conv.shape.k
    elif op.op == FNN_OP_conv2d_backward_x:
        transposed = <fnn_conv2d_backward_x_args *>op.args
        h.relu, h.out = &transposed.relu, transposed.dx
        h.n = transposed.shape.n * transposed.shape.h * transposed.shape.w * transposed.shape.c
    return h


cdef struct backward_host: # an op that can multiply its gradient by that of an activation
    fnn_activation *activation
    float *slope
    const float **saved
    float **dx # NULL: it cannot
    int64_t n


cdef backward_host host_of_backward(fnn_plan_op *op):
    cdef backward_host h
    cdef fnn_dense_backward_x_args *dense
    cdef fnn_conv2d_backward_x_args *conv
    h = backward_host(NULL, NULL, NULL, NULL, 0)
    if op.op == FNN_OP_dense_backward_x:
        dense = <fnn_dense_backward_x_args *>op.args
        if dense.activation == FNN_LINEAR:
            h.activation, h.slope, h.saved, h.dx = &dense.activation, &dense.slope, &dense.saved, &dense.dx
            h.n = dense.n * dense.i
    elif op.op == FNN_OP_conv2d_backward_x:
        conv = <fnn_conv2d_backward_x_args *>op.args
        if conv.activation == FNN_LINEAR:
            h.activation, h.slope, h.saved, h.dx = &conv.activation, &conv.slope, &conv.saved, &conv.dx
            h.n = conv.shape.n * conv.shape.h * conv.shape.w * conv.shape.c
    return h


cdef class Plan:
    """A step, recorded: C functions and their arguments, replayed without the interpreter.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> x, out = np.array([-1.0, 2.0], np.float32), np.zeros(2, np.float32)
    >>> plan = kernels.Plan()
    >>> with plan.capture():
    ...     kernels.relu_forward(x, out)
    >>> out
    array([0., 0.], dtype=float32)
    >>> plan.replay()
    1
    >>> out
    array([0., 2.], dtype=float32)
    """

    cdef fnn_plan plan
    cdef list ops
    cdef bint running
    cdef int64_t profiled
    #: True when the last replay met a loss that is not finite: that step's update was not applied.
    cdef readonly bint stopped

    def __cinit__(self):
        self.ops = []

    def __dealloc__(self):
        fnn_plan_clear(&self.plan)

    cdef int append(
        self, fnn_op op, const void *args, size_t size, double work, tuple reads, tuple writes
    ) except -1:
        info = Op(fnn_op_names[<int>op].decode(), op in GATHERS, reads, writes)
        if not fnn_plan_append(&self.plan, op, args, size, work):
            raise MemoryError("out of memory while recording a plan")
        self.ops.append(info)
        return 0

    @contextmanager
    def capture(self):
        """Inside this block, on this thread, compiled kernels check and record instead of computing."""
        if fnn_capturing != NULL:
            raise RuntimeError("a plan is already being captured on this thread")
        self.start_capture()
        try:
            yield self
        finally:
            self.end_capture()
        self.place_barriers()

    cdef start_capture(self):
        global fnn_capturing
        fnn_capturing = <void *>self

    cdef end_capture(self):
        global fnn_capturing
        fnn_capturing = NULL

    def __len__(self):
        return self.plan.n

    # ---- fusion and order --------------------------------------------------------------------

    cdef place_barriers(self):
        """The threads meet only where an op touches what another share may still be writing."""
        cdef int i
        parallel_reads, parallel_writes, serial_reads, serial_writes = [], [], [], []
        # a loss may have ended the step: share 0 sees it at once, the others where all meet
        commits = judged = False
        for i, op in enumerate(self.ops):
            item = &self.plan.ops[i]
            before = commits
            commits = commits or item.op in UPDATES or (
                item.op == FNN_OP_dense_backward_w
                and (<fnn_dense_backward_w_args *>item.args).lr != NULL
            )
            item.commits = commits
            # serial ops are all of share 0, in order: only the other shares can race with them
            others_read = parallel_reads + ([] if item.serial else serial_reads)
            others_write = parallel_writes + ([] if item.serial else serial_writes)
            meets = (
                any_overlap(op.reads, others_write)
                or any_overlap(op.writes, others_write)
                or any_overlap(op.writes, others_read)
                # up to here a step may be interrupted
                or commits and not before and self.plan.work >= FNN_LONG_WORK
                or judged and not item.serial
                # here each further step begins
                or i == self.plan.once
            )
            if i > 0:
                if meets:
                    judged = False
                    parallel_reads, parallel_writes, serial_reads, serial_writes = [], [], [], []
                    self.plan.ops[i - 1].barrier = True
                else:
                    self.plan.ops[i - 1].barrier = False
            judged = judged or item.op == FNN_OP_log_step
            (serial_reads if item.serial else parallel_reads).extend(op.reads)
            (serial_writes if item.serial else parallel_writes).extend(op.writes)
        if self.plan.n:
            self.plan.ops[self.plan.n - 1].barrier = False # the step's own end is a meeting

    def fuse(self):
        """Merges neighbours into one pass over memory; results stay equal within rounding.

        dense + activation, convolution + ReLU + max pooling, the gradient of a dense, convolutional
        or max pooling layer's input + that of the activation before it, and plain SGD applied by the
        product that computes a weight's gradient. Where the samples end in one loss, the ground
        that most of them have in common is summed once. Threads keep the rows of the weights, and the
        sequences, that they have worked on. Steps of one sample are joined.
        """
        self.sum_backgrounds_once()
        self.share_weights()
        self.fuse_forward()
        self.fuse_backward()
        self.fuse_pooling()
        self.fuse_sgd()
        self.cut_updates()
        self.join_steps()
        self.place_barriers()
        return self

    cdef remove(self, int i):
        self.plan.work -= self.plan.ops[i].work
        fnn_plan_remove(&self.plan, i)
        del self.ops[i]

    cdef merge(self, int into, int gone):
        """Op `gone` is now part of op `into`."""
        cdef Operand operand
        target, source = self.ops[into], self.ops[gone]
        target.name += " + " + source.name
        for mine, theirs in ((target.reads, source.reads), (target.writes, source.writes)):
            for operand in theirs:
                if not operand.is_among(target.writes + mine):
                    mine.append(operand)
        self.plan.ops[into].work += self.plan.ops[gone].work
        self.plan.work += self.plan.ops[gone].work
        self.remove(gone)

    cdef sum_backgrounds_once(self):
        cdef int i
        # a prediction must not depend on the rows that it came with, a batch's loss does
        cdef bint batchwise = any(self.plan.ops[i].op == FNN_OP_log_step for i in range(self.plan.n))
        for i in range(self.plan.n):
            if self.plan.ops[i].op == FNN_OP_dense_forward:
                (<fnn_dense_forward_args *>self.plan.ops[i].args).batchwise = batchwise
            elif self.plan.ops[i].op == FNN_OP_dense_backward_w:
                (<fnn_dense_backward_w_args *>self.plan.ops[i].args).batchwise = batchwise

    cdef share_weights(self):
        """In training a thread best keeps the rows of a weight that it changes: it sums their terms, too.

        Then even one sample is worth sharing, for the time that it takes to read the weight; but not where
        zeros in the samples save most of that, nor where one thread sums a penalty over all weights.
        A recurrent layer's threads keep the sequences that they have swept when they sum over these.
        """
        cdef fnn_recurrent_backward_w_args *recurrent
        cdef fnn_dense_forward_args *forward
        cdef fnn_dense_backward_w_args *backward
        cdef int64_t n, size
        cdef int i
        cdef bint all_read = not any(self.plan.ops[i].op == FNN_OP_chunk_sums for i in range(self.plan.n))
        for i in range(self.plan.n):
            item = &self.plan.ops[i]
            if item.op == FNN_OP_gather_rows:
                sample = np.asarray(self.ops[i].reads[0].array[:64])
                all_read = all_read and 2 * np.count_nonzero(sample) > sample.size
            if item.op == FNN_OP_dense_forward:
                forward = <fnn_dense_forward_args *>item.args
                n = forward.n if forward.batchwise and fnn_blocks(forward.i) > 1 else 0
            elif item.op == FNN_OP_dense_backward_w:
                backward = <fnn_dense_backward_w_args *>item.args
                n = backward.n if backward.batchwise and fnn_blocks(backward.i) > 1 else 0
            elif item.op == FNN_OP_recurrent_backward_w:
                recurrent = <fnn_recurrent_backward_w_args *>item.args
                if recurrent.n > 1 and recurrent.t * recurrent.n >= LONG and not item.serial:
                    size = (recurrent.i + recurrent.h + 2) * recurrent.width
                    self.ops[i].writes.append(Operand(make_parts(size, &recurrent.parts, &recurrent.arrived)))
                continue
            else:
                continue
            if all_read and 0 < n < READING:
                item.serial = item.work * READING / n < FNN_PARALLEL_WORK
            if item.op == FNN_OP_dense_forward and not item.serial and 0 < n <= MANY:
                size = fnn_blocks(forward.i) // 2 * n * forward.o
                self.ops[i].writes.append(Operand(make_parts(size, &forward.parts, &forward.arrived)))

    cdef fuse_forward(self):
        cdef activation_args f
        cdef forward_host host
        cdef int i = 0
        while i + 1 < self.plan.n:
            f = forward_activation(&self.plan.ops[i + 1])
            host = host_of_forward(&self.plan.ops[i])
            if (
                host.out != NULL
                and f.activation != FNN_LINEAR
                and f.x == host.out
                and f.n == host.n
                # a ReLU keeps only its output, so it must be the one that overwrites its input
                and (f.activation != FNN_RELU or f.out == f.x)
                and (f.activation == FNN_RELU or host.activation != NULL)
                # a thread may finish its share while another still reads
                and not any_overlap(self.ops[i + 1].writes, self.ops[i].reads)
            ):
                if host.relu != NULL:
                    host.relu[0] = True
                else:
                    host.activation[0], host.slope[0], host.y[0] = f.activation, f.slope, f.out
                self.merge(i, i + 1)
                continue
            i += 1

    cdef fuse_backward(self):
        cdef activation_args f
        cdef backward_host host
        cdef int i, j
        for i in range(self.plan.n):
            host = host_of_backward(&self.plan.ops[i])
            if host.dx == NULL:
                continue
            j = i + 1 # the weight's gradient stands between the two
            while j < self.plan.n and self.plan.ops[j].op in WEIGHT_GRADIENTS:
                j += 1
            if j == self.plan.n:
                break
            f = backward_activation(&self.plan.ops[j])
            if (
                f.activation != FNN_LINEAR
                and f.x == host.dx[0]
                and f.n == host.n
                # moved before the weight's gradient, it must not write what that one reads
                and not any(any_overlap(self.ops[j].writes, op.reads) for op in self.ops[i:j])
            ):
                host.activation[0], host.slope[0] = f.activation, f.slope
                host.saved[0], host.dx[0] = f.saved, f.out
                self.merge(i, j)

    cdef bint is_read(self, list operands, int start):
        """Does an op from `start` on read this, before another writes there?"""
        for op in self.ops[start:]:
            if any_overlap(op.reads, operands):
                return True
            if any_overlap(op.writes, operands):
                return False
        return False

    cdef fuse_pooling(self):
        """Max pooling keeps what is above 0 of a ReLU, and of a convolution no more than it needs."""
        cdef fnn_maxpool2d_forward_args *pool
        cdef fnn_maxpool2d_backward_args *back
        cdef fnn_conv2d_forward_args *conv
        cdef activation_args f
        cdef int i, j
        for i in range(self.plan.n):
            if self.plan.ops[i].op != FNN_OP_maxpool2d_forward:
                continue
            pool = <fnn_maxpool2d_forward_args *>self.plan.ops[i].args
            for j in range(i + 1, self.plan.n - 1):
                if self.plan.ops[j].op != FNN_OP_maxpool2d_backward:
                    continue
                back = <fnn_maxpool2d_backward_args *>self.plan.ops[j].args
                f = backward_activation(&self.plan.ops[j + 1])
                if (
                    back.index == pool.index
                    and f.activation == FNN_RELU
                    and f.x == back.dx
                    and f.saved == pool.x
                    and not any_overlap(self.ops[j + 1].writes, self.ops[j].reads)
                ):
                    # the largest is above 0 where the one that it was taken from is
                    back.mask, back.dx = pool.out, f.out
                    op, relu = self.ops[j], self.ops[j + 1]
                    op.name += " + relu_backward"
                    op.reads.append(self.ops[i].writes[-1])
                    op.writes = relu.writes
                    self.remove(j + 1)
                    break
        i = 0
        while i + 1 < self.plan.n:
            if self.plan.ops[i].op == FNN_OP_conv2d_forward and self.plan.ops[i + 1].op == FNN_OP_maxpool2d_forward:
                conv = <fnn_conv2d_forward_args *>self.plan.ops[i].args
                pool = <fnn_maxpool2d_forward_args *>self.plan.ops[i + 1].args
                if (
                    pool.x == conv.out
                    and conv.shape.n >= POOLED_IMAGES
                    and fnn_conv2d_pools(&conv.shape)
                    and not self.is_read(self.ops[i].writes, i + 2)
                    # a thread may pool its share while another still reads
                    and not any_overlap(self.ops[i + 1].writes, self.ops[i].reads)
                ):
                    conv.pool, conv.wide, conv.index, conv.pooled = pool.shape, pool.wide, pool.index, pool.out
                    writes = self.ops[i + 1].writes
                    self.merge(i, i + 1)
                    self.ops[i].writes = writes
            i += 1

    cdef fuse_sgd(self):
        """Where plain SGD follows, every weight gradient goes straight into its weight."""
        cdef fnn_sgd_update_args sgd
        cdef fnn_dense_backward_w_args *w
        cdef fnn_penalty_gradient_args *penalty
        cdef int64_t end = 0
        cdef int i, last = -1
        for i in range(self.plan.n):
            if self.plan.ops[i].op == FNN_OP_sgd_update:
                last = i
        # a long step may be interrupted before its update, so the update must stay apart
        if last < 0 or self.plan.work >= FNN_LONG_WORK:
            return
        sgd = (<fnn_sgd_update_args *>self.plan.ops[last].args)[0]
        if sgd.velocity != NULL:
            return
        update = self.ops[last]
        grad, rest = update.reads[0], update.reads[1:]
        theta = update.writes[-1].array
        spans = {} # op -> its part of theta: weight, then bias
        penalties = {} # op -> the op of its weight's gradient
        for i in range(last):
            op = self.ops[i]
            if self.plan.ops[i].op == FNN_OP_dense_backward_w:
                w = <fnn_dense_backward_w_args *>self.plan.ops[i].args
                spans[i] = [(w.dw - sgd.grad, w.i * w.o)]
                if w.db != NULL:
                    spans[i].append((w.db - sgd.grad, w.o))
            elif self.plan.ops[i].op == FNN_OP_penalty_gradient:
                penalty = <fnn_penalty_gradient_args *>self.plan.ops[i].args
                span = (penalty.dw - sgd.grad, penalty.n)
                owners = [j for j in spans if spans[j][0] == span and j not in penalties.values()]
                if not owners or penalty.w - sgd.theta != span[0]:
                    return # a weight whose gradient comes from elsewhere
                penalties[i] = owners[0]
            elif any_overlap(op.reads + op.writes, [grad]):
                return # somebody else uses the gradient
        for start, count in sorted(sum(spans.values(), [])):
            if not end <= start < end + PADDING:
                return # a parameter whose gradient comes from elsewhere
            end = start + count
        if not end <= sgd.n < end + PADDING:
            return
        moved = {i: [Operand(theta[start:start + n]) for start, n in spans[i]] for i in spans}
        for i in moved:
            later = [self.ops[j] for j in range(i + 1, last) if j not in penalties]
            if any(any_overlap(moved[i], op.reads) for op in later):
                return # somebody needs the weight as it was
        for i in moved:
            w = <fnn_dense_backward_w_args *>self.plan.ops[i].args
            w.w = sgd.theta + (w.dw - sgd.grad)
            w.b = NULL if w.db == NULL else sgd.theta + (w.db - sgd.grad)
            w.lr, w.lr_len, w.clock = sgd.lr, sgd.lr_len, sgd.clock
            op = self.ops[i]
            op.name += " + sgd_update"
            op.reads += rest
            op.writes = moved[i]
        for i, j in penalties.items():
            penalty = <fnn_penalty_gradient_args *>self.plan.ops[i].args
            w = <fnn_dense_backward_w_args *>self.plan.ops[j].args
            w.l1, w.l2 = penalty.l1, penalty.l2
            self.ops[j].name += " + penalty"
        for i in sorted([last, *penalties], reverse=True):
            self.remove(i)

    cdef cut_updates(self):
        """Threads split every large weight by itself, as the product that gives its gradient is split."""
        cdef fnn_sgd_update_args *sgd
        cdef fnn_rmsprop_update_args *rmsprop
        cdef fnn_adam_update_args *adam
        cdef fnn_dense_backward_w_args *w
        cdef int64_t[::1] cuts
        cdef int64_t start
        cdef int i, j
        for i, op in enumerate(self.ops):
            item = &self.plan.ops[i]
            if item.op not in (FNN_OP_sgd_update, FNN_OP_rmsprop_update, FNN_OP_adam_update) or item.serial:
                continue
            grad = op.reads[0].array
            ends = set()
            for j in range(i):
                if self.plan.ops[j].op == FNN_OP_dense_backward_w and not self.plan.ops[j].serial:
                    w = <fnn_dense_backward_w_args *>self.plan.ops[j].args
                    start = (<intptr_t>w.dw - <intptr_t>(<Operand>op.reads[0]).start) // <intptr_t>sizeof(float)
                    if 0 <= start < grad.size:
                        ends |= {start, start + w.i * w.o}
            cuts = array = np.array(sorted(ends - {0, grad.size}), np.int64)
            if not array.size:
                continue
            op.reads.append(Operand(array))
            if item.op == FNN_OP_sgd_update:
                sgd = <fnn_sgd_update_args *>item.args
                sgd.cuts, sgd.n_cuts = &cuts[0], array.size
            elif item.op == FNN_OP_rmsprop_update:
                rmsprop = <fnn_rmsprop_update_args *>item.args
                rmsprop.cuts, rmsprop.n_cuts = &cuts[0], array.size
            else:
                adam = <fnn_adam_update_args *>item.args
                adam.cuts, adam.n_cuts = &cuts[0], array.size

    cdef join_steps(self):
        """One pass over the first weight moves it by a sample and multiplies it with the next one."""
        cdef fnn_gather_rows_args *gather
        cdef fnn_dense_forward_args *forward
        cdef fnn_dense_backward_w_args *backward
        cdef fnn_plan_op item
        cdef int64_t size
        cdef int i
        if self.plan.n == 0 or self.plan.ops[0].op != FNN_OP_gather_rows:
            return
        gather = <fnn_gather_rows_args *>self.plan.ops[0].args
        if gather.n != 1:
            return
        sample = self.ops[0].writes
        users = [i for i, op in enumerate(self.ops) if i > 0 and any_overlap(op.reads + op.writes, sample)]
        if len(users) != 2:
            return
        start, end = users
        if self.plan.ops[start].op != FNN_OP_dense_forward or self.plan.ops[end].op != FNN_OP_dense_backward_w:
            return
        forward = <fnn_dense_forward_args *>self.plan.ops[start].args
        backward = <fnn_dense_backward_w_args *>self.plan.ops[end].args
        if not (
            forward.n == 1
            and forward.x == gather.out == backward.x
            and backward.lr != NULL
            and forward.w == backward.w
            and forward.b == backward.b
        ):
            return
        first, last = self.ops[start], self.ops[end]
        for op in self.ops[1:start] + self.ops[end + 1:]: # what stands between the two then
            if any_overlap(op.reads + op.writes, first.writes) or any_overlap(op.writes, first.reads):
                return
        size = fnn_blocks(forward.i) * forward.o
        parts = make_parts(size, &backward.parts, &backward.arrived)
        backward.gather, backward.forward = gather, forward
        last.name += " + the next " + first.name
        last.reads += self.ops[0].reads[-1:] + first.reads # of the data one row
        last.writes += sample + first.writes + [Operand(parts)]
        self.plan.ops[end].work += self.plan.ops[start].work
        self.ops.insert(1, self.ops.pop(start))
        item = self.plan.ops[start]
        for i in range(start, 1, -1):
            self.plan.ops[i] = self.plan.ops[i - 1]
        self.plan.ops[1] = item
        self.plan.once = 2

    # ---- running ------------------------------------------------------------------------------

    cdef int64_t run(self, int64_t steps, double budget, bint profile) except -1:
        cdef int64_t done = 0
        cdef fnn_outcome outcome
        if fnn_capturing != NULL:
            raise RuntimeError("a plan cannot be replayed while one is being captured")
        if self.running:
            raise RuntimeError("this plan is already running in another thread")
        if steps <= 0 or self.plan.n == 0:
            return 0
        self.running = True
        with nogil:
            outcome = fnn_plan_run(&self.plan, steps, <int64_t>(budget * 1e9), profile, poll, &done)
        self.running = False
        self.profiled += done if profile else 0
        self.stopped = outcome == FNN_HALTED_LOSS
        if outcome == FNN_HALTED_USER:
            raise_pending()
        if outcome == FNN_HALTED_END:
            raise IndexError(f"after {done} of {steps} steps the clock is past the end of the epoch's data")
        return done

    @property
    def threads(self):
        """How many threads run a short step now, as trials have shown; 0 before the first replay."""
        return self.plan.pace.threads

    def replay(self, int64_t steps=1, double budget=0.04):
        """Runs up to `steps` whole steps, at least one, for at most about `budget` seconds.

        Returns
        -------
        int
            Steps done. Fewer than asked when time is up, or a loss was not finite (`stopped`).

        Raises
        ------
        IndexError
            The clock is past the data; the steps before were done.
        KeyboardInterrupt
            A long step was interrupted: everything that it would have updated is as before it.
        """
        return self.run(steps, budget, False)

    def profile(self, int64_t steps=1):
        """Runs `steps` steps with every op timed; `str(plan)` shows the mean of all profiled steps.

        Returns and raises what `replay` does, but does not stop for the time.
        """
        cdef int64_t done = 0
        while done < steps:
            done += self.run(steps - done, 0.04, True)
            if self.stopped:
                break
        return done

    def table(self):
        """One dict per op: name, shapes, bytes, flops, threads, and seconds where it was profiled."""
        cdef int i
        return [
            {
                "name": "once: " + op.name if i < self.plan.once else op.name,
                "shapes": op.shapes,
                "bytes": op.nbytes,
                "flops": 0.0 if op.gathers else self.plan.ops[i].work,
                "threads": 1 if self.plan.ops[i].serial else fnn_get_threads(),
                "seconds": self.plan.ops[i].seconds / self.profiled if self.profiled else None,
            }
            for i, op in enumerate(self.ops)
        ]

    def __str__(self):
        rows = self.table()
        timed = self.profiled > 0
        width = max([44] + [len(row["name"]) for row in rows])
        head = f"{'op':<{width}} {'threads':>7} {'KB':>9} {'MFLOP':>9}"
        head += f" {'us':>9} {'GFLOP/s':>8}" if timed else ""
        lines = [head + "  shapes"]
        total = {"name": f"a step of {len(rows) - self.plan.once} ops", "shapes": [], "threads": ""}
        for key in ("bytes", "flops", "seconds"):
            total[key] = sum(row[key] or 0 for row in rows[self.plan.once:])
        for row in [*rows, total]:
            line = f"{row['name']:<{width}} {row['threads']:>7} {row['bytes'] / 1e3:>9.1f} {row['flops'] / 1e6:>9.3f}"
            if timed:
                rate = row["flops"] / row["seconds"] / 1e9 if row["seconds"] else 0.0
                line += f" {row['seconds'] * 1e6:>9.2f} {rate:>8.1f}"
            shapes = " ".join("x".join(map(str, shape)) for shape in row["shapes"])
            lines.append(f"{line}  {shapes}".rstrip())
        return "\n".join(lines)

    def __repr__(self):
        flops = sum(row["flops"] for row in self.table()[self.plan.once:])
        return f"<Plan of {len(self)} ops, {flops / 1e6:.3f} MFLOP a step>"


# ---- the core: instruction set and threads ----------------------------------------------------

cdef fnn_isa other_isa # see use_table
cdef bytes other_name

def get_isa():
    """The instruction set in use: "scalar", "avx2" or "avx512"."""
    return fnn_current_isa.name.decode()


def available_isas():
    """The instruction sets that both this build and this CPU have, best first."""
    names, i = [], 0
    while fnn_available_isa(i) != NULL:
        names.append(fnn_available_isa(i).name.decode())
        i += 1
    return names


def select_isa(name=None):
    """Uses the instruction set `name`, or the best one; ValueError where it cannot be had."""
    if name is None:
        fnn_select_isa(NULL)
    elif fnn_select_isa(str(name).encode()) == NULL:
        raise ValueError(
            f"FASTNN_ISA is {name!r}, which this build or this CPU lacks: "
            f"expected one of {', '.join(available_isas())}"
        )


def use_table(uintptr_t table, name):
    """Uses the ops of a table at this address: how tests run vectors that the CPU lacks, emulated."""
    global fnn_current_isa, other_name
    other_name = name.encode()
    other_isa.name, other_isa.ops = other_name, <const fnn_fn *>table
    fnn_current_isa = &other_isa


def cpu_count():
    """CPUs that this process may use."""
    return fnn_cpu_count()


def get_num_threads():
    """Threads that share a kernel's work, the caller's included."""
    return fnn_get_threads()


def set_num_threads(int n):
    """Uses `n` threads, 1 to 256, from the next kernel or replay on."""
    if not 1 <= n <= FNN_MAX_THREADS:
        raise ValueError(f"n is {n}: expected a number of threads between 1 and {FNN_MAX_THREADS}")
    fnn_set_threads(n)
