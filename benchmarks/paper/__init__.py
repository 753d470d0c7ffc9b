"""The paper's tables, each by a command: `python -m benchmarks.paper TABLE [--data PATH] [--seeds 3]`."""
