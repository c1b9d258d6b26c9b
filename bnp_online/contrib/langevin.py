"""Langevin sampling of a network's parameters, with noise that BNP shapes: SGLD and BNP-SGLD.

With L the mean loss over N samples the posterior is ``p(ŵ) ∝ exp(−N L(ŵ))``. A step descends, with noise::

    ŵ ← ŵ − h (P Pᵀ/q²) ∇L(ŵ) + √(2 h T/N) (P/q) ξ          ξ ~ N(0, I)

Without a preconditioner P/q is the identity (Welling and Teh). For a constant P this is Langevin sampling in
the coordinates ``z = P⁻¹ŵ``, whose stationary distribution is the posterior for every P; the error is that of
the step h alone. A P that changes with the sample would need the divergence of ``P Pᵀ`` in the drift, without
which the posterior is biased: so the moments behind P are frozen after a burn-in, and q² may depend on the
number of samples of a step, not on their norm.

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
    """Stochastic gradient Langevin dynamics: gradient descent whose noise makes it sample the posterior.

    Every `step` makes the parameters a sample. It calls the preconditioner's ``step()`` itself, so do not
    call that as well: the noise must be shaped by the very transform that the gradient went through.

    Parameters
    ----------
    params : iterable
        Parameters, or groups of them with options of their own, as for any torch optimizer.
    lr : float
        h ≥ 0, the rate of a descent on the mean loss. In intrinsic coordinates a quadratic loss with the
        largest curvature λ needs ``h < 2/λ``, and the variance is too large by a factor ``1/(1 − h λ/2)``.
    samples : float
        N > 0, how many samples the data set has over which the loss is a mean (or an estimate of that).
    preconditioner : BNP, optional
        Of the model; its step scale is ``"paper"`` or ``"none"``. None samples without preconditioning, and
        parameters that BNP does not cover are sampled so in any case.
    prior_precision : float
        Precision λ ≥ 0 of a Gaussian prior with mean 0 on the parameters, ``λ/2 ‖ŵ‖²``. It goes through the
        preconditioner with the gradient, as a prior must, and weight decay must not.
    temperature : float
        T ≥ 0; 1 samples the posterior, 0 is descent without noise.
    burn_in : int
        Steps after which the preconditioner's moments are frozen, ≥ 1. What comes before is no sample.
    seed : int
        Of the noise. Equal seeds and equal gradients give equal bits on machines of one kind.

    Raises
    ------
    ConfigurationError
        If an argument is out of range, the preconditioner's step scale is ``"norm"``, or `params` lacks some
        of the parameters that it covers.

    Notes
    -----
    A mini-batch of n samples adds the noise of its gradient to that of the step. To keep it below a share s
    of that takes ``h ≤ 2 s n / N``, about, in coordinates in which the curvature is 1.

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
            Computes the loss and its gradients again.

        Returns
        -------
        float or None
            The loss of `closure`.
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
        """Return white noise of a parameter's shape, on its device; drawn on that of the generator."""
        generator, dtype = self._generator, statistics_dtype(p.dtype)
        return torch.randn(p.shape, generator=generator, device=generator.device, dtype=dtype).to(p.device)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `step` changes but the parameters: options, noise, steps, and moments."""
        pre = self.preconditioner
        return {
            **super().state_dict(),
            "steps": self.steps,
            "generator": self._generator.get_state(),
            "preconditioner": None if pre is None else pre.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises
        ------
        StateError
            If it is of another sampler, one without or with a preconditioner, or of another model.
        """
        if missing := [name for name in _OURS if name not in state_dict]:
            raise StateError(f"the state is of no sampler: it has no {', '.join(missing)}")
        pre, moments = self.preconditioner, state_dict["preconditioner"]
        if (pre is None) != (moments is None):
            raise StateError("the state is of a sampler with a preconditioner, or this one is, but not both")
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
            "has step_scale='norm', which depends on the samples of a step and so biases the posterior: "
            "make it with step_scale='paper'",
        )
    known = set(params)
    if any(p.requires_grad and p not in known for p in pre.parameters()):
        raise ConfigurationError("params", "lacks parameters of layers that the preconditioner covers")
