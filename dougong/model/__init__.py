"""DeepSeek-V4 and its ancestors in torch, one idea a file.

May import errors, config, formats and kernels (and `checkpoint` in loading.py).
"""
