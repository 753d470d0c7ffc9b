"""All that knows Ray: joining or starting a cluster, the pool of jobs, data-parallel training, and the search."""
