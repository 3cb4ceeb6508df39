"""Reading and writing of weights; no other package accesses weight files."""
