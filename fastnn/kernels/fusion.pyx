"""What makes a recorded step faster before it is replayed: neighbouring ops become one pass over memory.

Owns which ops may be merged or moved, and what the threads share within them.
"""

from libc.stdint cimport int64_t, intptr_t, uintptr_t

import numpy as np

from fastnn.kernels.csrc cimport *
from fastnn.kernels.plan cimport Operand, Plan, any_overlap

# floats between two parameters of a flat vector are fewer than this
cdef int64_t PADDING = 16
# convolutions of fewer images are shared by rows and channels, too, and pooled apart
cdef int64_t POOLED_IMAGES = 16

# the time to read a weight is that of a product of so many samples
cdef int64_t READING = 3
# a thread sums the terms of its rows of a weight for so many samples: adding up the threads' sums takes
# its time, too
cdef int64_t MANY = 128
# samples of the steps that move the first weight together, and at most of one such step: twice as many where
# the weight has so many numbers or more
cdef int64_t BLOCK = 24, FEW = 4, LARGE = 2**18
# to multiply samples with each other pays for so many features and units or more, for so many units a sample,
# and where so much of the samples is not 0
cdef int64_t LEAST = 32, WIDE = 16
cdef double SPARSE = 1 / 16
# a recurrent layer's sums over so many rows or more are worth adding up
cdef int64_t LONG = 128


# ops that may stand between the gradients of a layer's input and of the activation before it
cdef set WEIGHT_GRADIENTS = {FNN_OP_dense_backward_w, FNN_OP_conv2d_backward_w, FNN_OP_sum_rows}


def fuse(Plan plan not None):
    """Merges neighbours into one pass over memory; results stay equal within rounding.

    dense + activation, convolution + ReLU + max pooling, the gradient of a dense, convolutional
    or max pooling layer's input + that of the activation before it, and plain SGD applied by the
    product that computes a dense layer's gradient. Where the samples end in one loss, the ground
    that most of them have in common is summed once. Threads keep the rows of the weights, and the
    sequences, that they have worked on. Steps of few samples move the first weight together.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn import kernels
    >>> x, w, out = np.ones((2, 3), np.float32), np.ones((3, 4), np.float32), np.empty((2, 4), np.float32)
    >>> plan = kernels.Plan()
    >>> with plan.capture():
    ...     kernels.dense_forward(x, w, None, out)
    ...     kernels.tanh_forward(out.reshape(-1), out.reshape(-1))
    >>> len(plan)
    2
    >>> kernels.fuse(plan)
    >>> [op["name"] for op in plan.table()]
    ['dense_forward + tanh_forward']
    """
    sum_backgrounds_once(plan)
    fuse_forward(plan)
    fuse_backward(plan)
    fuse_pooling(plan)
    fuse_sgd(plan)
    filled = share_of_numbers(plan)
    delay_updates(plan, filled)
    share_weights(plan, filled)
    cut_updates(plan)
    plan.place_barriers()


cdef sum_backgrounds_once(Plan plan):
    cdef int i
    # a prediction must not depend on the rows that it came with, a batch's loss does
    cdef bint batchwise = any(plan.c.ops[i].op == FNN_OP_log_step for i in range(plan.c.n))
    for i in range(plan.c.n):
        if plan.c.ops[i].op == FNN_OP_dense_forward:
            (<fnn_dense_forward_args *>plan.c.ops[i].args).batchwise = batchwise
        elif plan.c.ops[i].op == FNN_OP_dense_backward_w:
            (<fnn_dense_backward_w_args *>plan.c.ops[i].args).batchwise = batchwise


cdef object make_parts(int64_t size, float **parts, int **arrived):
    """Scratch for sums that whoever comes last adds up, and two counters of those that came, in lines apart."""
    array = np.zeros(size + 3 * FNN_LINE, np.float32)
    cdef float[::1] view = array
    parts[0], arrived[0] = &view[0], <int *>&view[size + FNN_LINE]
    return array


