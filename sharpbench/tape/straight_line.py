"""From the kernels of a computation to a function that runs them and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from .kernels import Call, Variable

Program = Callable[..., list[Tensor]]
aten = torch.ops.aten

# torch's own entry points take half the time of an operator's, with the same arguments.
ENTRY_POINTS: dict[OpOverload, Callable[..., Any]] = {
    aten.mm.default: torch.mm,
    aten.addmm.default: torch.addmm,
    aten.t.default: torch.t,
    aten.relu_.default: torch.relu_,
    aten._log_softmax.default: torch._log_softmax,
    aten.native_batch_norm.default: torch.native_batch_norm,
    aten.convolution.default: torch.convolution,
}


def simplified(
    calls: Sequence[Call], outputs: Sequence[Variable], shapes: dict[Variable, tuple[int, ...]]
) -> tuple[list[Call], list[Variable]]:
    """Without what only autograd needed: aliases, double transposes, results nobody uses."""
    same: dict[Variable, Variable] = {}
    made: dict[Variable, Call] = {}
    kept: list[Call] = []
    for call in calls:
        call = call.with_inputs(same)
        operator, before = call.operator, made.get(call.inputs[0]) if call.inputs else None
        if operator is aten.detach.default:
            same[call.result] = call.inputs[0]
            continue
        if before is not None and operator is aten.t.default and before.operator is operator:
            same[call.result] = before.inputs[0]
            continue
        if before is not None and operator is aten.view.default:
            if before.operator is operator:
                call = call.with_inputs({call.inputs[0]: before.inputs[0]})
            elif before.operator is aten.sum.dim_IntList and _keeps_dropped(before, call, shapes):
                call = Call(before.operator, before.arguments[:2], before.options, call.results)
        for variable in call.results:
            if variable is not None:
                made.setdefault(variable, call)
        kept.append(call)
    outputs = [same.get(v, v) for v in outputs]
    return _in_place(_used(kept, outputs), made, outputs), outputs


def fused(
    calls: Sequence[Call], outputs: Sequence[Variable], shapes: dict[Variable, tuple[int, ...]]
) -> list[Call]:
    """``y + a @ b`` as one kernel, where the product is read nowhere else: a pass over memory less."""
    readers = Counter(v for call in calls for v in call.inputs) + Counter(outputs)
    products = {call.result: call for call in calls if _is_product(call)}
    found, gone = list(calls), set()
    for i, call in enumerate(calls):
        if call.operator is not aten.add.Tensor or call.options or len(call.inputs) != 2:
            continue
        left, right = call.inputs
        for product, other in ((right, left), (left, right)):
            once = product in products and product not in gone and readers[product] == 1
            if once and shapes[left] == shapes[right]:
                gone.add(product)
                found[i] = _added(products[product], other, call.results)
                break
    return [call for call in found if not gone.intersection(call.results)]


def _is_product(call: Call) -> bool:
    """A product of two matrices, by the BLAS or by oneDNN's linear layer without anything fused to it."""
    if call.operator is aten.mm.default:
        return True
    plain = str(call.operator) == "mkldnn._linear_pointwise.default"
    return plain and call.arguments[2:4] == (None, "none") and len(call.inputs) == 2


def _added(product: Call, other: Variable, results: list[Variable | None]) -> Call:
    """``other`` plus the product, as one call."""
    if product.operator is aten.mm.default:
        return Call(aten.addmm.default, (other, *product.inputs), {}, results)
    left, right = product.inputs
    add = torch.ops.mkldnn._linear_pointwise.binary
    return Call(add, (left, other, right, None, "add"), {}, results)


def _keeps_dropped(total: Call, view: Call, shapes: dict[Variable, tuple[int, ...]]) -> bool:
    """Whether the view drops just the dimensions that were summed over and kept."""
    summed, dimensions = shapes[total.inputs[0]], total.arguments[1]
    gone = {d % len(summed) for d in dimensions}
    return shapes[view.result] == tuple(n for d, n in enumerate(summed) if d not in gone)


