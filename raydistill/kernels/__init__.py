"""Compiled loops for processors, where PyTorch's own operations would read memory several times: by numba.

Every kernel has a counterpart of PyTorch operations, which other devices and number types use; tests hold the two
against each other. Rows are worked on in parallel and each by itself, so that results do not depend on the threads.
"""
