"""The real one is the C++ part of ais_bench; here only its presence counts."""
