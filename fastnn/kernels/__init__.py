"""The compiled kernels: the names and signatures of `fastnn.reference`, over the C of csrc/.

Also the plan that records and replays them, and the choice of instruction set and threads.
"""

import os

from fastnn.kernels.dense import *
from fastnn.kernels.elementwise import *
from fastnn.kernels.loss import *
from fastnn.kernels.optimizer import *
from fastnn.kernels.plan import (
    Plan,
    available_isas,
    cpu_count,
    get_isa,
    get_num_threads,
    select_isa,
    set_num_threads,
)
from fastnn.kernels.step import *

select_isa(os.environ.get("FASTNN_ISA") or None)
