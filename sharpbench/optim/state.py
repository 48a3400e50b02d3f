"""What a sharpness-aware optimizer adds to the state_dict of its base."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InvalidInput

if TYPE_CHECKING:
    from .base import SharpnessAware

OWN_KEY = "sharpness"
COUNTERS = ("steps", "evaluation_share", "example_gradients", "rho")


def own_state(optimizer: SharpnessAware) -> dict[str, Any]:
    """Counters and the state of every component; never transients."""
    params = optimizer.all_parameters()
    state = {
        **{name: getattr(optimizer, name) for name in COUNTERS},
        "components": {name: part.state_dict(params) for name, part in optimizer.components().items()},
    }
    if optimizer.log is not None:
        state["diagnostics"] = optimizer.log.state_dict(params)
    return state


def require_own_state(optimizer: SharpnessAware, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Our part of ``state_dict``, checked to be of the same method before anything is changed.

    Raises:
        InvalidInput: the dictionary is a plain optimizer's, or another method's.
    """
    if OWN_KEY not in state_dict:
        raise InvalidInput(
            f"this state_dict has no {OWN_KEY!r} entry: it belongs to a plain optimizer "
            "(load it into the base with opt.base.load_state_dict)"
        )
    own: dict[str, Any] = state_dict[OWN_KEY]
    parts = sorted(optimizer.components())
    if sorted(own["components"]) != parts:
        raise InvalidInput(
            f"this state_dict is of another method: it has {sorted(own['components'])}, "
            f"{type(optimizer).__name__} has {parts}"
        )
    params = optimizer.all_parameters()
    for part in (*own["components"].values(), own.get("diagnostics", {"memory": {}})):
        for table in part["memory"].values():
            for place, value in table.items():
                if int(place) >= len(params) or params[int(place)].shape != value.shape:
                    raise InvalidInput(
                        "this state_dict is of another network: a memory of shape "
                        f"{tuple(value.shape)} belongs to parameter {place}"
                    )
    return own


def restore_own_state(optimizer: SharpnessAware, own: Mapping[str, Any]) -> None:
    """Take over what :func:`own_state` saved."""
    for name in COUNTERS:
        setattr(optimizer, name, own[name])
    restore_memories(optimizer, own)


def restore_memories(optimizer: SharpnessAware, own: Mapping[str, Any]) -> None:
    """The state of every component, and the diagnostics gathered so far where both sides gather them."""
    params = optimizer.all_parameters()
    for name, part in optimizer.components().items():
        part.load_state_dict(copy.deepcopy(own["components"][name]), params)
    if optimizer.log is not None and "diagnostics" in own:
        optimizer.log.load_state_dict(copy.deepcopy(own["diagnostics"]), params)
