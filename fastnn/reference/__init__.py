"""Owns the executable specification: every kernel in plain NumPy, in any float dtype.

Leaves speed to ``fastnn.kernels``, whose functions have the same names and parameters.
"""

from fastnn.reference import (
    batchnorm,
    conv2d,
    dense,
    elementwise,
    embedding,
    loss,
    norms,
    optimizer,
    pool2d,
    rnn,
    step,
)
from fastnn.reference.batchnorm import *  # noqa: F403
from fastnn.reference.conv2d import *  # noqa: F403
from fastnn.reference.dense import *  # noqa: F403
from fastnn.reference.elementwise import *  # noqa: F403
from fastnn.reference.embedding import *  # noqa: F403
from fastnn.reference.loss import *  # noqa: F403
from fastnn.reference.norms import *  # noqa: F403
from fastnn.reference.optimizer import *  # noqa: F403
from fastnn.reference.pool2d import *  # noqa: F403
from fastnn.reference.rnn import *  # noqa: F403
from fastnn.reference.step import *  # noqa: F403

__all__ = (
    batchnorm.__all__
    + conv2d.__all__
    + dense.__all__
    + elementwise.__all__
    + embedding.__all__
    + loss.__all__
    + norms.__all__
    + optimizer.__all__
    + pool2d.__all__
    + rnn.__all__
    + step.__all__
)
