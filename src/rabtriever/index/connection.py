"""How LanceDB is reached."""

from __future__ import annotations

import gc
from datetime import timedelta
from typing import TYPE_CHECKING

from rabtriever.persistence.object_store import is_remote, is_uri, require_reachable, storage_options

if TYPE_CHECKING:
    import lancedb

REMOTE_CHECK = timedelta(seconds=5)  # a reader of an object store sees what others wrote that long after, at most


def connect(uri: str) -> lancedb.DBConnection:
    """Opens the tables at a path or URI; raises StorageError if the store cannot be reached or refuses."""
    collecting = gc.isenabled()
    gc.disable()  # a fifth of the import's second goes into collecting garbage among a thousand generated classes
    try:
        import lancedb
    finally:
        if collecting:
            gc.enable()
    # Every read of a folder looks for a newer version; of a store it would be one more request for each search.
    interval = REMOTE_CHECK if is_remote(uri) else timedelta(0)
    if is_uri(uri):
        require_reachable(uri)  # Lance would try for seconds, and say it in many lines
    return lancedb.connect(uri, read_consistency_interval=interval, storage_options=storage_options(uri) or None)
