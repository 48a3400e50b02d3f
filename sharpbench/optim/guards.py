"""What a second look at the loss must leave as it was: buffers and random streams."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


class BufferGuard:
    """Keeps every buffer (BatchNorm's running statistics above all) as the pass at x left it.

    With ``model`` given, its buffers are saved and restored. Without it, a forward pre-hook sees every
    module that runs inside the guarded block, just before it runs, and saves its buffers then. Saving
    and restoring is exact for any buffer, also one that a module rebinds; setting ``momentum = 0`` instead
    would lose the momentum when guards nest and would still count batches.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self.model = model

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Re-entrant and exception-safe: buffers after the block equal those before it, bitwise."""
        saved: list[tuple[nn.Module, str, Tensor, Tensor]] = []
        seen: set[int] = set()

        def remember(root: nn.Module) -> None:
            for module in root.modules():
                if id(module) in seen:
                    continue
                seen.add(id(module))
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        saved.append((module, name, buffer, buffer.detach().clone()))

        def before_forward(module: nn.Module, args: object) -> None:
            if id(module) not in seen:
                remember(module)

        with ExitStack() as stack:
            stack.callback(_put_back, saved)
            if self.model is not None:
                remember(self.model)
            else:
                # torch.compile warns that a global hook fires once more for the compiled module; here that
                # is harmless, since a module is remembered once.
                stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", message=".*when there are global hooks on modules")
                hook = nn.modules.module.register_module_forward_pre_hook(before_forward)
                stack.callback(hook.remove)
            yield


@torch.no_grad()
def _put_back(saved: list[tuple[nn.Module, str, Tensor, Tensor]]) -> None:
    if saved:
        torch._foreach_copy_([buffer for _, _, buffer, _ in saved], [value for *_, value in saved])
    for module, name, buffer, _ in saved:
        module._buffers[name] = buffer


class RandomGuard:
    """Lets every pass of a step draw the same random numbers (the same dropout mask).

    The streams are those of the CPU and of the CUDA devices that hold parameters. After the step they
    stand where one plain forward pass would have left them, so an optimizer never shifts the data order
    or the dropout of the run it is used in.
    """

    def __init__(self, devices: set[torch.device], active: bool = True) -> None:
        self.cuda = sorted((d for d in devices if d.type == "cuda"), key=str) if active else []
        self.active = active

    def state(self) -> list[Tensor]:
        """The streams as they stand."""
        if not self.active:
            return []
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in self.cuda)]

    def set(self, state: list[Tensor]) -> None:
        """Put the streams to a state saved before."""
        if not self.active:
            return
        torch.set_rng_state(state[0])
        for device, value in zip(self.cuda, state[1:], strict=True):
            torch.cuda.set_rng_state(value, device)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """The streams after the block stand where they stood before it."""
        before = self.state()
        try:
            yield
        finally:
            self.set(before)