cdef double share_of_numbers(Plan plan):
    """How much of the first samples, where steps fetch them, is not 0."""
    for i, op in enumerate(plan.ops):
        if plan.c.ops[i].op == FNN_OP_gather_rows:
            sample = np.asarray(op.reads[0].array[:64])
            return np.count_nonzero(sample) / max(sample.size, 1)
    return 1.0


cdef share_weights(Plan plan, double filled):
    """In training a thread best keeps the rows of a weight that it changes: it sums their terms, too.

    Then even one sample is worth sharing, for the time that it takes to read the weight; but not where
    zeros in the samples save most of that, nor where a sum over all weights is taken, for a penalty's
    loss or the norm of the gradient.
    A recurrent layer's threads keep the sequences that they have swept when they sum over these.
    """
    cdef fnn_recurrent_backward_w_args *recurrent
    cdef fnn_dense_forward_args *forward
    cdef fnn_dense_backward_w_args *backward
    cdef int64_t n, size
    cdef int i
    cdef bint all_read = filled > 0.5 and not any(plan.c.ops[i].op == FNN_OP_chunk_sums for i in range(plan.c.n))
    for i in range(plan.c.n):
        item = &plan.c.ops[i]
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
                plan.ops[i].writes.append(Operand(make_parts(size, &recurrent.parts, &recurrent.arrived)))
            continue
        else:
            continue
        if all_read and 0 < n < READING:
            item.serial = item.work * READING / n < FNN_PARALLEL_WORK
        if item.op == FNN_OP_dense_forward and not item.serial and 0 < n <= MANY:
            size = fnn_blocks(forward.i) // 2 * n * forward.o
            plan.ops[i].writes.append(Operand(make_parts(size, &forward.parts, &forward.arrived)))


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


cdef merge(Plan plan, int into, int gone):
    """Op `gone` is now part of op `into`."""
    cdef Operand operand
    target, source = plan.ops[into], plan.ops[gone]
    target.name += " + " + source.name
    for mine, theirs in ((target.reads, source.reads), (target.writes, source.writes)):
        for operand in theirs:
            if not operand.is_among(target.writes + mine):
                mine.append(operand)
    plan.c.ops[into].work += plan.c.ops[gone].work
    plan.c.work += plan.c.ops[gone].work
    plan.remove(gone)


cdef fuse_forward(Plan plan):
    cdef activation_args f
    cdef forward_host host
    cdef int i = 0
    while i + 1 < plan.c.n:
        f = forward_activation(&plan.c.ops[i + 1])
        host = host_of_forward(&plan.c.ops[i])
        if (
            host.out != NULL
            and f.activation != FNN_LINEAR
            and f.x == host.out
            and f.n == host.n
            # a ReLU keeps only its output, so it must be the one that overwrites its input
            and (f.activation != FNN_RELU or f.out == f.x)
            and (f.activation == FNN_RELU or host.activation != NULL)
            # a thread may finish its share while another still reads
            and not any_overlap(plan.ops[i + 1].writes, plan.ops[i].reads)
        ):
            if host.relu != NULL:
                host.relu[0] = True
            else:
                host.activation[0], host.slope[0], host.y[0] = f.activation, f.slope, f.out
            merge(plan, i, i + 1)
            continue
        i += 1


cdef bint is_read_but_by(Plan plan, int reader, list operands, int start):
    """Does another op than this from `start` on, or in the next step, read this before one writes there?"""
    cdef int i
    for i in (*range(start, plan.c.n), *range(start)):
        if i != reader and any_overlap(plan.ops[i].reads, operands):
            return True
        if any_overlap(plan.ops[i].writes, operands):
            return False
    return False


