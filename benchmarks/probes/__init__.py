"""Small programs that ask a library what its own command line does not: run by path, never imported by modelhub."""
