"""Which step to encode at: the one that just meets a bound, measured, or the largest that a gate admits."""

from __future__ import annotations

from collections.abc import Callable, Collection

from erestore.arrays import as_array
from erestore.encoding.encode_pass import Attempt, Passes
from erestore.encoding.gate import FIRST_ERROR, LARGEST_ERROR, GateSearch
from erestore.encoding.quality import SMALLEST_MAX_ERROR, Quality
from erestore.encoding.tensor_encoder import EncodedTensor, LoadedEncoder, TensorEncoder, measure
from erestore.errors import GateError, UsageError
from erestore.objects.residual_writer import ResidualWriter
from erestore.objects.squared_errors import Errors, ratio
from erestore.residual import allocation, step_plan
from erestore.residual.codecs import dense, ere
from erestore.residual.spectrum import Decomposition
from erestore.residual.step_search import StepSearch

SizeBudget = Callable[[Collection[str]], int]
"""Bytes that a residual may take, given the tensors that it has sections for."""

AcceptCandidate = Callable[[ResidualWriter, float], bool]
"""Whether a residual is good enough, given its relative error too."""

_SIZE_EXPONENT = -1.0
_UNUSED = 0.005
"""Share of a budget that may stay unused, as far as the sizes of tensors allow."""
_ERROR_EXPONENT = 1.2
"""Of the step in the error, about: less than 2 because a smaller step keeps more components too."""


def search_by_error(passes: Passes, quality: Quality) -> Attempt:
    """Encode at the largest step that meets the bound of `quality`; where the rest is kept too, it may be missed."""
    if not passes.profiles:
        return _statistics_alone(passes)
    allowed = quality.allowed(passes.norm)
    search = StepSearch(passes.step_for(allowed), _ERROR_EXPONENT)
    best = _best(
        passes,
        search,
        lambda attempt: attempt.errors.rounded / allowed,
        is_enough=lambda attempt: attempt.is_bare,
        may_miss=quality.exact,
    )
    if best is None:
        raise UsageError(
            f"A maximum error of {quality.max_error:g} cannot be reached for this checkpoint.",
            hint="Use --exact to keep every bit.",
        )
    return best


def search_by_budget(passes: Passes, quality: Quality, size_budget: SizeBudget) -> Attempt:
    """Encode at the smallest step whose residual has room."""
    free = max(1, size_budget([target.key for target in passes.targets]))
    # What is left unused is judged by the whole budget, not by the residual's part of it.
    tolerance = min(0.5, _UNUSED * (quality.budget or free) / free)
    start = step_plan.solve_step_for_bits(list(passes.profiles.values()), 8 * free)

    def share(attempt: Attempt) -> float:
        """Return how much of its room a residual takes; one without sections is not written at all."""
        writer = attempt.writer
        return 0.0 if writer.is_empty else writer.size / max(1, size_budget(writer.keys))

    best = None
    if passes.profiles:
        best = _best(passes, StepSearch(start, _SIZE_EXPONENT, tolerance, attempts=8), share)
    elif share(attempt := _statistics_alone(passes)) <= 1:
        best = attempt
    if best is None:
        raise UsageError("The budget is too small to store any of the change.", hint="Give a larger --budget.")
    return best


def _best(
    passes: Passes,
    search: StepSearch,
    reached: Callable[[Attempt], float],
    *,
    is_enough: Callable[[Attempt], bool] = lambda _: False,
    may_miss: bool = False,
) -> Attempt | None:
    """Return the attempt that reached the most of its bound and not more, None if none did.

    Parameters
    ----------
    passes : Passes
    search : StepSearch
    reached : Callable
        The measure over its bound.
    is_enough : Callable
        Whether nothing better is worth looking for, although the bound is not used up.
    may_miss : bool
        Return the last attempt if none met the bound.
    """
    best: tuple[float, Attempt] | None = None
    goes_on = True
    while goes_on:
        attempt = passes.at(search.step)
        share = reached(attempt)
        goes_on = search.observe(share)
        if share <= 1 and (best is None or share > best[0]):
            if best is not None:
                best[1].drop()
            best = share, attempt
            if is_enough(attempt) or attempt.errors.rounded <= SMALLEST_MAX_ERROR * passes.norm:
                break
        elif not goes_on and best is None and may_miss:
            return attempt
        else:
            attempt.drop()
    return None if best is None else best[1]


def search_by_gate(passes: Passes, accept: AcceptCandidate) -> Attempt:
    """Encode at the largest step that the gate admits, and return what it admitted there."""
    if not passes.profiles and accept((alone := _statistics_alone(passes)).writer, 0.0):
        return alone
    search = GateSearch(passes.step_for(FIRST_ERROR * passes.norm) if passes.profiles else 1.0)
    best: Attempt | None = None
    goes_on = bool(passes.profiles)
    while goes_on:
        attempt = passes.at(search.step)
        error = ratio(attempt.errors.rounded, passes.norm)
        passed = error <= LARGEST_ERROR and accept(attempt.writer, error)
        goes_on = search.observe(attempt.writer.size, error, passed=passed)
        superseded = best if passed else attempt  # what passes does so at a larger step than whatever passed before
        best = attempt if passed else best
        if superseded is not None:
            superseded.drop()
    if best is None:
        raise GateError(
            "The original passes the gate, but no lossy encoding of it does.", hint="Use --exact without a gate."
        )
    return best


def _statistics_alone(passes: Passes) -> Attempt:
    """Encode where nothing but statistics changed, which no step changes."""
    return passes.at(1.0)


def encode_ere(passes: Passes, quality: Quality) -> Attempt:
    """Encode with the codec ``ere``: ranks by allocation, codes of b bits; vectors and tiny matrices stay whole."""
    spectra = {key: profile.singular_values for key, profile in passes.profiles.items()}
    singular_values = {key: values.numpy() for key, values in spectra.items() if values is not None}
    shapes = [passes.profiles[key].shape for key in singular_values]
    allocate = allocation.ALLOCATIONS[quality.allocation]
    ranks = dict(
        zip(singular_values, allocate(list(singular_values.values()), shapes, quality.rank, quality.alpha), strict=True)
    )

    def encode(encoder: TensorEncoder) -> tuple[EncodedTensor, Errors]:
        encoded = encode_tensor(encoder)
        return encoded, measure(encoder.opened, encoded.sections)

    def encode_tensor(encoder: TensorEncoder) -> EncodedTensor:
        assert isinstance(encoder, LoadedEncoder)
        delta = encoder.loaded.delta()
        if encoder.key not in ranks:
            return EncodedTensor((dense.encode(as_array(delta)),))
        assert encoder.profile.singular_values is not None
        assert encoder.basis is not None
        decomposition = Decomposition(delta, encoder.profile.singular_values, encoder.basis, encoder.profiled.side)
        rank = ranks[encoder.key]
        return EncodedTensor((ere.encode_section(delta, rank, quality.bits, decomposition),) if rank else ())

    return passes.encode(encode)
