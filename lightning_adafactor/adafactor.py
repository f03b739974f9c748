"""``Adafactor``: arguments, state and bookkeeping. The rule is in ``rule.py``, its execution in ``plain.py``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import Optimizer, ParamsT

from lightning_adafactor import conversion
from lightning_adafactor.arguments import check_ranges
from lightning_adafactor.capture import check_capture, check_state_for_capture
from lightning_adafactor.entry import Entry
from lightning_adafactor.entry_cache import EntryCache
from lightning_adafactor.implementation import Choice, Path
from lightning_adafactor.nonfinite import NonfiniteGradients, OnNonfinite, check_option, unsupported_for_parts
from lightning_adafactor.parameter_state import (
    adopted_state,
    check_saved,
    check_state,
    new_state,
    new_step,
    place_state,
)
from lightning_adafactor.positions import Position, Positions, all_positions
from lightning_adafactor.rule import Dialect, Rule, state_dtype
from lightning_adafactor.sharded import step as sharded_step
from lightning_adafactor.sharded.choice import choose, explain
from lightning_adafactor.sharded.entry_cache import ShardedEntryCache
from lightning_adafactor.sharded.flattened import check_for_deepspeed, check_for_fsdp1
from lightning_adafactor.work import KeptSteps, Work


class Adafactor(Optimizer):
    r"""Adafactor (Shazeer & Stern 2018, arXiv 1804.04235) with ``torch.optim.Adafactor``'s arguments and results.

    An (n, m) matrix costs n + m numbers of state where AdamW keeps 2·n·m. Tensors of more dimensions are batches of
    matrices over their last two; vectors and scalars keep one number per element. Arithmetic and state are float32
    whatever the parameter's dtype (float64 for float64), with one rounding per step where the parameter is written.

    For step t from 1, with ω = 1 - β̂₂ₜ = t^beta2_decay, ρ = min(lr, 1/√t), α = max(ε₂, RMS(p))·ρ::

        R ← (1-ω)·R + ω·mean_m(G²)      C ← (1-ω)·C + ω·mean_n(G²)      V̂ = max(R·C / max(mean(R), ε₁), ε₁²)
        U = G/√V̂                        p ← p·(1 - lr·λ) - α·U / max(1, RMS(U)/d)

    To fine-tune with a constant or scheduled learning rate, as most recipes do, pass
    ``scale_parameter=False, relative_step=False``.

    ``state[p]`` has torch's names and shapes: ``step`` and ``row_var`` (..., n, 1), ``col_var`` (..., 1, m), or
    ``variance``; with ``beta1`` also ``exp_avg``. For a DTensor (FSDP2, tensor parallelism) it is sharded likewise, and
    the step takes two all-reduces per process group for all parameters together. :meth:`load_state_dict` accepts what
    ``torch.optim.Adafactor`` and ``transformers.Adafactor`` saved.

    Args:
        params: Parameters, named parameters, or dicts that define parameter groups.
        lr: Upper bound of the relative step size ρ, or ρ itself with ``relative_step=False``; also the
            coefficient of weight decay.
        beta2_decay: Exponent of t in ω, the weight of the newest squared gradient.
        eps: ``(ε₁, ε₂)``. ε₁ bounds √V̂ from below; None takes the machine epsilon of the arithmetic: 1.2e-7, for
            float64 parameters 2.2e-16. (torch takes that of the parameter's dtype, 7.8e-3 for bfloat16, which damps
            every smaller gradient; ``eps=(torch.finfo(torch.bfloat16).eps, 1e-3)`` gives its numbers.)
            ε₂ is the smallest parameter scale.
        d: Clip threshold of RMS(U).
        weight_decay: Decoupled weight decay λ, multiplied by lr.
        foreach: Accepted for compatibility with torch, and ignored: the step works in tiles and needs no such batching.
        maximize: Maximize the objective instead of minimizing it.
        scale_parameter: Multiply the step size by max(ε₂, RMS(p)).
        relative_step: Bound the step size by 1/√t; False uses ``lr`` as it is.
        warmup_init: With ``relative_step``, also bound the step size by 1e-6·t.
        beta1: Decay factor of an exponential moving average of the updates (costs one number per element);
            None keeps no average.
        fused: Take the step in five Triton launches (of sharded parameters eight) for all parameters of a device and
            dtype, without synchronizing with the device. None does so for CUDA parameters where Triton is installed;
            True raises where that is not possible; False leaves the step to ``compiled`` or to plain torch operations.
            As with torch's fused optimizers, True also makes ``torch.amp.GradScaler`` leave unscaling to the step, and
            Lightning then refuses to clip gradients in mixed precision; None and False leave unscaling to the scaler.
        compiled: Take the step in compiled loops, one call for all parameters on the CPU. None does so where the
            library has been built; True raises where it has not; False takes the step in plain torch operations.
        capturable: Allow the step to be captured in a CUDA graph; pass ``lr`` as a tensor on the device to change it
            between replays. Needs the fused step and a step before the capture, and is not supported for sharded
            parameters. ``load_state_dict`` makes new tensors, which a graph captured before does not use.
        stochastic_rounding: Round written bfloat16 parameters up or down at random, so that updates below half
            a unit in the last place are not lost. None means yes. Other dtypes are rounded to nearest.
        seed: Key of the random numbers of stochastic rounding; saved with the state.
        allow_unfactored: Accept parameters that FSDP1 or DeepSpeed ZeRO have flattened, with a warning; their state
            has one number per element, and the results depend on how they are sharded.
        on_nonfinite: What to do where a gradient has an element that is NaN or infinite. "ignore" lets it enter the
            parameters and the state, as torch does; "skip" leaves the whole step out and counts it in
            ``skipped_steps``; "raise" also raises an error (on CUDA in a later step, because the host does
            not wait for the device; replays of a CUDA graph only skip). The last two read each gradient once more.

    Raises:
        ValueError: An argument is out of its range.
        RuntimeError: ``fused=True`` or ``compiled=True`` where it is not supported, or ``fused=True`` together with
            ``foreach=True``; or a parameter is a flat shard of FSDP1 or DeepSpeed ZeRO without ``allow_unfactored``.
    """

    _dialect: Dialect = "torch"
    _given: set[int]  # ids of the parameters that the optimizer was given
    # these belong to the process, not to the state
    _kept_steps: KeptSteps | None = None
    _kept_steps_of_parts: dict[int, KeptSteps] | None = None
    _positions: Positions | None = None
    _caches: tuple[EntryCache, ShardedEntryCache] | None = None
    _paths_of_caches: tuple[Any, ...] = ()
    _nonfinite: NonfiniteGradients | None = None
    _step_supports_amp_scaling: bool  # read by GradScaler and Lightning; absent unless fused=True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        scale_parameter: bool = True,
        relative_step: bool = True,
        warmup_init: bool = False,
        beta1: float | None = None,
        fused: bool | None = None,
        compiled: bool | None = None,
        capturable: bool = False,
        stochastic_rounding: bool | None = None,
        seed: int = 0,
        allow_unfactored: bool = False,
        on_nonfinite: OnNonfinite = "ignore",
    ) -> None:
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "d": d,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "scale_parameter": scale_parameter,
            "relative_step": relative_step,
            "warmup_init": warmup_init,
            "beta1": beta1,
            "fused": fused,
            "compiled": compiled,
            "capturable": capturable,
            "stochastic_rounding": stochastic_rounding,
            "seed": seed,
            "allow_unfactored": allow_unfactored,
            "on_nonfinite": on_nonfinite,
        }
        check_ranges(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; raises where ``fused=True`` or ``compiled=True`` is not supported, and for shards of FSDP1."""
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except (RuntimeError, ValueError):
            self.param_groups.pop()
            raise
        self._claim_amp_scaling()
        self.__dict__.setdefault("_given", set()).update(map(id, self.param_groups[-1]["params"]))

    def _check_group(self, group: dict[str, Any]) -> None:
        check_option(group["on_nonfinite"])
        if group["fused"] and group.get("foreach"):
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        if group["fused"] or group["compiled"] or group["capturable"]:
            for param in group["params"]:
                if param.requires_grad and not param.is_meta:  # others have no step, such as frozen uint8 weights
                    choose(group, param)
        check_for_fsdp1(group)

    def _claim_amp_scaling(self) -> None:
        """With ``fused=True``, asks ``GradScaler`` to hand over ``grad_scale`` and ``found_inf``."""
        if self.defaults["fused"]:
            self._step_supports_amp_scaling = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # of a copy or an unpickled optimizer, whose constructor was not called
        self._claim_amp_scaling()
        self.__dict__.setdefault("_given", {id(param) for group in self.param_groups for param in group["params"]})
        for name, argument in inspect.signature(type(self).__init__).parameters.items():
            if argument.default is not argument.empty:
                self.defaults.setdefault(name, argument.default)  # an option that the version did not have
        for group in self.param_groups:
            for key, value in self.defaults.items():
                if key != "differentiable":  # which Optimizer.__setstate__ adds, and groups are saved without
                    group.setdefault(key, value)
            for param in group["params"]:
                # by parameter: the state may hold more than parameters' states, put there by users' hooks
                param_state = self.state.get(param)
                if param_state and not torch.is_tensor(param_state["step"]):
                    param_state["step"] = new_step(float(param_state["step"]))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state saved by this class, ``torch.optim.Adafactor`` or ``transformers.Adafactor``.

        Names, shapes and group keys are converted, keys that the saved groups lack keep their present values, and
        the state has the dtype of the arithmetic, where ``Optimizer.load_state_dict`` would round it to that of a
        bfloat16 parameter.

        Args:
            state_dict: What ``state_dict()`` of one of these classes returned.

        Raises:
            ValueError: Number or sizes of the parameter groups differ, or shapes of parameters; nothing is loaded then.
        """
        loaded: dict[str, Any] = {}

        def convert(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
            loaded.update(conversion.convert_state_dict(state_dict, self.param_groups))
            for param, saved in saved_states():
                check_saved(param, saved)  # before anything is replaced
            return loaded

        def saved_states() -> Iterator[tuple[Tensor, dict[str, Any]]]:
            params = (param for group in self.param_groups for param in group["params"])
            keys = (key for group in loaded["param_groups"] for key in group["params"])
            pairs = zip(params, keys, strict=False)  # other numbers are an error of Optimizer.load_state_dict
            return ((param, loaded["state"][key]) for param, key in pairs if key in loaded["state"])

        def restore_precision(_: Optimizer) -> None:
            for param, saved in saved_states():
                self.state[param] = self._adopted_state(param, saved)

        # hooks, so that users' own hooks before and after see what they would see with any optimizer
        before = self.register_load_state_dict_pre_hook(convert)
        after = self.register_load_state_dict_post_hook(restore_precision, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()
        self.release_memory()

    def release_memory(self) -> None:
        """Lets go of all tensors that the fused step keeps for the next one, which then collects them anew.

        For code that moves parameters and state to the CPU between steps, and wants the device's memory back.
        """
        self._caches = None
        for kept in (self._kept_steps, *(self._kept_steps_of_parts or {}).values()):
            if kept is not None:
                kept.forget()

    def _adopted_state(self, param: Tensor, saved: dict[str, Any]) -> dict[str, Any]:
        """A copy of a saved state on this parameter's device and in the dtype of its state."""
        return adopted_state(param, saved)

    def _rule(self, group: dict[str, Any], *, part: bool = False) -> Rule:
        """A group's options in the vocabulary of the rule; ``part``: for a step of a part of the parameters."""
        return Rule(
            lr=group["lr"],
            beta2_decay=group["beta2_decay"],
            eps1=group["eps"][0],
            eps2=group["eps"][1],
            d=group["d"],
            weight_decay=group["weight_decay"],
            maximize=group["maximize"],
            scale_parameter=group["scale_parameter"],
            relative_step=group["relative_step"],
            warmup_init=group["warmup_init"],
            beta1=group["beta1"],
            dialect=self._dialect,
            stochastic_rounding=group["stochastic_rounding"] is not False,
            seed=group["seed"],
        )

    def _new_state(self, param: Tensor, rule: Rule) -> dict[str, Tensor]:
        """The state before the first step: zeros."""
        return new_state(param, has_average=rule.beta1 is not None)

    def _collect(self, work: Work, part: Iterable[Position] | None = None) -> None:
        """Adds an entry for each parameter that has a gradient to the work of its implementation."""
        cache, sharded_cache = self._new_or_kept_caches()
        rules: dict[int, Rule] = {}
        for index, number, param in all_positions(self.param_groups) if part is None else part:
            grad = param.grad
            if grad is None:
                continue
            if grad.is_sparse:
                raise RuntimeError("Adafactor does not support sparse gradients")
            group = self.param_groups[number]
            rule = rules.get(number)
            if rule is None:
                rule = rules[number] = self._rule(group, part=part is not None)
            state = self.state[param]
            kept = (
                sharded_cache.find(index, number, param, state, rule)
                if isinstance(param, DTensor)
                else cache.find(index, number, param, grad, state, rule)
            )
            if kept is not None:
                work.add(kept, "fused", param)
                continue
            if torch.is_complex(param):
                raise RuntimeError("Adafactor does not support complex parameters")
            path, entry = self._new_entry(group, param, index, rule)
            work.add(entry, path, param)
            if path == "fused":
                if isinstance(entry, sharded_step.ShardedEntry):
                    sharded_cache.keep(entry, number, param, state)
                elif not isinstance(param, DTensor):
                    cache.keep(entry, number, param, grad, state)

    def _new_entry(
        self, group: dict[str, Any], param: Tensor, index: int, rule: Rule
    ) -> tuple[Path, Entry | sharded_step.ShardedEntry]:
        """The implementation of a parameter's step and its entry; creates its state where there is none."""
        path = choose(group, param)
        state = self.state[param]
        check_state_for_capture(param, state, with_average=rule.beta1 is not None)
        if len(state) == 0:
            check_for_deepspeed(param, self._given, group)
            state.update(self._new_state(param, rule))
        elif rule.beta1 is not None and "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(param, dtype=state_dtype(param))
        assert param.grad is not None
        check_state(param, param.grad, state)
        place_state(param, state, path)
        if isinstance(param, DTensor):
            shard = sharded_step.entry_of(param, state, index, rule, path)
            return path, shard if shard.layout.all and param.numel() > 0 else shard.entry
        return path, Entry.of(param if path == "fused" else param.detach(), param.grad, state, index, rule)

    def _new_or_kept_caches(self) -> tuple[EntryCache, ShardedEntryCache]:
        """The entries of the last step, or none if an option that chooses the implementation has changed since."""
        paths = tuple((group["fused"], group["compiled"], group["capturable"]) for group in self.param_groups)
        if self._caches is None or paths != self._paths_of_caches:
            self._caches, self._paths_of_caches = (EntryCache(), ShardedEntryCache()), paths
        return self._caches

    def implementation(self) -> dict[str, Choice]:
        """Returns the implementation of each trainable parameter's step, and why it is not a faster one.

        Returns:
            Choices by the parameter's name, or by its number where parameters were given without names.
        """
        choices: dict[str, Choice] = {}
        number = -1
        for group in self.param_groups:
            names = group.get("param_names", [None] * len(group["params"]))
            for name, param in zip(names, group["params"], strict=True):
                number += 1
                if param.requires_grad or param.grad is not None:
                    choices[name or str(number)] = explain(group, param)
        return choices

    @property
    def skipped_steps(self) -> int | None:
        """Steps of this process that ``on_nonfinite`` left out; None where no group asks for it."""
        if all(group["on_nonfinite"] == "ignore" for group in self.param_groups):
            return None
        return 0 if self._nonfinite is None else self._nonfinite.skipped

    @torch._disable_dynamo  # traced, what is kept from step to step would become constants
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step for every parameter that has a gradient.

        Where a gradient scaler has set ``self.grad_scale`` and ``self.found_inf``, gradients are divided by
        ``grad_scale``, and nothing changes if ``found_inf`` is not zero.

        Args:
            closure: Evaluates the model again and returns the loss; called first, with gradients enabled.

        Returns:
            What the closure returned, or None without one.

        Raises:
            RuntimeError: A parameter is complex, or a gradient is sparse or a DTensor with Partial placements, or not
                finite where ``on_nonfinite`` is "raise".
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        check_capture(self.param_groups)
        if self._nonfinite is None:
            self._nonfinite = NonfiniteGradients()
        if self._kept_steps is None:
            self._kept_steps = KeptSteps()
        with Work() as work:
            self._collect(work)
            found_inf = self._nonfinite.check(self.param_groups, getattr(self, "found_inf", None))
            work.execute(self._kept_steps, getattr(self, "grad_scale", None), found_inf)
        return loss

    @torch._disable_dynamo
    @torch.no_grad()
    def step_parameters(self, params: Iterable[Tensor]) -> None:
        """Takes the step of some parameters: the same numbers as in a step of all.

        ``step`` and ``step_parameters`` together take one step of each parameter as long as a gradient is set to None
        once it has been used. Hooks of the step are not called. The fused step keeps the tables of a part for the next
        part with the same first parameter.

        Args:
            params: Some of the optimizer's parameters, in any order; those without a gradient are left out. Where they
                are sharded, all processes give the same ones.

        Raises:
            RuntimeError: As :meth:`step`; or a group has ``on_nonfinite`` "skip" or "raise", which a part cannot have.
            ValueError: One is not a parameter of the optimizer.
        """
        check_capture(self.param_groups)
        reason = unsupported_for_parts(self.param_groups)
        if reason is not None:
            raise RuntimeError(reason)
        if self._positions is None:
            self._positions = Positions()
        part = self._positions.of(self.param_groups, params)
        with Work() as work:
            self._collect(work, part)
            work.execute(self._kept_of_part(part), getattr(self, "grad_scale", None), getattr(self, "found_inf", None))

    def _kept_of_part(self, part: Sequence[Position]) -> KeptSteps:
        if self._kept_steps_of_parts is None:
            self._kept_steps_of_parts = {}
        return self._kept_steps_of_parts.setdefault(part[0].number, KeptSteps()) if part else KeptSteps()