cdef fuse_backward(Plan plan):
    cdef activation_args f
    cdef backward_host host
    cdef int i, j
    for i in range(plan.c.n):
        host = host_of_backward(&plan.c.ops[i])
        if host.dx == NULL:
            continue
        j = i + 1 # the weight's gradient stands between the two
        while j < plan.c.n and plan.c.ops[j].op in WEIGHT_GRADIENTS:
            j += 1
        if j == plan.c.n:
            break
        f = backward_activation(&plan.c.ops[j])
        if (
            f.activation != FNN_LINEAR
            and f.x == host.dx[0]
            and f.n == host.n
            # moved before the weight's gradient, it must not write what that one reads
            and not any(any_overlap(plan.ops[j].writes, op.reads) for op in plan.ops[i:j])
            and (f.out == f.x or not is_read_but_by(plan, j, plan.ops[i].writes, i + 1))
        ):
            host.activation[0], host.slope[0] = f.activation, f.slope
            host.saved[0], host.dx[0] = f.saved, f.out
            merge(plan, i, j)


cdef fuse_pooling(Plan plan):
    """Max pooling keeps what is above 0 of a ReLU, and of a convolution no more than it needs."""
    cdef fnn_maxpool2d_forward_args *pool
    cdef fnn_maxpool2d_backward_args *back
    cdef fnn_conv2d_forward_args *conv
    cdef activation_args f
    cdef int i, j
    for i in range(plan.c.n):
        if plan.c.ops[i].op != FNN_OP_maxpool2d_forward:
            continue
        pool = <fnn_maxpool2d_forward_args *>plan.c.ops[i].args
        for j in range(i + 1, plan.c.n - 1):
            if plan.c.ops[j].op != FNN_OP_maxpool2d_backward:
                continue
            back = <fnn_maxpool2d_backward_args *>plan.c.ops[j].args
            f = backward_activation(&plan.c.ops[j + 1])
            if (
                back.index == pool.index
                and f.activation == FNN_RELU
                and f.x == back.dx
                and f.saved == pool.x
                and not any_overlap(plan.ops[j + 1].writes, plan.ops[j].reads)
                and not any(any_overlap(op.writes, plan.ops[i].writes[-1:]) for op in plan.ops[i + 1:j])
                and (f.out == f.x or not is_read_but_by(plan, j + 1, plan.ops[j].writes, j + 1))
            ):
                # the largest is above 0 where the one that it was taken from is
                back.mask, back.dx = pool.out, f.out
                op, relu = plan.ops[j], plan.ops[j + 1]
                op.name += " + relu_backward"
                op.reads.append(plan.ops[i].writes[-1])
                op.writes = relu.writes
                plan.remove(j + 1)
                break
    i = 0
    while i + 1 < plan.c.n:
        if plan.c.ops[i].op == FNN_OP_conv2d_forward and plan.c.ops[i + 1].op == FNN_OP_maxpool2d_forward:
            conv = <fnn_conv2d_forward_args *>plan.c.ops[i].args
            pool = <fnn_maxpool2d_forward_args *>plan.c.ops[i + 1].args
            if (
                pool.x == conv.out
                and conv.shape.n >= POOLED_IMAGES
                and fnn_conv2d_pools(&conv.shape)
                and not is_read_but_by(plan, i + 1, plan.ops[i].writes, i + 1)
                # a thread may pool its share while another still reads
                and not any_overlap(plan.ops[i + 1].writes, plan.ops[i].reads)
            ):
                conv.pool, conv.wide, conv.index, conv.pooled = pool.shape, pool.wide, pool.index, pool.out
                writes, work = plan.ops[i + 1].writes, plan.c.ops[i].work
                merge(plan, i, i + 1)
                plan.ops[i].writes, plan.c.ops[i].work = writes, work # pooling takes time, but no FLOPs
        i += 1


cdef fuse_sgd(Plan plan):
    """Where plain SGD follows, a dense layer's weight gradient goes straight into its weight."""
    cdef int i
    for i in reversed(range(plan.c.n)): # one for each part that is trained
        if i < plan.c.n and plan.c.ops[i].op == FNN_OP_sgd_update: # some ops may be gone
            fuse_update(plan, i)


