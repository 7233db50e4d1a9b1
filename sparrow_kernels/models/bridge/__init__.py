"""Where we stand on transformers' private ground, and nowhere else.

What its documentation promises is used all over `models`. What it does not promise, and renames
from one release to the next, is used here: how attention is looked up (`attention`), what a cache
layer must answer (`cache`), how modules find their configuration (`view`), what a model's own
forward does around them (`outer`), names of keywords and what a custom decoding function is not
told (`names`).
`python_tests/models/test_transformers_contract.py` holds each of them to every release in the
tested range.
"""
