"""RunSpec: everything that determines a run, frozen, with a content-hash id."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1


class Frozen(BaseModel):
    """Immutable, and closed: an unknown key is an error, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TaskSpec(Frozen):
    """What is trained, on what, for how long (before any optimizer's own overrides)."""

    dataset: str = "digits"
    model: str = "mlp"
    epochs: int = Field(60, ge=1)
    batch_size: int = Field(64, ge=1)
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    base: Literal["sgd", "adamw"] = "sgd"
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    warmup_epochs: float = Field(0.0, ge=0, description="linear rise of the learning rate")
    milestones: tuple[float, ...] = Field(
        (), description="epochs at which schedule 'step' multiplies the rate by `decay`"
    )
    decay: float = Field(0.1, gt=0, le=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    augmentation: tuple[Literal["crop", "flip", "cutout"], ...] = ()
    micro_batches: int = Field(1, ge=1, description="parts a mini-batch is evaluated in, to save memory")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: autocast; weights and optimizer stay float32"
    )
    channels_last: bool = False
    compile: Literal["no", "default", "reduce-overhead"] = "no"
    evaluate_every: int = Field(1, ge=1, description="epochs between evaluations (the last always is)")
    validation_fraction: float = Field(0.0, ge=0, lt=1, description="of the training split, held out")
    label_noise: float = Field(0.0, ge=0, lt=1)
    train_fraction: float = Field(1.0, gt=0, le=1)
    threads: int = Field(
        1,
        ge=1,
        description="CPU threads of one run; part of the spec, since the "
        "order of summation, and so the last bit, depends on it",
    )


class OptimizerSpec(Frozen):
    """A registered name (or ``MODULE:CLASS``), its parameters, and the label reports show."""

    name: str
    label: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class MeasureSpec(Frozen):
    """What is measured of the final network."""

    measures: tuple[str, ...] = ("spectrum", "sam_sharpness", "universal")
    examples: int = Field(512, ge=1, description="training examples that define the surface")
    hvps: int = Field(100, ge=10, description="budget of Hessian-vector products")
    rho: float = Field(0.05, gt=0, description="radius of SAM sharpness and of loss-value measures")
    damping: float = Field(0.01, gt=0, description="delta of log det(I + |H|/delta)")
    diagnostics: bool = Field(False, description="what the optimizer says about its steps, every epoch")
    epochs: tuple[int, ...] = Field((), description="also measured after these epochs (0: before training)")


class RunSpec(Frozen):
    """One run. ``id`` is the first 16 hex digits of SHA-256 over the canonical JSON."""

    schema_version: int = SCHEMA_VERSION
    seed: int = Field(0, ge=0)
    task: TaskSpec = TaskSpec()
    optimizer: OptimizerSpec
    measure: MeasureSpec = MeasureSpec()

    def canonical(self) -> str:
        """Sorted keys, no white space: equal specs give equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def id(self) -> str:
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]