cdef fuse_update(Plan plan, int last):
    cdef fnn_sgd_update_args sgd
    cdef fnn_dense_backward_w_args *w
    cdef fnn_penalty_gradient_args *penalty
    cdef int i
    # a long step may be interrupted before its update, so the update must stay apart
    if plan.c.work >= FNN_LONG_WORK:
        return
    sgd = (<fnn_sgd_update_args *>plan.c.ops[last].args)[0]
    if sgd.velocity != NULL:
        return
    update = plan.ops[last]
    grad, rest = update.reads[0], update.reads[1:]
    theta = update.writes[-1].array
    spans = {} # op -> its part of theta: weight, then bias
    penalties = {} # op -> the op of its weight's gradient
    others = [] # what else is done with gradients
    for i in range(last):
        op = plan.ops[i]
        if plan.c.ops[i].op == FNN_OP_dense_backward_w:
            w = <fnn_dense_backward_w_args *>plan.c.ops[i].args
            if not sgd.grad <= w.dw < sgd.grad + sgd.n:
                continue # of another part, or frozen
            spans[i] = [(w.dw - sgd.grad, w.i * w.o)]
            if w.db != NULL:
                spans[i].append((w.db - sgd.grad, w.o))
        elif plan.c.ops[i].op == FNN_OP_penalty_gradient:
            penalty = <fnn_penalty_gradient_args *>plan.c.ops[i].args
            if not sgd.grad <= penalty.dw < sgd.grad + sgd.n:
                continue
            span = (penalty.dw - sgd.grad, penalty.n)
            owners = [j for j in spans if spans[j][0] == span and j not in penalties.values()]
            if owners and penalty.w - sgd.theta == span[0]:
                penalties[i] = owners[0]
            else:
                others += op.reads + op.writes
        elif any_overlap(op.reads + op.writes, [grad]):
            others += op.reads + op.writes
    if not spans:
        return
    if any(any_overlap(others, [Operand(grad.array[start:start + n])]) for start, n in sum(spans.values(), [])):
        return # somebody else uses the gradient
    moved = {i: [Operand(theta[start:start + n]) for start, n in spans[i]] for i in spans}
    for i in moved:
        later = [plan.ops[j] for j in range(i + 1, last) if j not in penalties]
        if any(any_overlap(moved[i], op.reads) for op in later):
            return # somebody needs the weight as it was
    for i in moved:
        w = <fnn_dense_backward_w_args *>plan.c.ops[i].args
        w.w = sgd.theta + (w.dw - sgd.grad)
        w.b = NULL if w.db == NULL else sgd.theta + (w.db - sgd.grad)
        w.lr, w.lr_len, w.clock = sgd.lr, sgd.lr_len, sgd.clock
        op = plan.ops[i]
        op.name += " + sgd_update"
        op.reads += rest
        op.writes = moved[i]
    for i, j in penalties.items():
        penalty = <fnn_penalty_gradient_args *>plan.c.ops[i].args
        w = <fnn_dense_backward_w_args *>plan.c.ops[j].args
        w.l1, w.l2 = penalty.l1, penalty.l2
        plan.ops[j].name += " + penalty"
    move_rest(plan, last, spans)
    for i in sorted([last, *penalties], reverse=True):
        plan.remove(i)


cdef move_rest(Plan plan, int last, dict spans):
    """After this update those of the parameters that are not in the spans."""
    cdef fnn_sgd_update_args sgd = (<fnn_sgd_update_args *>plan.c.ops[last].args)[0], part
    cdef int64_t end = 0
    update = plan.ops[last]
    for start, n in sorted(sum(spans.values(), [(sgd.n, 0)])):
        if start - end >= PADDING: # else they are what aligns the next
            part = sgd
            part.grad, part.theta, part.n = sgd.grad + end, sgd.theta + end, start - end
            parts = [Operand(whole.array[end:start]) for whole in (update.reads[0], update.writes[-1])]
            plan.insert(last + 1, FNN_OP_sgd_update, &part, sizeof(part), 8.0 * part.n, [parts[0], *update.reads[1:]], parts[1:])
        end = start + n


