"""Llama-like LLMs on a CPU in integers."""

PANEL_COLUMNS = 48  # outputs of a tile of bytes: 8 x 3 registers of sums, of 32
