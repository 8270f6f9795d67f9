"""What runs on the emulated CUDA driver; started by ``contract/test_emulated_gpu.py``, in a process of its own."""