cdef cut_updates(Plan plan):
    """Threads split every large weight by itself, as the product that gives its gradient is split."""
    cdef fnn_sgd_update_args *sgd
    cdef fnn_rmsprop_update_args *rmsprop
    cdef fnn_adam_update_args *adam
    cdef fnn_dense_backward_w_args *w
    cdef fnn_conv2d_backward_w_args *conv
    cdef int64_t[::1] cuts
    cdef int64_t start, size
    cdef int i, j
    for i, op in enumerate(plan.ops):
        item = &plan.c.ops[i]
        if item.op not in (FNN_OP_sgd_update, FNN_OP_rmsprop_update, FNN_OP_adam_update) or item.serial:
            continue
        grad = op.reads[0].array
        ends = set()
        for j in range(i):
            if plan.c.ops[j].serial:
                continue
            if plan.c.ops[j].op == FNN_OP_dense_backward_w:
                w = <fnn_dense_backward_w_args *>plan.c.ops[j].args
                dw, size = <intptr_t>w.dw, w.i * w.o
            elif plan.c.ops[j].op == FNN_OP_conv2d_backward_w:
                conv = <fnn_conv2d_backward_w_args *>plan.c.ops[j].args
                dw, size = <intptr_t>conv.dw, conv.shape.kh * conv.shape.kw * conv.shape.c * conv.shape.k
            else:
                continue
            start = (<intptr_t>dw - <intptr_t>(<Operand>op.reads[0]).start) // <intptr_t>sizeof(float)
            if 0 <= start < grad.size:
                ends |= {start, start + size}
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


cdef list among(list operands, const void *start):
    """Those of the operands that begin here."""
    cdef Operand operand
    return [operand for operand in operands if operand.start == <uintptr_t>start]


