"""A run as others watch it: TensorBoard files, MLflow, Weights & Biases. No stage knows of it, no key depends on it.

display events, histories ─► watch.Watched ─► feed.Feed, a thread and a ledger for each ─► board, mlflow, wandb
"""
