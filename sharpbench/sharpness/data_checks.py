"""Checks of data and loss: targets that belong to the inputs, and parts that give the loss of the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import InvalidInput
from .batches import Batches
from .decomposition import find_mismatch
from .isolation import isolated
from .memory import out_of_memory
from .notices import LossDependsOnBatches
from .subject import warn_once

if TYPE_CHECKING:
    from .surface import LossSurface


def require_matching(surface: LossSurface) -> bool:
    """Where there are not as many targets as inputs, the model or the loss must account for it.

    Sequences come with time as their first dimension, or with all their labels in one row; anything else is
    taken for a mistake, which a loss may hide by broadcasting.

    Raises:
        InvalidInput: the number of targets fits neither inputs nor outputs, or the loss does not take them.
    """
    batch = next(iter(surface.batches))
    inputs, targets = batch.inputs, batch.targets
    if not (isinstance(inputs, Tensor) and isinstance(targets, Tensor) and inputs.ndim and targets.ndim):
        return True
    if len(inputs) == len(targets):
        return True
    message = f"data hold {len(inputs)} inputs but {len(targets)} targets"
    with isolated(surface.model, surface.parameters, "own"):
        outputs = surface.model(inputs)
        by_time = inputs.ndim > 1 and inputs.shape[1] == len(targets)
        flat = len(targets) % max(1, len(inputs)) == 0
        fits = isinstance(outputs, Tensor) and outputs.ndim and len(outputs) == len(targets)
        if not (by_time or flat or fits):
            raise InvalidInput(message)
        try:
            surface.evaluate.loss_of(outputs, targets)
        except InvalidInput:
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
            raise InvalidInput(f"{message}, which the loss does not take: {reason}") from error
    return True


def require_parts(surface: LossSurface) -> bool:
    """Where data are in parts: the weighted losses of parts must give the loss of the whole.

    A list of batches defines L by itself, so a loss that depends on how it was cut is only worth a warning
    there, unless it is a sum weighted as a mean.

    Raises:
        InvalidInput: ``batch_size`` or shards would give another loss than the whole data, or a sum without
            ``weight="sum"``.
    """
    batches = surface.batches
    if not isinstance(batches, Batches) or (surface._whole and not surface.shards.active):
        return True
    mismatch = find_mismatch(surface, batches, max(batch.count for batch in batches))
    surface.indivisible = str(mismatch or "")
    if mismatch is None:
        return True
    if batches.pair is not None:
        how = "batch_size" if batches.batch_size else "distributed=True"
        raise InvalidInput(f"{how} would change the loss: {mismatch}")
    if mismatch.is_sum:
        raise InvalidInput(f"these batches can't be weighted by their number of examples: {mismatch}")
    warn_once(
        surface,
        LossDependsOnBatches,
        f"L is the weighted mean of the batches' losses, and depends on how the data were cut: {mismatch}",
    )
    return True
