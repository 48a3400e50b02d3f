"""measure(): every measure of one network as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
from torch import Tensor, nn

from ..errors import must_be, unknown_name
from .evaluation import LossFunction
from .groups import COLUMNS, MEASURES, Session, basics
from .spectrum import Spectrum
from .subject import parameter_groups, unwrap
from .surface import LossSurface

Backend = Literal["sharpbench", "pyhessian"]


@dataclass(frozen=True)
class Card:
    """What :func:`measure` found.

    Args:
        frame: one row per measure; columns ``measure``, ``value``, ``std_error``, ``ci_low``, ``ci_high``,
            ``hvps``, ``gradients``, ``seconds`` (each of the group the row was measured with),
            ``converged``.
        density: ``eigenvalue``, ``density``, ``std_error``; empty unless the group "spectrum" was asked for.
        spectrum: for any further functional; ``None`` unless asked for.
        notes: measure → the convention or caveat behind it.
    """

    frame: pd.DataFrame
    density: pd.DataFrame
    spectrum: Spectrum | None
    notes: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, measure: str) -> float:
        """The value of one measure by name."""
        rows = self.frame.loc[self.frame["measure"] == measure, "value"]
        if rows.empty:
            raise unknown_name("measure", measure, list(self.frame["measure"]))
        return float(rows.iloc[0])

    def _repr_html_(self) -> str:
        return str(self.frame.to_html(index=False))


def measure(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    measures: Sequence[str] = ("spectrum", "sam_sharpness", "universal"),
    hvps: int = 100,
    rho: float = 0.05,
    damping: float = 0.01,
    top_k: int = 5,
    seed: int = 0,
    params: str | Sequence[str] = "all",
    batch_size: int | None = None,
    backend: Backend = "sharpbench",
    warm: Card | Spectrum | None = None,
    initial: Mapping[str, Tensor] | None = None,
    distributed: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Card:
    """How sharp is this model on these data? One table, each value with its error.

    Rows ``loss`` and ``grad_norm`` always; then, by group: "spectrum" (``trace``, ``frobenius_norm``,
    ``frobenius_squared``, ``log_determinant``, ``lambda_1`` …, ``lambda_min``), "sam_sharpness",
    "universal" (``phi_psi_mu:*`` from quadratic forms, with ``hvps / 4`` more products, at least 24, on the
    spectrum's Krylov basis; ``phi_psi_mu:*@radius`` from losses at displacements of length about rho; log
    det with s = 0.1), and on request the other groups of :data:`MEASURES` (their rows: docs/measures.md).

    The ``@radius`` rows see what the Hessian does not: with ReLU, kinks within the radius add curvature that
    no derivative shows, so they lie above the others (by 8 % to a factor of two on digits networks); with
    smooth activations the two agree.

    Args:
        model: any ``torch.nn.Module``; measured in eval mode and left as it was.
        loss_fn: ``loss_fn(outputs, targets)``, a scalar mean.
        data: ``(inputs, targets)`` or a re-iterable of such batches, in a fixed order.
        measures: names from :data:`MEASURES`.
        hvps: budget of Hessian-vector products of the spectrum.
        rho: radius of SAM sharpness and of everything measured from loss values.
        damping: delta of ``log_determinant`` = sum log(1 + abs(lambda)/delta).
        top_k: how many top eigenvalues.
        seed: of the private random streams; the global ones are never used.
        params: ``"all"``, ``"trainable"``, or names or patterns of parameters (``"layer4.*"``).
        batch_size: cuts ``(inputs, targets)`` into slices.
        backend: ``"pyhessian"`` measures trace, eigenvalues and density by PyHessian, as a cross-check;
            ``measures`` is then left aside, and there are no standard errors but the trace's.
        warm: an earlier card or spectrum of the same network, for measuring along training.
        initial: a state dict, for ``distance_from_init``.
        distributed: ``data`` is this rank's shard; every rank of the default process group calls.
        progress: called with the name of each group before it is measured.

    Raises:
        InvalidInput: an unknown measure, a value out of range, or what
            :class:`~sharpbench.sharpness.surface.LossSurface` refuses.

    Example:
        >>> import torch
        >>> model, data = nn.Linear(3, 1), (torch.randn(20, 3), torch.zeros(20, 1))
        >>> card = measure(model, nn.functional.mse_loss, data)
        >>> list(card.frame["measure"])[:3]
        ['loss', 'grad_norm', 'trace']
    """
    for name in measures:
        if name not in MEASURES:
            raise unknown_name("measure", name, MEASURES)
    if not (math.isfinite(rho) and rho > 0):
        raise must_be("rho", "> 0", rho)
    if not (math.isfinite(damping) and damping > 0):
        raise must_be("damping", "> 0", damping)
    if top_k < 1:
        raise must_be("top_k", ">= 1", top_k)
    if hvps < 6:
        raise must_be("hvps", ">= 6", hvps)
    if backend not in ("sharpbench", "pyhessian"):
        raise unknown_name("backend", backend, ("sharpbench", "pyhessian"))
    surface = LossSurface(model, loss_fn, data, params=params, batch_size=batch_size, distributed=distributed)
    earlier = warm.spectrum if isinstance(warm, Card) else warm
    session = Session(surface, hvps, rho, damping, top_k, seed, earlier, initial)
    groups = {name: group for name, group in MEASURES.items() if name in measures}
    if backend == "pyhessian":
        from .reference import pyhessian_rows

        groups = {"pyhessian": pyhessian_rows}
    with surface.session():
        basics(session)
        for name, group in groups.items():
            if progress is not None:
                progress(name)
            group(session)
    frame = pd.DataFrame(session.rows, columns=COLUMNS)
    return Card(frame, session.density, session.spectrum, session.notes)


def measure_layers(
    model: nn.Module,
    loss_fn: LossFunction,
    data: Any,
    *,
    hvps: int = 30,
    seed: int = 0,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Trace, Frobenius norm and top eigenvalue of every layer's own block of the Hessian.

    A layer is a module that holds parameters itself; a tied weight belongs to the first. ``hvps`` products
    are spent on each. The traces add up to the whole trace; the other two do not.

    Returns:
        A frame with ``layer``, ``parameters`` (their number) and the card's columns.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
        >>> frame = measure_layers(model, nn.functional.mse_loss, (torch.randn(9, 3), torch.zeros(9, 1)))
        >>> sorted(set(frame["layer"]))
        ['0', '2']
    """
    if hvps < 6:
        raise must_be("hvps", ">= 6", hvps)
    frames = []
    for index, (layer, names) in enumerate(parameter_groups(unwrap(model)).items()):
        surface = LossSurface(model, loss_fn, data, params=names, batch_size=batch_size, check=index == 0)
        session = Session(surface, hvps, 1.0, 1.0, 1, seed)
        with surface.session():
            MEASURES["spectrum"](session)
        frame = pd.DataFrame(session.rows, columns=COLUMNS)
        kept = frame[frame["measure"].isin(["trace", "frobenius_norm", "lambda_1"])].copy()
        kept.insert(0, "layer", layer)
        kept.insert(1, "parameters", surface.dimension)
        frames.append(kept)
    return pd.concat(frames, ignore_index=True)
