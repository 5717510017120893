"""Ground truth for the pickle machine and the scanner, and a fuzzer over files: ``python -m fuzz`` (``make fuzz``).

* ``trees``, ``recipes``, ``writer``, ``programs``: random pickle programs over all opcodes, from a fixed vocabulary
* ``standins``, ``canonical``, ``sandbox``: the child process in which CPython's two unpicklers run them, seeing nothing
  but stand-ins and a few harmless classes of Python's own
* ``truth``: what must hold between what the unpicklers did and what modelhub said
* ``originals``, ``mutations``, ``examiner``: files of every kind, broken at random and examined
* ``workers``, ``shrink``, ``campaign``: child processes, minimal reproducers, whole runs

No name in a program is ever imported: the unpicklers' ``find_class`` looks it up in a fixed table.
"""
