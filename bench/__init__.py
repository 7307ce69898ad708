"""Benchmarks: kernels, training steps, other libraries, the machine's limits; see README.md.

They time and verify only; nothing in the package depends on them.
"""
