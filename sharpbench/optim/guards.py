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

    def save(self) -> SavedBuffers:
        """The buffers as they are; whoever calls this puts them back in a ``finally``."""
        return SavedBuffers(self.model)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Re-entrant and exception-safe: buffers after the block equal those before it, bitwise."""
        saved = self.save()
        try:
            yield
        finally:
            saved.put_back()


class SavedBuffers:
    """Copies of a module's buffers, or of those of every module that runs until they are put back."""

    def __init__(self, model: nn.Module | None) -> None:
        self._buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []
        self._seen: set[nn.Module] = set()
        self._watch = ExitStack()
        if model is not None:
            self._remember(model)
            return
        # torch.compile warns that a global hook fires once more for the compiled module; here that
        # is harmless, since a module is remembered once.
        self._watch.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=".*when there are global hooks on modules")
        hook = nn.modules.module.register_module_forward_pre_hook(self._before_forward)
        self._watch.callback(hook.remove)

    @torch.no_grad()
    def put_back(self) -> None:
        """Restore values and bindings, and stop watching."""
        self._watch.close()
        if self._buffers:
            torch._foreach_copy_([b for _, _, b, _ in self._buffers], [v for *_, v in self._buffers])
        for module, name, buffer, _ in self._buffers:
            module._buffers[name] = buffer

    def _before_forward(self, module: nn.Module, args: object) -> None:
        if module not in self._seen:
            self._remember(module)

    def _remember(self, root: nn.Module) -> None:
        # Module.modules() is a generator in a generator for each level: this walk is run every step.
        ahead: list[nn.Module | None] = [root]
        while ahead:
            module = ahead.pop()
            if module is None or module in self._seen:
                continue
            self._seen.add(module)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    self._buffers.append((module, name, buffer, buffer.detach().clone()))
            if module._modules:
                ahead.extend(module._modules.values())


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
