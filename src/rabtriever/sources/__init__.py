"""Catalogues and folders that people have already, read as documents."""
