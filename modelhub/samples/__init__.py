"""Sample files with the names, shapes and formats of real models and random weights: for the demo, tests, benchmarks.

Nothing here needs torch or numpy. ``layouts`` says what real files contain, ``weights`` makes reproducible random
data, ``torch_files`` and ``safetensors_files`` write it, ``library`` builds the folder of ``modelhub demo``.
"""
