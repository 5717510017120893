"""Keeping the catalog true to the folders it follows: what has changed is found by stat, and only that is read.

walk        what lies there now                      (a stat for each file)
owning      whose a file is that several libraries lead to
beside      which small files stand beside models    (a stat for each of those)
compare     what of it is new, moved, changed, gone  (no file is opened)
unfinished  which are downloads that go on            (by what stands beside them)
reading     what the headers of the new ones say     (in several processes)
side_files  what the small files say that changed
sync        the story, in batches that are each whole
watching    the same again, whenever something has changed
"""

from modelhub.syncing.sync import SyncReport, Unread, add_library, sync
from modelhub.syncing.watching import watch

__all__ = ["SyncReport", "Unread", "add_library", "sync", "watch"]
