"""Who may change an index: one writer, by a lock in a folder, by a lease in an object store.

A lease ends by itself if the writer dies. Stores have no locks. A table of one row beside the documents says who holds
the lease and until when. An update by Lance changes the row only if it still is what was read (those that collide are
run again, one by one), so that of all who want the lease one gets it. Clocks of machines may differ by less than
:data:`RENEW_SECONDS`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa
from filelock import FileLock, Timeout

from rabtriever.errors import BusyError, InputError, StorageError
from rabtriever.index.connection import connect
from rabtriever.index.lance_errors import LANCE_ERRORS, is_conflict, write_errors
from rabtriever.persistence.object_store import is_remote

if TYPE_CHECKING:
    import lancedb

TABLE = "writer"
LOCK = "writer.lock"  # in an index that is a folder
LEASE_SECONDS, RENEW_SECONDS = 60.0, 15.0
WAIT_SECONDS = 0.5  # between two looks at a lease that another holds
VERSIONS_PER_OPTIMIZE = 50  # each change of the row makes one, and files
RETENTION = timedelta(minutes=10)  # whoever looks at the lease reads an old version no longer


class Lease:
    """A writer's turn; ``holder`` is blank in the table while there is none."""

    def __init__(self, uri: str, connection: lancedb.DBConnection) -> None:
        self.uri, self._connection = uri, connection
        self._holder, self._lock, self._ended = uuid4().hex, Lock(), Event()

    @contextmanager
    def held(self, wait: float) -> Iterator[None]:
        """Holds the lease; raises BusyError if another holds it after ``wait`` seconds."""
        deadline = time.monotonic() + wait
        while not self._acquire():
            if time.monotonic() >= deadline:
                raise BusyError(f"{self.uri}: another process is changing it; wait until it is done")
            time.sleep(max(0.0, min(WAIT_SECONDS, deadline - time.monotonic())))
        renewing = Thread(target=self._keep, name="lease", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            self._ended.set()
            renewing.join()
            with suppress(InputError, *LANCE_ERRORS):  # it ends by itself
                self._swap(f"holder = '{self._holder}'", "")

    def check(self) -> None:
        """Renews the lease; raises BusyError if another has taken it, since this process slept or had no network."""
        with write_errors(self.uri):
            mine = self._swap(f"holder = '{self._holder}'", self._holder)
        if not mine:
            fault = "another process took over, since this one did not answer for a minute; nothing was changed"
            raise BusyError(f"{self.uri}: {fault}, run it again")

    def _acquire(self) -> bool:
        with write_errors(self.uri):
            try:
                if TABLE not in self._connection.list_tables().tables:
                    self._connection.create_table(TABLE, pa.table({key: [value] for key, value in self._row().items()}))
                    return True
                row = self._connection.open_table(TABLE).to_arrow().to_pylist()[0]
                if row["holder"] and row["until"] > time.time():
                    return False
                return self._swap(f"holder = '{row['holder']}' AND until = {row['until']}", self._holder)
            except LANCE_ERRORS as error:
                if not is_conflict(error):
                    raise
                return False  # another was faster

    def _keep(self) -> None:
        """Renews the lease until the work is done; without the store for a while, it tries again."""
        while not self._ended.wait(RENEW_SECONDS):
            with suppress(InputError, *LANCE_ERRORS):
                self.check()

    def _row(self, holder: str | None = None) -> dict[str, Any]:
        return {"holder": self._holder if holder is None else holder, "until": int(time.time() + LEASE_SECONDS)}

    def _swap(self, expected: str, holder: str) -> bool:
        """Writes the row if it is as ``expected``, a condition in SQL; returns whether it was."""
        with self._lock:
            table = self._connection.open_table(TABLE)
            done = table.update(where=expected, values=self._row(holder)).rows_updated == 1
            if done and table.version % VERSIONS_PER_OPTIMIZE == 0:
                with suppress(*LANCE_ERRORS):  # a later one does it
                    table.optimize(cleanup_older_than=RETENTION)
        return done


@contextmanager
def writers_lock(
    uri: str, wait: float = 0.0, connection: lancedb.DBConnection | None = None
) -> Iterator[Callable[[], None]]:
    """Holds the writers' lock of the index at ``uri``, in an object store a lease.

    Yields:
        What raises BusyError if a lease was lost meanwhile; to be called before a change.

    Raises:
        BusyError: another process holds it after ``wait`` seconds.
        StorageError: the folder cannot be written.
    """
    if is_remote(uri):
        lease = Lease(uri, connect(uri) if connection is None else connection)
        with lease.held(wait):
            yield lease.check
        return
    try:
        lock = FileLock(Path(uri) / LOCK).acquire(timeout=wait)
    except Timeout:
        raise BusyError(f"{uri}: another process is changing it; wait until it is done") from None
    except OSError as error:  # a read-only folder
        raise StorageError(f"{uri}: cannot be written ({error.strerror}); make it writable") from error
    with lock:
        yield never_lost


def never_lost() -> None:
    """What checks a lock that nobody can take from its holder."""
