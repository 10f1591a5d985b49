"""The executor of one GPU, through CuPy. Only its own process imports CuPy."""
