"""For authors of kernels: what any attention does, and whether it is right."""
