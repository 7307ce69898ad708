"""The recorded step: what kernels append to instead of computing, and what replays it without Python.

Owns the compiled core (instruction set, threads) and where the threads meet; what a step consists of is
the trainer's business, which ops become one that of `fusion`.
"""

cimport numpy as cnp
from libc.stdint cimport int64_t, uintptr_t

from contextlib import contextmanager

import numpy as np

from fastnn.kernels.csrc cimport *

cdef extern from *:
    """
    static _Thread_local void *fnn_capturing; /* the Plan that this thread records, borrowed */
    """
    void *fnn_capturing

cnp.import_array()


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
        self.name, self.gathers, self.reads, self.writes = name, gathers, reads, writes
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

    def __cinit__(self):
        self.ops = []
        self.c.block = 1

    def __dealloc__(self):
        fnn_plan_clear(&self.c)

    cdef int append(
        self, fnn_op op, const void *args, size_t size, double work, tuple reads, tuple writes
    ) except -1:
        operands = [[Operand(array) for array in arrays if array is not None] for arrays in (reads, writes)]
        return self.insert(self.c.n, op, args, size, work, operands[0], operands[1])

    cdef int insert(
        self, int place, fnn_op op, const void *args, size_t size, double work, list reads, list writes
    ) except -1:
        info = Op(fnn_op_names[<int>op].decode(), op in GATHERS, reads, writes)
        if not fnn_plan_insert(&self.c, place, op, args, size, work):
            raise MemoryError("out of memory while recording a plan")
        self.ops.insert(place, info)
        return 0

    @contextmanager
    def capture(self):
        """Inside this block, on this thread, compiled kernels check and record instead of computing."""
        if fnn_capturing != NULL:
            raise RuntimeError("a plan is already being captured on this thread")
        if self.c.block > 1:
            raise RuntimeError("steps of this plan change a weight together: no operation can follow them")
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
        return self.c.n

    cdef place_barriers(self):
        """The threads meet only where an op touches what another share may still be writing."""
        cdef int i
        parallel_reads, parallel_writes, serial_reads, serial_writes = [], [], [], []
        # a loss may have ended the step: share 0 sees it at once, the others where all meet
        commits = judged = False
        for i, op in enumerate(self.ops):
            item = &self.c.ops[i]
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
                or commits and not before and self.c.work >= FNN_LONG_WORK
                or judged and not item.serial
                # here the other steps of a block begin
                or i == self.c.first
            )
            if i > 0:
                if meets:
                    judged = False
                    parallel_reads, parallel_writes, serial_reads, serial_writes = [], [], [], []
                    self.c.ops[i - 1].barrier = True
                else:
                    self.c.ops[i - 1].barrier = False
            judged = judged or item.op == FNN_OP_log_step
            (serial_reads if item.serial else parallel_reads).extend(op.reads)
            (serial_writes if item.serial else parallel_writes).extend(op.writes)
        if self.c.n:
            self.c.ops[self.c.n - 1].barrier = False # the step's own end is a meeting

    cdef remove(self, int i):
        self.c.work -= self.c.ops[i].work
        fnn_plan_remove(&self.c, i)
        del self.ops[i]

    # ---- running ------------------------------------------------------------------------------

    cdef check_idle(self):
        if fnn_capturing != NULL:
            raise RuntimeError("a plan cannot be replayed while one is being captured")
        if self.running:
            raise RuntimeError("this plan is already running in another thread")

    cdef int64_t run(self, int64_t steps, double budget, bint profile) except -1:
        cdef int64_t done = 0
        cdef fnn_outcome outcome
        self.check_idle()
        if steps <= 0 or self.c.n == 0:
            return 0
        self.running = True
        with nogil:
            outcome = fnn_plan_run(&self.c, steps, <int64_t>(budget * 1e9), profile, poll, &done)
        self.running = False
        self.profiled += done if profile else 0
        self.stopped, self.ended = outcome == FNN_HALTED_LOSS, outcome == FNN_HALTED_END
        if outcome == FNN_HALTED_USER:
            raise_pending()
        if self.ended and not (profile and done):
            raise IndexError(f"after {done} of {steps} steps the clock is past the end of the epoch's data")
        return done

    @property
    def threads(self):
        """How many threads run a short step now, as trials have shown; 0 before the first replay."""
        return self.c.pace.threads

    def replay(self, int64_t steps=1, double budget=0.04):
        """Runs up to `steps` whole steps, for at most about `budget` seconds but at least one.

        Where steps change a weight together, time ends them after the last of a block.

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

        Returns and raises what `replay` does, but does not stop for the time, and begins the data anew
        where they end. Where the epoch stands is as before.
        """
        cdef int64_t done = 0, row = 0, batch = 0
        cdef int64_t *clock = self.clock()
        self.check_idle()
        if self.c.n == 0:
            return 0
        if clock != NULL:
            row, batch = clock[FNN_ROW], clock[FNN_BATCH]
        self.stopped, self.ended = False, True
        try:
            while done < steps and not self.stopped:
                if clock != NULL and self.ended:
                    clock[FNN_ROW] = clock[FNN_BATCH] = 0
                done += self.run(steps - done, 0.04, True)
        finally:
            if clock != NULL:
                clock[FNN_ROW], clock[FNN_BATCH] = row, batch
        return done

    cdef int64_t *clock(self):
        """Of the data that the steps go through; NULL if they do not."""
        cdef int i
        for i in range(self.c.n):
            if self.c.ops[i].op == FNN_OP_advance:
                return (<fnn_advance_args *>self.c.ops[i].args).clock
        return NULL

    def table(self):
        """One dict per op: name, shapes, bytes, flops, threads at most, and seconds where it was profiled.

        Of what several steps do together, a step's part.
        """
        cdef int i
        return [
            {
                "name": op.name,
                "shapes": op.shapes,
                "bytes": op.nbytes // (1 if self.c.first <= i < self.c.n - self.c.last else self.c.block),
                "flops": 0.0 if op.gathers else self.c.ops[i].work,
                "threads": 1 if self.c.ops[i].serial else fnn_get_threads(),
                "seconds": self.c.ops[i].seconds / self.profiled if self.profiled else None,
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
        total = {"name": f"a step of {len(rows)} ops", "shapes": [], "threads": ""}
        for key in ("bytes", "flops", "seconds"):
            total[key] = sum(row[key] or 0 for row in rows)
        for row in [*rows, total]:
            line = f"{row['name']:<{width}} {row['threads']:>7} {row['bytes'] / 1e3:>9.1f} {row['flops'] / 1e6:>9.3f}"
            if timed:
                rate = row["flops"] / row["seconds"] / 1e9 if row["seconds"] else 0.0
                line += f" {row['seconds'] * 1e6:>9.2f} {rate:>8.1f}"
            shapes = " ".join("x".join(map(str, shape)) for shape in row["shapes"])
            lines.append(f"{line}  {shapes}".rstrip())
        return "\n".join(lines)

    def __repr__(self):
        flops = sum(row["flops"] for row in self.table())
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
            f"instruction set: got {name!r}, which this build or this CPU lacks, "
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
    """How many threads share a kernel's work at most, the caller's included."""
    return fnn_get_threads()


def set_num_threads(int n):
    """Uses at most `n` threads, 1 to 256, from the next kernel or replay on."""
    if not 1 <= n <= FNN_MAX_THREADS:
        raise ValueError(f"n is {n}: expected a number of threads between 1 and {FNN_MAX_THREADS}")
    fnn_set_threads(n)
