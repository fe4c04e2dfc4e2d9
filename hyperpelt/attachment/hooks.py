"""The hooks through which tuners act at the operations of a backbone.

Each asks the backbone's switch for the pass that is running, and does nothing when there is none. Everything but
prefixes goes through them: on a module's output, on its input, or from one module to another (the feed-forward network
of BART is no module of its own).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from torch import Tensor, nn

from hyperpelt.attachment.joined_attention import SLOT
from hyperpelt.attachment.passes import NOTHING
from hyperpelt.operations import ATTENTIONS, NORMS, PROJECTIONS, Operation

if TYPE_CHECKING:
    from hyperpelt.attachment.switch import Switch


class Slot:
    """Marks an attention module, so that the attention function finds its operation; removable as a hook is."""

    def __init__(self, module: nn.Module, switch: Switch, operation: Operation) -> None:
        # Held weakly, as it holds this: else the weights of a model that nobody uses would wait for a collector.
        self._module, self.switch, self.operation = ref(module), switch, operation
        setattr(module, SLOT, self)

    def remove(self) -> None:
        module = self._module()
        if module is not None:
            delattr(module, SLOT)


class Instead:
    """In the place of a norm's `forward`: a tuner that gives the whole needs no norm before it. Removable as a hook."""

    def __init__(self, module: nn.Module, switch: Switch, operation: Operation) -> None:
        self.module, self.switch, self.operation = module, switch, operation
        module.forward = self

    def __call__(self, hidden_states: Tensor) -> Tensor:
        running, plain = self.switch.running, partial(type(self.module).forward, self.module, hidden_states)
        if running is None or not running.has(self.operation):
            return plain()
        return running.tuned_norm(
            self.operation, hidden_states, plain, dict(self.module.named_parameters(recurse=False))
        )

    def remove(self) -> None:
        del self.module.forward


def install(switch: Switch, operation: Operation) -> list[Any]:
    """Put hooks for one operation on its modules; the handles that remove them."""
    module = switch.backbone.get_submodule(operation.path)
    last = switch.backbone.get_submodule(operation.exit_path)
    handles: list[Any] = []
    if operation.kind == "embedding":
        # Rows before the embedded input are put there by the model, which also widens the mask.
        return _install_embedding(switch, operation, module)
    if operation.kind == "head":
        return [module.register_forward_hook(_tune_head(switch, operation))]
    if operation.residual_path is not None:
        norm = switch.backbone.get_submodule(operation.residual_path)
        handles.append(norm.register_forward_pre_hook(_keep_residual(switch, operation)))
    if operation.kind in NORMS:
        return [*handles, Instead(module, switch, operation)]
    if operation.kind == "hidden":
        return [module.register_forward_pre_hook(_tune_hidden(switch, operation))]
    if operation.kind == "block":
        handles.append(module.register_forward_pre_hook(_tune_input(switch, operation)))
    if operation.kind in ATTENTIONS:
        handles.append(Slot(module, switch, operation))
        handles.append(module.register_forward_pre_hook(_keep_input(switch, operation), with_kwargs=True))
    elif module is not last:
        handles.append(module.register_forward_pre_hook(_keep_input(switch, operation), with_kwargs=True))
    # On BART the feed-forward network ends with wo itself: a tuner of the projection comes before one of the network.
    handles.append(last.register_forward_hook(_tune_output(switch, operation), prepend=operation.kind in PROJECTIONS))
    return handles


def see_states(switch: Switch) -> Callable[..., None]:
    """A pre-hook of the decoder, which gets the encoder's states whoever computed them."""

    def hook(_module: nn.Module, _args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        instances = None if switch.running is None else switch.running.instances
        if instances is not None and kwargs.get("encoder_hidden_states") is not None:
            instances.see_states(kwargs["encoder_hidden_states"], kwargs.get("encoder_attention_mask"))

    return hook


def _keep_residual(switch: Switch, operation: Operation) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
        if switch.running is not None and switch.running.wants_residual(operation):
            switch.running.residuals[operation.name] = args[0]

    return hook


def _keep_input(switch: Switch, operation: Operation) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if switch.running is not None and switch.running.has(operation):
            switch.running.inputs[operation.name] = args[0] if args else kwargs["hidden_states"]

    return hook


def _tune_input(switch: Switch, operation: Operation) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> Any:
        if switch.running is None or not switch.running.has(operation):
            return None
        return (switch.running.tuned_input(operation, args[0]), *args[1:])

    return hook


def _tune_hidden(switch: Switch, operation: Operation) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> Any:
        if switch.running is None or not switch.running.has(operation):
            return None
        return (switch.running.tuned_output(operation, args[0], args[0]), *args[1:])

    return hook


def _tune_output(switch: Switch, operation: Operation) -> Callable[..., Any]:
    """A forward hook that adds the tuners' deltas to the output; several-valued outputs keep their other values."""
    is_projection = operation.kind in PROJECTIONS

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        running = switch.running
        if running is None or not running.has(operation):
            return None
        read = running.inputs.pop(operation.name, None)
        read = args[0] if read is None else read
        first = output[0] if isinstance(output, tuple) else output
        frozen = dict(module.named_buffers(recurse=False)) if is_projection else NOTHING
        tuned = running.tuned_output(operation, read, first, frozen)
        return (tuned, *output[1:]) if isinstance(output, tuple) else tuned

    return hook


def _install_embedding(switch: Switch, operation: Operation, module: nn.Module) -> list[Any]:
    """A hook on an embedding; where both stacks have one module, it acts in its own stack's calls alone."""
    decoder = switch.backbone.get_decoder()
    alone = decoder.embed_tokens is not switch.backbone.get_encoder().embed_tokens
    running = [operation.stack == "decoder"] if alone else [False]

    def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if switch.running is None or not switch.running.has(operation) or running[0] != (operation.stack == "decoder"):
            return None
        return switch.running.tuned_output(operation, output, output, {"ids": args[0]})

    def entering(now: bool) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            running[0] = now

        return enter

    handles = [module.register_forward_hook(hook)]
    if not alone:
        handles.append(decoder.register_forward_pre_hook(entering(True)))
        handles.append(decoder.register_forward_hook(entering(False), always_call=True))
    return handles


def _tune_head(switch: Switch, operation: Operation) -> Callable[..., Any]:
    """A hook on the map to the vocabulary, which may be asked at some positions of the batch alone."""

    def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        running = switch.running
        if running is None or not running.has(operation):
            return None
        if args[0].dim() > 2:
            return running.tuned_output(operation, args[0], output)
        rows, by_row = running.rows, running.by_row
        if rows is not None and running.owners is not None:  # each position stands as a row of its own
            running.rows, running.by_row = rows.index_select(0, running.owners), dict[str, Any]()
        try:
            return running.tuned_output(operation, args[0].unsqueeze(1), output.unsqueeze(1)).squeeze(1)
        finally:
            running.rows, running.by_row = rows, by_row

    return hook
