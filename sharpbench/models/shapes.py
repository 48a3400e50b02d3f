"""What goes into a network: images or tokens, and the one-line refusal of anything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..errors import InvalidInput, must_be

Kind = Literal["images", "tokens"]
Shape = tuple[int, ...]
"""(channels, height, width) of an image, or (length,) of a text; without the batch dimension."""
ImageShape = tuple[int, int, int]
TokenShape = tuple[int]
DIMENSIONS: dict[Kind, int] = {"images": 3, "tokens": 1}
FORMS: dict[Kind, str] = {"images": "(channels, height, width)", "tokens": "(length,)"}


def require_kind(name: str, kind: Kind, shape: Sequence[int], alternatives: Sequence[str] = ()) -> None:
    """Refuse a shape that is not of the network's kind.

    Args:
        name: of the network.
        kind: what it takes.
        shape: what it is given.
        alternatives: networks that take the other kind, for the message.

    Raises:
        InvalidInput: the wrong number of dimensions, or one that is not a positive integer.

    >>> require_kind("mlp", "images", (64,), ["char_transformer"])
    Traceback (most recent call last):
    sharpbench.errors.InvalidInput: mlp takes images of shape (channels, height, width), but got (64,); for \
tokens take one of: char_transformer
    """
    given = tuple(shape)
    if len(given) != DIMENSIONS[kind]:
        other: Kind = "tokens" if kind == "images" else "images"
        meant = alternatives if len(given) == DIMENSIONS[other] else ()
        hint = f"; for {other} take one of: {', '.join(meant)}" if meant else ""
        raise InvalidInput(f"{name} takes {kind} of shape {FORMS[kind]}, but got {given}{hint}")
    if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in given):
        raise must_be(f"the shape of {name}'s {kind}", "of integers >= 1", given)


def require_pixels(name: str, shape: ImageShape, smallest: int) -> None:
    """Refuse images with a side shorter than ``smallest``.

    Raises:
        InvalidInput: too small an image.

    >>> require_pixels("wrn28_10", (3, 2, 2), 4)
    Traceback (most recent call last):
    sharpbench.errors.InvalidInput: wrn28_10 takes images of at least 4x4 pixels, but got 2x2; mlp takes any \
size
    """
    _, height, width = shape
    if min(height, width) < smallest:
        raise InvalidInput(
            f"{name} takes images of at least {smallest}x{smallest} pixels, but got {height}x{width}; "
            "mlp takes any size"
        )
