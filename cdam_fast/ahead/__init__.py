"""Compiling the kernels for GPUs that are not there: what came out, and the least time that it can take."""
