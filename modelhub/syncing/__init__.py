"""Keeping the catalog true to the folders it follows: what has changed is found by stat, and only that is read.

walk    what lies there now                      (a stat for each file)
compare what of it is new, moved, changed, gone  (no file is opened)
reading what the headers of the new ones say     (in several processes)
sync    the story, in batches that are each whole
"""

from modelhub.syncing.sync import SyncReport, Unread, add_library, sync

__all__ = ["SyncReport", "Unread", "add_library", "sync"]
