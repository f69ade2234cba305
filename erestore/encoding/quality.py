"""The quality that a user asks of an encoding, and the outcome."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypedDict

from erestore.checkpoint.roles import Role
from erestore.encoding.gate import Gate
from erestore.errors import UsageError
from erestore.objects.squared_errors import ratio

DEFAULT_MAX_ERROR = 0.01
SMALLEST_MAX_ERROR = 1e-8
"""Below this, float32 products and factors limit what is reached; ``--exact`` is the better tool."""

SPREAD = 10.0
"""Times the share of all changes that is lost, which no tensor loses more than of its own (docs/decisions/0024)."""


@dataclass(frozen=True)
class Quality:
    """Requested quality of an encoding.

    Attributes
    ----------
    max_error : float
        Bound on ``relative_error``: squared norm of what is lost, after the final rounding, over that of the residual.
    budget : int or float, optional
        Bytes that may be added to the store, everything included, or as a float what share of the checkpoint's own;
        then the error is as small as that allows, and `max_error` is not looked at.
    gate : Gate, optional
        Lose as much as a test of the user's allows; `max_error` is not looked at. With `exact` it is the linear part that
        has to pass.
    exact, exact_only : bool
        Keep an exact remainder; with ``exact_only``, nothing but it.
    codec : str
        ``lowrank`` or ``ere``.
    rank, bits : int
    alpha : float
        For ``ere``: prior rank, bits a code, weight of the prior rank.
    allocation : str
        For ``ere``: ``ere`` (the paper's), ``greedy`` (exact) or ``uniform``.
    objective : str, optional
        Error to minimise: that of the weights, all alike (``frobenius``), or what comes out of
        layers (``calibrated``, for bases that are calibrated). By default the latter where it can be had, and else the error
        of the weights with those of biases and gains counted more.
    squared_error : float, optional
        Besides `max_error`, a bound on the squared norm itself of what is lost.
    """

    max_error: float = DEFAULT_MAX_ERROR
    budget: int | float | None = None
    gate: Gate | None = None
    exact: bool = False
    exact_only: bool = False
    codec: str = "lowrank"
    rank: int = 16
    bits: int = 4
    alpha: float = 0.5
    allocation: str = "ere"
    objective: str | None = None
    squared_error: float | None = None

    def __post_init__(self) -> None:
        """Refuse contradictory options."""
        if self.codec not in ("lowrank", "ere"):
            raise UsageError(f"Unknown codec '{self.codec}'.", hint="Use lowrank or ere.")
        if self.allocation not in ("ere", "greedy", "uniform"):
            raise UsageError(f"Unknown allocation '{self.allocation}'.", hint="Use ere, greedy or uniform.")
        if self.objective not in (None, "frobenius", "calibrated"):
            raise UsageError(f"Unknown objective '{self.objective}'.", hint="Use frobenius or calibrated.")
        if self.objective is not None and not self.takes_calibration:
            raise UsageError(
                "--objective has no effect with --codec ere or --exact-only.",
                hint="Leave out --objective.",
            )
        require_max_error(self.max_error, hint="Use --exact to keep every bit.")
        if self.budget is not None and (self.exact or self.exact_only or self.codec != "lowrank"):
            raise UsageError(
                "--budget cannot be combined with --exact, --exact-only or --codec ere, whose size cannot be chosen.",
                hint="Give --budget alone.",
            )
        if self.budget is not None and self.budget <= 0:
            raise UsageError("The budget must be larger than 0.", hint="Give more bytes.")
        if self.gate is not None and (self.budget is not None or self.exact_only or self.codec != "lowrank"):
            raise UsageError(
                "--gate cannot be combined with --budget, --exact-only or --codec ere: each of them decides how much is lost.",
                hint="Give --gate alone, or with --exact.",
            )
        if not (self.rank >= 1 and 2 <= self.bits <= 8 and 0 <= self.alpha <= 1):
            raise UsageError("The rank must be at least 1, bits must be 2 to 8, and alpha must be between 0 and 1.")
        if self.codec == "ere" and (self.exact or self.exact_only):
            raise UsageError(
                "The ere codec decodes differently on different machines, so it cannot have an exact remainder.",
                hint="Use --exact with the default codec.",
            )

    def allowed(self, norm: float) -> float:
        """Return the squared error that may be made of a residual of a squared norm, never less than can be reached."""
        allowed = self.max_error * norm
        if self.squared_error is None:
            return allowed
        return min(allowed, max(self.squared_error, SMALLEST_MAX_ERROR * norm))

    def keeps_exact(self, role: Role) -> bool:
        """Return whether floats of a role are exact and outside the sum that a bound is over.

        Codes and their scales always are; statistics are not where the sum is all that is asked for.
        """
        is_sum_all = self.codec != "lowrank" or self.objective == "frobenius"
        return role is Role.QUANTISED or (role is Role.STATISTIC and not is_sum_all)

    @property
    def spread(self) -> float | None:
        """Times the share lost of all changes, which one tensor may lose of its own; None where the sum alone counts."""
        return SPREAD if self.keeps_exact(Role.STATISTIC) else None

    @property
    def takes_calibration(self) -> bool:
        """Whether a calibration changes anything."""
        return self.codec == "lowrank" and not self.exact_only

    def budget_bytes(self, original: int) -> int | None:
        """Return the budget in bytes for a checkpoint of so many bytes; None without one."""
        return int(self.budget * original) if isinstance(self.budget, float) else self.budget


@dataclass
class Outcome:
    """Outcome of an encoding.

    Attributes
    ----------
    squared_error, squared_norm : float
        After the final rounding, against the original weights; and of original minus parent. Over all floating tensors.
    linear_error : float
        Squared error before rounding.
    kinds : dict of str to int
        Number of tensors per section kind; besides ``unchanged``, ``dropped`` (changed, but by too little to keep any of it)
        ``whole`` (kept as they are) and ``codes`` (of quantised weights, kept as they are).
    whole, dropped : list of str
        Which tensors are kept as they are, and which were dropped.
    not_finite : list of str
        Tensors kept exact because they hold NaN or infinity.
    base_norm : float
        Squared norm of the parent's values: how far the variant is from its parent is ``squared_norm / base_norm``.
    """

    squared_error: float = 0.0
    squared_norm: float = 0.0
    linear_error: float = 0.0
    base_norm: float = 0.0
    kinds: dict[str, int] = field(default_factory=dict)
    whole: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)

    @property
    def relative_error(self) -> float:
        """``squared_error / squared_norm``, 0 where both are 0."""
        return ratio(self.squared_error, self.squared_norm)

    def count(self, kind: str) -> None:
        """Note one more tensor of a kind."""
        self.kinds[kind] = self.kinds.get(kind, 0) + 1


class QualityOptions(TypedDict, total=False):
    """Attributes of :class:`Quality` as keyword arguments, for type checkers."""

    max_error: float
    budget: int | float | None
    gate: Gate | None
    exact: bool
    exact_only: bool
    codec: str
    rank: int
    bits: int
    alpha: float
    allocation: str
    objective: str | None


def require_max_error(max_error: float, hint: str = "Use a value in between, such as 0.001.") -> None:
    """Make sure that a maximum error can be met, and allows less than everything to be lost.

    Raises
    ------
    UsageError
        If not; `hint` says what else there is.
    """
    if not (math.isfinite(max_error) and SMALLEST_MAX_ERROR <= max_error < 1):
        if max_error >= 1:
            hint = "It is a fraction of what changed: 0.01 loses 1 %."
        raise UsageError(f"A maximum error of {max_error:g} is not between {SMALLEST_MAX_ERROR:g} and 1.", hint=hint)


def asked_record(quality: Quality) -> dict[str, str]:
    """Return what a commit records of what was asked, as strings."""
    exact = "only" if quality.exact_only else "yes" if quality.exact else "no"
    record = {"asked_codec": quality.codec, "asked_exact": exact}
    if quality.codec == "ere":
        record |= {"rank": str(quality.rank), "bits": str(quality.bits), "alpha": repr(quality.alpha)}
        return record | {"allocation": quality.allocation}
    if quality.exact_only:
        return record
    if quality.objective is not None:
        record["objective"] = quality.objective
    if quality.gate:
        return record | {"gate": quality.gate.name}
    return record | ({"budget": repr(quality.budget)} if quality.budget else {"max_error": repr(quality.max_error)})


def quality_record(quality: Quality, reached: Outcome, *, exact: bool) -> dict[str, str]:
    """Return what a commit records of quality, asked and reached, as strings."""
    has_lossy = exact and not quality.exact_only and (quality.exact or quality.budget is not None)
    lossy = {"lossy_error": repr(reached.relative_error)} if has_lossy else {}
    dropped = {"dropped": str(len(reached.dropped))} if reached.dropped and not exact else {}
    return (
        asked_record(quality)
        | lossy
        | dropped
        | {
            "codec": "exact-only" if quality.exact_only else quality.codec,
            "exact": "yes" if exact else "no",
            "relative_error": repr(0.0 if exact else reached.relative_error),
            "linear_error": repr(ratio(reached.linear_error, reached.squared_norm)),
            "relative_norm": repr(math.sqrt(ratio(reached.squared_norm, reached.base_norm))),
        }
    )
