"""What `raydistill doctor` looks at: packages, the machine, the run folder's storage, the cluster."""
