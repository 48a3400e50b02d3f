"""measure(): every measure of one network as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

import pandas as pd
from torch import Tensor, nn

from ..errors import InvalidInput, must_be, unknown_name
from .batches import Weight
from .capacity import distance_from
from .evaluation import LossFunction
from .groups import COLUMNS, MEASURES, Session, basics, row_names
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
    measures: str | Sequence[str] = ("spectrum", "sam_sharpness", "universal"),
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
    weight: Weight = None,
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
        loss_fn: ``loss_fn(outputs, targets)``, a scalar; a mean over examples unless ``weight`` is given.
        data: ``(inputs, targets)`` or a re-iterable of such batches, in a fixed order.
        measures: a name or names from :data:`MEASURES`. A group that can't be computed on this network has
            rows of nan with the reason in ``notes``, and the others stay.
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
        distributed: ``data`` is this rank's shard; every rank of the default process group calls. An error
            in a group then ends the whole call, on all ranks alike.
        weight: what the loss of a batch is divided by: ``None`` (its examples), ``"sum"`` (nothing), or a
            function of ``(inputs, targets)``; see :class:`~sharpbench.sharpness.surface.LossSurface`.
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
    chosen = [measures] if isinstance(measures, str) else list(measures)
    for name in chosen:
        if name not in MEASURES:
            raise unknown_name("measure", name, MEASURES)
    for key, length in (("rho", rho), ("damping", damping)):
        if not (isinstance(length, Real) and math.isfinite(length) and length > 0):
            raise must_be(key, "> 0", length)
    _check_whole("top_k", top_k, 1)
    _check_whole("hvps", hvps, 6)
    _check_whole("seed", seed)
    if backend not in ("sharpbench", "pyhessian"):
        raise unknown_name("backend", backend, ("sharpbench", "pyhessian"))
    surface = LossSurface(
        model, loss_fn, data, params=params, batch_size=batch_size, distributed=distributed, weight=weight
    )
    earlier = warm.spectrum if isinstance(warm, Card) else warm
    if earlier is not None and earlier.dimension != surface.dimension:
        raise must_be(
            "the dimension of the warm start", f"{surface.dimension}, as the surface's", earlier.dimension
        )
    if initial is not None and "capacity" in chosen:
        distance_from(surface, initial)  # refuses another network's weights
    session = Session(surface, hvps, rho, damping, top_k, seed, earlier, initial)
    groups = {name: group for name, group in MEASURES.items() if name in chosen}
    if backend == "pyhessian":
        from .reference import pyhessian_rows

        groups = {"pyhessian": pyhessian_rows}
    with surface.session():
        basics(session)
        for name, group in groups.items():
            if progress is not None:
                progress(name)
            try:
                group(session)
            except Warning:
                raise
            except Exception as error:
                if name not in MEASURES or surface.shards.active:  # other ranks would wait for this one
                    raise
                said = str(error).partition("\n")[0]
                reason = said if isinstance(error, InvalidInput) else f"{type(error).__name__}: {said}"
                session.undefined(row_names(name, top_k), f"not computed: {reason}")
                surface.graphs.clear()
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
    weight: Weight = None,
) -> pd.DataFrame:
    """Trace, Frobenius norm and top eigenvalue of every layer's own block of the Hessian.

    A layer is a module that holds parameters itself; a tied weight belongs to the first. ``hvps`` products
    are spent on each; ``data``, ``batch_size`` and ``weight`` are those of :func:`measure`. The traces add up
    to the whole trace; the other two do not.

    Returns:
        A frame with ``layer``, ``parameters`` (their number) and the card's columns.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
        >>> frame = measure_layers(model, nn.functional.mse_loss, (torch.randn(9, 3), torch.zeros(9, 1)))
        >>> sorted(set(frame["layer"]))
        ['0', '2']
    """
    _check_whole("hvps", hvps, 6)
    frames = []
    for index, (layer, names) in enumerate(parameter_groups(unwrap(model)).items()):
        first = index == 0  # model, loss and data are the same for every layer
        surface = LossSurface(
            model, loss_fn, data, params=names, batch_size=batch_size, check=first, weight=weight
        )
        session = Session(surface, hvps, 1.0, 1.0, 1, seed)
        with surface.session():
            MEASURES["spectrum"](session)
        frame = pd.DataFrame(session.rows, columns=COLUMNS)
        kept = frame[frame["measure"].isin(["trace", "frobenius_norm", "lambda_1"])].copy()
        kept.insert(0, "layer", layer)
        kept.insert(1, "parameters", surface.dimension)
        frames.append(kept)
    return pd.concat(frames, ignore_index=True)


def _check_whole(name: str, value: int, least: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise must_be(name, "a whole number", value)
    if least is not None and value < least:
        raise must_be(name, f">= {least}", value)
