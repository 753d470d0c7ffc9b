"""Execution: jobs and the executor that distributes them, the queue with leases, everything in one process, SIGTERM."""
