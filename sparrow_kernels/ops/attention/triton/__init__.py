"""Attention on a GPU, written in Triton. Importing this package imports no triton.

Its files come in pairs: a kernel (`tree.py`) and the Python that launches it (`tree_launch.py`).
`availability.py` says why a machine or a call cannot use them; `configurations.py` holds the tile
sizes; `shipped.py` lists what is compiled ahead of time to read registers and spills. The op
families' `ops.py` register the launchers; nothing here does.
"""
