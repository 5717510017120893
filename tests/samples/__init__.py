"""Tests of the sample files and of what writes them."""
