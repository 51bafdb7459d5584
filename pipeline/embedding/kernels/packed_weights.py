"""Linear layers with weights in oneDNN's own layout, and GELU fused into the product before it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.activations import GELUActivation


class PackedLinear(nn.Module):
    """An `nn.Linear` with packed weights: some 5 % faster, 40 % for the few tokens of a query.

    The operators are those of torch's compiler and have no public name. With `gelu` the exact GELU is applied before
    the result is rounded.
    """

    def __init__(self, linear: nn.Linear, *, gelu: bool = False) -> None:
        super().__init__()
        operators: Any = torch.ops.mkldnn
        packed = operators._reorder_linear_weight(linear.weight.detach(), None)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias
        self._product = operators._linear_pointwise
        self._activation: tuple[str, list[float], str] = ("gelu" if gelu else "none", [], "none")

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Shape (..., in) to (..., out)."""
        return self._product(rows, self.weight, self.bias, *self._activation)  # type: ignore[no-any-return]


def pack_weights(model: nn.Module) -> Callable[[], None]:
    """Replace the linear layers of a model; returns a function that restores them (and keeps the originals alive).

    Raises `RuntimeError` or `AttributeError` where this torch or processor cannot pack; the model is then unchanged.
    """
    undo: list[Callable[[], None]] = []

    def replace(parent: nn.Module, name: str, module: nn.Module) -> None:
        undo.append(partial(setattr, parent, name, getattr(parent, name)))
        setattr(parent, name, module)

    def restore() -> None:
        for undo_one in undo:
            undo_one()

    try:
        for parent in list(model.modules()):
            # Only BERT and its relatives keep their activation under this name.
            gelu = isinstance(getattr(parent, "intermediate_act_fn", None), GELUActivation)
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:  # a subclass may compute something else
                    before_gelu = gelu and name == "dense"
                    replace(parent, name, PackedLinear(child, gelu=before_gelu))
                    if before_gelu:
                        replace(parent, "intermediate_act_fn", nn.Identity())
    except BaseException:
        restore()
        raise
    return restore
