"""The tracking section of the settings. Results never follow from it."""

from __future__ import annotations

from pydantic import Field

from raydistill.settings.sections import Section


class TrackingConfig(Section):
    """Where a run is shown beside the terminal.

    Servers, modes and keys are those of the environment: MLFLOW_TRACKING_URI, WANDB_MODE, WANDB_API_KEY and the like.
    """

    tensorboard: bool = True
    """event files in the run folder: tensorboard --logdir RUN_DIR/tensorboard"""
    mlflow: bool = False
    """an MLflow run; pip install 'raydistill[mlflow]'"""
    wandb: bool = False
    """a Weights & Biases run; pip install 'raydistill[wandb]'"""
    project: str = Field("raydistill", min_length=1)
    """MLflow's experiment and W&B's project, where MLFLOW_EXPERIMENT_NAME and WANDB_PROJECT do not name one"""
    name: str | None = Field(None, min_length=1)
    """name of the run there; left out: that of the run folder"""
