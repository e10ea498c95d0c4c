"""The LLM: loading it, the prompt, and reading token ids into hidden states."""
