"""As much of cupyx as the CUDA executor uses."""
