"""A stand-in for CuPy on the CPU, so that tests run the CUDA kernels where there is no GPU."""
