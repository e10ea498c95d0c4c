"""Llama-like LLMs on a CPU in whole numbers."""
