"""ERE written down once more, straight from the paper, with numpy alone and explicit loops.

It shares no code with erestore. Where the paper leaves a choice, this makes the one that erestore documents: natural
logarithms of ``f`` over all points with ``f > 0``, ranks rounded half to even, codes in ``-q .. q`` scaled to the
largest magnitude in half precision, D in half precision times a power of two.
"""

import math

import numpy as np

NOISE = 16 * 2.0**-52
"""σ² below this share of σ₁² counts as zero."""


def singular_values(delta):
    values = np.linalg.svd(delta.astype(np.float64), compute_uv=False)
    for k in range(len(values)):
        if values[k] ** 2 <= NOISE * values[0] ** 2:
            values[k] = 0.0
    return values


def tail_errors(values):
    """f(r) = Σ_{l > r} σ_l², for r = 0 .. min(m, n)."""
    return [math.fsum(s * s for s in values[r:]) for r in range(len(values) + 1)]


def fit_log_linear(errors):
    """Least squares of log f(r) on a r + b over f > 0."""
    points = [(float(r), math.log(f)) for r, f in enumerate(errors) if f > 0]
    if len(points) < 2:
        return None
    design = np.array([[r, 1.0] for r, _ in points])
    slope, offset = np.linalg.lstsq(design, np.array([y for _, y in points]), rcond=None)[0]
    return slope, offset


def relaxed_rank(fit, cost, cap, total_error, price):
    if cap == 0:
        return 0.0
    if fit is None:
        return float(cap) if total_error >= price * cost * cap else 0.0
    a, b = fit
    return min(max((math.log(-cost / a) - b + math.log(price)) / a, 0.0), float(cap))


def allocate(deltas, rank, alpha):
    """Algorithm 1, with its update the right way around, and the prior rank of §4.2."""
    layers = []
    for delta in deltas:
        values = singular_values(delta)
        errors = tail_errors(values)
        cap = sum(1 for s in values if s > 0)
        layers.append((values, fit_log_linear(errors), sum(delta.shape), cap, errors[0]))
    budget = sum(rank * cost for _, _, cost, _, _ in layers)

    def cost_at(price):
        return sum(relaxed_rank(fit, cost, cap, f0, price) * cost for _, fit, cost, cap, f0 in layers)

    low, high = 1e-100, 1e100
    if cost_at(low) <= budget:
        high = low
    for _ in range(500):
        price = math.sqrt(low * high)
        if cost_at(price) > budget:
            low = price  # too many ranks: they must become dearer
        else:
            high = price
    ranks = []
    for _, fit, cost, cap, f0 in layers:
        mixed = (1 - alpha) * relaxed_rank(fit, cost, cap, f0, high) + alpha * rank
        ranks.append(round(min(max(mixed, 0.0), float(cap))))
    while sum(r * layer[2] for r, layer in zip(ranks, layers, strict=True)) > budget:
        losses = [
            (layer[0][r - 1] ** 2 / layer[2], i)
            for i, (r, layer) in enumerate(zip(ranks, layers, strict=True))
            if r > 0
        ]
        ranks[min(losses)[1]] -= 1
    return ranks


def quantise(column, bits):
    top = 2 ** (bits - 1) - 1
    step = float(np.float16(np.abs(column).max())) / top
    return np.array([min(max(round(float(x) / step), -top), top) * step for x in column])


def polar(x):
    left, _, right = np.linalg.svd(x, full_matrices=False)
    return left @ right


def reconstruct(delta, rank, bits):
    u, s, vt = np.linalg.svd(delta.astype(np.float64), full_matrices=False)
    if rank == 0:
        return np.zeros(delta.shape)
    u_hat = np.stack([quantise(u[:, k], bits) for k in range(rank)], axis=1)
    v_hat = np.stack([quantise(vt[k], bits) for k in range(rank)], axis=1)
    scale = 2.0 ** (math.floor(math.log2(s[0])) - 14)
    d = np.array([float(np.float16(s[k] / scale)) * scale for k in range(rank)])
    return polar(u_hat) @ np.diag(d) @ polar(v_hat).T


def relative_error(deltas, ranks, bits):
    error = energy = 0.0
    for delta, rank in zip(deltas, ranks, strict=True):
        error += float(((delta - reconstruct(delta, rank, bits)) ** 2).sum())
        energy += float((delta**2).sum())
    return error / energy
