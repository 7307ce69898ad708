"""The compiled kernels: the names and signatures of `fastnn.reference`, over the C of csrc/.

Also the plan that records and replays them, and the choice of instruction set and threads.
"""

import os

from fastnn.kernels.batchnorm import *
from fastnn.kernels.conv2d import *
from fastnn.kernels.dense import *
from fastnn.kernels.elementwise import *
from fastnn.kernels.embedding import *
from fastnn.kernels.fusion import fuse
from fastnn.kernels.loss import *
from fastnn.kernels.norms import *
from fastnn.kernels.optimizer import *
from fastnn.kernels.plan import (
    Plan,
    available_isas,
    cpu_count,
    get_isa,
    get_num_threads,
    recorded,
    select_isa,
    set_num_threads,
)
from fastnn.kernels.pool2d import *
from fastnn.kernels.rnn import *
from fastnn.kernels.step import *


def _configure() -> None:
    """Take the instruction set and the number of threads from the environment."""
    try:
        select_isa(os.environ.get("FASTNN_ISA") or None)
    except ValueError as error:
        raise ValueError(f"FASTNN_ISA: {error}") from None
    for name in ("FASTNN_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name)
        if value:
            try:
                set_num_threads(int(value))
            except (ValueError, OverflowError):
                # OMP_NUM_THREADS is not ours to judge: "4,2" is right for nested regions
                if name == "FASTNN_NUM_THREADS":
                    raise ValueError(
                        f"{name} is {value!r}: expected a number of threads between 1 and 256"
                    ) from None
                continue
            return


_configure()
