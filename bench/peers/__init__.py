"""``fastnn`` against other libraries: the same nets, weights and batches, verified, then timed.

``rows`` says what is run and ``with_*`` how each library runs it; ``worker`` is the process that
one library runs in and ``__main__`` starts them, takes turns and prints the table.
"""
