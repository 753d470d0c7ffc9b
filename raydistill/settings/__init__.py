"""Settings: a frozen section for each stage and for the cluster; what may not be a setting."""
