"""Langevin sampling of the parameters of a network: SGLD, and BNP-SGLD with preconditioned noise.

With L the mean loss over N samples the posterior is ``p(ŵ) ∝ exp(−N L(ŵ))``. A step is a gradient step with
noise::

    ŵ ← ŵ − h (P Pᵀ/q²) ∇L(ŵ) + √(2 h T/N) (P/q) ξ          ξ ~ N(0, I)

Without a preconditioner P/q is the identity (Welling and Teh). For a constant P this is Langevin sampling in
the coordinates ``z = P⁻¹ŵ``. Its stationary distribution is the posterior for every P, up to the error of the
step h. A varying P would bias the posterior without the divergence of ``P Pᵀ`` in the drift. The moments in P
are therefore frozen after a burn-in, and q² may depend on the number of samples of a step, not on their norm.

References
----------
M. Welling, Y. W. Teh, *Bayesian learning via stochastic gradient Langevin dynamics*, ICML 2011.
S. Lange, W. Deng, Q. Ye, G. Lin, *Batch normalization preconditioning for stochastic gradient Langevin
dynamics*, Journal of Machine Learning 2(1), 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from ..errors import ConfigurationError, StateError
from ..layers import statistics_dtype
from ..preconditioner import BNP

_OURS = ("steps", "generator", "preconditioner")


class SGLD(Optimizer):
    """Stochastic gradient Langevin dynamics: gradient descent with noise, which samples the posterior.

    After each `step` the parameters are a sample. `step` calls ``step()`` of the preconditioner, so that the
    gradient and the noise have the same transform; do not call it yourself.

    Parameters
    ----------
    params : iterable
        Parameters, or groups with their own options, as for any torch optimizer.
    lr : float
        h ≥ 0, the learning rate on the mean loss. In intrinsic coordinates, a quadratic loss with the largest
        curvature λ needs ``h < 2/λ``; the variance is too large by a factor ``1/(1 − h λ/2)``.
    samples : float
        N > 0, the number of samples in the mean of the loss (or of the data set that it estimates).
    preconditioner : BNP, optional
        Preconditioner of the model, with the step scale ``"paper"`` or ``"none"``. None samples without
        preconditioning, as do parameters that BNP does not cover.
    prior_precision : float
        Precision λ ≥ 0 of a Gaussian prior with mean 0 on the parameters, ``λ/2 ‖ŵ‖²``. Its gradient is
        preconditioned, unlike weight decay.
    temperature : float
        T ≥ 0; 1 samples the posterior, 0 is descent without noise.
    burn_in : int
        Number of steps before the moments of the preconditioner are frozen, ≥ 1; none of them is a sample.
    seed : int
        Seed of the noise. Equal seeds and equal gradients give equal bits on machines of one kind.

    Raises
    ------
    ConfigurationError
        If an argument is out of range, the step scale of the preconditioner is ``"norm"``, or `params` lacks
        parameters that it covers.

    Notes
    -----
    A mini-batch of n samples adds gradient noise to the noise of the step. A share below s needs about
    ``h ≤ 2 s n / N``, in coordinates with curvature 1.

    Examples
    --------
    >>> model = nn.Linear(2, 1)
    >>> x = torch.randn(50, 2)
    >>> sampler = SGLD(model.parameters(), 0.1, samples=50, preconditioner=BNP(model), burn_in=100)
    >>> draws = []
    >>> for step in range(200):
    ...     sampler.zero_grad()
    ...     (0.5 * (model(x) - x[:, :1]).square().mean()).backward()
    ...     sampler.step()
    ...     if step >= 100:
    ...         draws.append(model.weight.detach().clone())
    >>> torch.stack(draws).std(0).min() > 0.02
    tensor(True)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        samples: float,
        preconditioner: BNP | None = None,
        prior_precision: float = 0.0,
        temperature: float = 1.0,
        burn_in: int = 1000,
        seed: int = 0,
    ) -> None:
        _check(lr, samples, prior_precision, temperature, burn_in)
        options = {
            "lr": lr,
            "samples": samples,
            "prior_precision": prior_precision,
            "temperature": temperature,
        }
        super().__init__(params, options)
        self.preconditioner = preconditioner
        self.burn_in = burn_in
        self.steps = 0
        if preconditioner is not None:
            _check_preconditioner(preconditioner, [p for g in self.param_groups for p in g["params"]])
        first = self.param_groups[0]["params"][0]
        self._generator = torch.Generator(first.device).manual_seed(seed)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Precondition ``.grad`` in place, descend, and add noise; parameters without a gradient stay.

        Parameters
        ----------
        closure : callable, optional
            Recomputes the loss and its gradients.

        Returns
        -------
        float or None
            Loss of `closure`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step()
        return loss

    @torch.no_grad()
    def _step(self) -> None:
        moving = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for p, group in moving:
            if group["prior_precision"]:
                p.grad.add_(p, alpha=group["prior_precision"] / group["samples"])
        noise = {p: self._white(p) for p, _ in moving}
        if self.preconditioner is not None:
            for moments in self.preconditioner.moments.values():
                moments.frozen = self.steps >= self.burn_in
            self.preconditioner.step()
            self.preconditioner.shape_noise(noise)
        for p, group in moving:
            p.add_(p.grad, alpha=-group["lr"])
            size = math.sqrt(2.0 * group["lr"] * group["temperature"] / group["samples"])
            p.add_(noise[p].to(p.dtype), alpha=size)
        self.steps += 1

    def _white(self, p: nn.Parameter) -> Tensor:
        """Return white noise like a parameter, drawn on the device of the generator."""
        generator, dtype = self._generator, statistics_dtype(p.dtype)
        return torch.randn(p.shape, generator=generator, device=generator.device, dtype=dtype).to(p.device)

    def state_dict(self) -> dict[str, Any]:
        """Return the state without the parameters: options, generator, number of steps, and moments."""
        pre = self.preconditioner
        return {
            **super().state_dict(),
            "steps": self.steps,
            "generator": self._generator.get_state(),
            "preconditioner": None if pre is None else pre.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state from `state_dict`.

        Raises
        ------
        StateError
            If the state is of another model, or only one of both has a preconditioner.
        """
        if missing := [name for name in _OURS if name not in state_dict]:
            raise StateError(f"not the state of a sampler: it has no {', '.join(missing)}")
        pre, moments = self.preconditioner, state_dict["preconditioner"]
        if (pre is None) != (moments is None):
            raise StateError("only one of the state and the sampler has a preconditioner")
        super().load_state_dict({k: v for k, v in state_dict.items() if k not in _OURS})
        if pre is not None:
            pre.load_state_dict(moments)
        self.steps = int(state_dict["steps"])
        self._generator.set_state(state_dict["generator"])


def _check(lr: float, samples: float, prior_precision: float, temperature: float, burn_in: int) -> None:
    for name, value in (("lr", lr), ("prior_precision", prior_precision), ("temperature", temperature)):
        if not 0.0 <= value < math.inf:
            raise ConfigurationError(name, f"{value!r} is not a finite number ≥ 0")
    if not 0.0 < samples < math.inf:
        raise ConfigurationError("samples", f"{samples!r} is not a finite number > 0")
    if burn_in < 1:
        raise ConfigurationError("burn_in", f"{burn_in!r} is not ≥ 1")


def _check_preconditioner(pre: BNP, params: list[nn.Parameter]) -> None:
    if pre.step_scale == "norm":
        raise ConfigurationError(
            "preconditioner",
            "has step_scale='norm', which biases the posterior because it depends on the samples of a step: "
            "make it with step_scale='paper'",
        )
    known = set(params)
    if any(p.requires_grad and p not in known for p in pre.parameters()):
        raise ConfigurationError("params", "lacks parameters of layers that the preconditioner covers")