cdef object ops_to_delay(Plan plan, double filled, fnn_delayed_args *a):
    """Where the first weight is multiplied, where a penalty sums it (or 0) and where it is moved; None if steps
    cannot do that together, or had better not.
    """
    cdef int forward, backward, squares = 0, last = plan.c.n - 1
    if plan.c.n == 0 or plan.c.ops[0].op != FNN_OP_gather_rows or plan.c.ops[last].op != FNN_OP_advance:
        return None
    gather = plan.ops[0]
    users = [j for j in range(1, plan.c.n) if any_overlap(plan.ops[j].reads + plan.ops[j].writes, gather.writes)]
    if len(users) != 2:
        return None
    forward, backward = users
    if plan.c.ops[forward].op != FNN_OP_dense_forward or plan.c.ops[backward].op != FNN_OP_dense_backward_w:
        return None
    a.gather = (<fnn_gather_rows_args *>plan.c.ops[0].args)[0]
    a.forward = (<fnn_dense_forward_args *>plan.c.ops[forward].args)[0]
    a.backward = (<fnn_dense_backward_w_args *>plan.c.ops[backward].args)[0]
    n, i, o = a.forward.n, a.forward.i, a.forward.o
    if not (
        0 < n <= (FEW if i * o < LARGE else 2 * FEW)
        and i >= LEAST
        and o >= max(LEAST, WIDE * n)
        and filled >= SPARSE
        and n == a.gather.n
        and a.forward.x == a.gather.out == a.backward.x
        and a.forward.w == a.backward.w
        and a.forward.b == a.backward.b
        and a.backward.lr != NULL
        and a.backward.l1 == 0
        # a block of steps is not interrupted
        and plan.c.work * (BLOCK // n) < FNN_LONG_WORK
    ):
        return None
    a.squares = fnn_chunk_sums_args(NULL, 0, 0, NULL, 0)
    weight, bias = among(plan.ops[forward].reads, a.forward.w), among(plan.ops[backward].writes, a.backward.b)
    for j, op in enumerate(plan.ops):
        if j in users or not any_overlap(op.reads + op.writes, weight + bias):
            continue
        if plan.c.ops[j].op == FNN_OP_chunk_sums:
            a.squares = (<fnn_chunk_sums_args *>plan.c.ops[j].args)[0]
        if (
            squares
            or plan.c.ops[j].op != FNN_OP_chunk_sums
            or not forward < j < backward
            or a.squares.x != a.forward.w
            or a.squares.n != i * o
            or a.squares.l1 != 0
            or a.squares.l2 != a.backward.l2
            or any(any_overlap(other.writes, op.writes) for other in plan.ops if other is not op)
        ):
            return None # somebody else needs them as they are after each step
        squares = j
    return forward, squares, backward


cdef delay_updates(Plan plan, double filled):
    """The steps of a block multiply their samples with the first weight at once, and move it at once.

    Each reckons with what the steps before it still owe the weight (csrc/delayed.c). It pays where samples
    are so few that a step takes as long as to read the weight and to write it.
    """
    cdef fnn_delayed_args a
    cdef Operand operand, x, z, g, d, state
    cdef int forward, backward, squares, last = plan.c.n - 1
    found = ops_to_delay(plan, filled, &a)
    if found is None:
        return
    forward, squares, backward = found
    n, i, o = a.forward.n, a.forward.i, a.forward.o
    gather, start, end, advance = [plan.ops[j] for j in (0, forward, backward, last)]
    weight, bias = among(start.reads, a.forward.w), among(end.writes, a.backward.b)
    samples = among(end.reads, a.gather.out)
    dout = [operand for operand in end.reads if operand not in samples] # and what SGD reads
    plan.c.block = BLOCK // n
    a.rows = plan.c.block * n
    x, z, g, d = [Operand(np.zeros((a.rows, m), np.float32)) for m in (i, o, a.rows, o)]
    state = Operand(np.zeros(sizeof(fnn_delayed_state) // 8, np.int64))
    a.x, a.z, a.g, a.d = <float *>x.start, <float *>z.start, <float *>g.start, <float *>d.start
    a.state, a.left = <fnn_delayed_state *>state.start, &plan.c.left
    few_z, few_g, few_d = [Operand(operand.array[:n]) for operand in (z, g, d)] # a step's
    together = f"every {plan.c.block} steps: "
    block_work = 2.0 * a.rows * i * o
    # from the end on, so that places stay what they are
    insert_part(plan, last + 1, &a, FNN_UPDATE_BLOCK, together + end.name, block_work, [x, d, state] + advance.writes, weight)
    insert_part(
        plan, backward, &a, FNN_BACKWARD_STEP, end.name + ", delayed", 2.0 * n * o,
        dout + ([few_z, few_g] if a.backward.l2 else []), [d if a.backward.l2 else few_d, state] + bias,
    )
    plan.c.ops[backward].serial |= a.backward.l2 != 0
    plan.remove(backward + 1)
    if squares:
        sums = plan.ops[squares].writes
        insert_part(plan, squares, &a, FNN_PENALTY_STEP, "chunk_sums, delayed", 0, [], [state] + sums)
        plan.remove(squares + 1)
    insert_part(
        plan, forward, &a, FNN_FORWARD_STEP, start.name + ", delayed", n * o * a.rows,
        [few_g, d, state] + bias, [few_z] + start.writes,
    )
    plan.remove(forward + 1)
    plan.remove(0)
    if squares:
        plan.insert(0, FNN_OP_chunk_sums, &a.squares, sizeof(a.squares), 2.0 * i * o, weight, sums)
        plan.ops[0].name = together + plan.ops[0].name
    insert_part(plan, 0, &a, FNN_MULTIPLY_BLOCK, together + start.name, block_work + a.rows * i * a.rows, [x, state] + weight, [z, g])
    insert_part(plan, 0, &a, FNN_GATHER_BLOCK, together + gather.name, 20.0 * a.rows * i, gather.reads, [x, state])
    plan.ops[0].gathers = True
    plan.c.first, plan.c.last = 3 if squares else 2, 1
    for place in (*range(plan.c.first), plan.c.n - 1):
        plan.c.work -= plan.c.ops[place].work * (1 - 1 / <double>plan.c.block)
        plan.c.ops[place].work /= plan.c.block # a step's share of it


cdef insert_part(
    Plan plan, int place, fnn_delayed_args *a, fnn_delayed_part part, str name, double work, list reads, list writes
):
    a.part = part
    plan.insert(place, FNN_OP_delayed, a, sizeof(a[0]), work, reads, writes)
    plan.ops[place].name = name
