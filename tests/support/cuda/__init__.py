"""A CUDA driver without a GPU, on which the real pycuda runs; see ``driver.c``."""