def _used(calls: Sequence[Call], outputs: Sequence[Variable]) -> list[Call]:
    wanted, kept = set(outputs), []
    for call in reversed(calls):
        if call.operator._schema.is_mutable or wanted.intersection(call.results):
            wanted.update(call.inputs)
            kept.append(call)
    return kept[::-1]


def _in_place(calls: Sequence[Call], made: dict[Variable, Call], outputs: Sequence[Variable]) -> list[Call]:
    """A ReLU of what nobody else reads overwrites it."""
    readers = Counter(v for call in calls for v in set(call.inputs))

    def overwritten(call: Call) -> bool:
        if call.operator is not aten.relu.default:
            return False
        value = call.inputs[0]
        maker = made.get(value)
        own = maker is not None and not any(r.alias_info for r in maker.operator._schema.returns)
        return own and readers[value] == 1 and value not in outputs

    relu = aten.relu_.default
    return [Call(relu, c.arguments, c.options, c.results) if overwritten(c) else c for c in calls]


def made_once(
    calls: Sequence[Call],
    outputs: Sequence[Variable],
    constants: dict[Variable, Tensor],
    held: Sequence[Tensor],
) -> tuple[list[Call], dict[Variable, Tensor]]:
    """The calls that every run needs, and the constants with what the others made.

    What lies in a constant's memory follows its values, and ones stay ones, where no kernel writes on them.

    Args:
        held: what each variable was when the calls were written down.
    """
    found, rest = dict(constants), []

    def places(variables: Iterable[Variable]) -> set[int]:
        return {held[v.index].untyped_storage().data_ptr() for v in variables}

    written = {v for call in calls if call.operator._schema.is_mutable for v in call.inputs}
    # By memory: what is written on, or given away, may be a view of the ones.
    taken = places(written.union(outputs))
    for call in calls:
        kept = {v for v in call.results if v is not None}
        view = call.operator.is_view and bool(call.inputs) and all(v in found for v in call.inputs)
        # Some operators give a view or a copy, as the memory allows.
        view = view and len(places({*call.inputs, *kept})) == 1
        ones = call.operator is aten.ones_like.default and taken.isdisjoint(places(kept))
        if (view or ones) and kept.isdisjoint(outputs) and kept.isdisjoint(written):
            found.update({v: held[v.index].detach() for v in kept})
        else:
            rest.append(call)
    return rest, found


def compiled(
    calls: Sequence[Call],
    inputs: Sequence[Variable],
    outputs: Sequence[Variable],
    constants: dict[Variable, Tensor],
) -> Program:
    """The calls as a Python function; every variable is forgotten after its last use."""
    scope: dict[str, Any] = {_name(v): t for v, t in constants.items()}
    last: dict[Variable, int] = {}
    for i, call in enumerate(calls):
        last.update(dict.fromkeys(call.inputs, i))
        last.update(dict.fromkeys([v for v in call.results if v is not None and v not in last], i))
    lines = [f"def program({', '.join(map(_name, inputs))}):"]
    for i, call in enumerate(calls):
        scope[f"f{i}"] = ENTRY_POINTS.get(call.operator, call.operator._op)
        values = [_written(a, scope) for a in call.arguments]
        values += [f"{name}={_written(a, scope)}" for name, a in call.options.items()]
        # An in-place kernel gives back its argument, which has its name already.
        fresh = [None if v in call.inputs else v for v in call.results]
        results = ", ".join("_" if v is None else _name(v) for v in fresh) + ("," if call.several else "")
        lines.append(f"    {results + ' = ' if results else ''}f{i}({', '.join(values)})")
        done = {v for v, at in last.items() if at == i} - set(outputs) - constants.keys()
        if done:
            lines.append("    " + " = ".join(sorted(map(_name, done))) + " = None")
    lines.append(f"    return [{', '.join(map(_name, outputs))}]")
    exec("\n".join(lines), scope)
    found: Program = scope["program"]
    return found


def _name(variable: Variable) -> str:
    return f"v{variable.index}"


def _written(value: Any, scope: dict[str, Any]) -> str:
    if isinstance(value, Variable):
        return _name(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_written(v, scope) for v in value) + "]"
    if value is None or isinstance(value, bool | int):
        return repr(value)
    name = f"c{len(scope)}"
    scope[name] = value
    return name
