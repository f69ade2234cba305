"""The papers' formulas on dense float64 matrices, as short as they can be."""

from __future__ import annotations

import numpy as np


def trimmed(delta, density):
    count = max(1, int(density * delta.size))
    kept = np.argsort(-np.abs(delta), axis=None, kind="stable")[:count]
    found = np.zeros(delta.size)
    found[kept] = delta.reshape(-1)[kept]
    return found.reshape(delta.shape)


def agreed(deltas, weights, elect="mass", combine="mean"):
    stack, w = np.stack(deltas), np.array(weights, float).reshape(-1, 1, 1)
    votes = (w * stack).sum(0) if elect == "mass" else np.sign(stack).sum(0)
    mask = np.sign(stack) == np.where(votes >= 0, 1, -1)
    total, share = (w * stack * mask).sum(0), (w * mask).sum(0)
    return total if combine == "sum" else total / np.where(share > 0, share, 1)


def ties(deltas, weights, density, elect="mass", combine="mean"):
    return agreed([trimmed(delta, density) for delta in deltas], weights, elect, combine)


def svd(matrix):
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    rank = int((s > 1e-10 * s[0]).sum()) if s.size else 0
    return u[:, :rank], s[:rank], vt[:rank].T


def procrustes(columns):
    p, _, qt = np.linalg.svd(columns, full_matrices=False)
    return p @ qt


def tsv(deltas):
    k = min(deltas[0].shape) // len(deltas)
    parts = [tuple(each[..., :k] for each in svd(delta)) for delta in deltas]
    u, s, v = (np.concatenate(side, axis=-1) for side in zip(*parts, strict=True))
    return procrustes(u) @ np.diag(s) @ procrustes(v).T


def iso_c(deltas):
    u, s, v = svd(sum(deltas))
    return s.mean() * u @ v.T


def knots_parts(deltas):
    u, s, v = svd(np.concatenate(deltas, axis=1))
    return u * s, [part.T for part in np.split(v, len(deltas), axis=0)]


def regmean(deltas, moments, alpha, weights):
    scaled = [w * (alpha * g + (1 - alpha) * np.diag(np.diag(g))) for w, g in zip(weights, moments, strict=True)]
    return sum(d @ g for d, g in zip(deltas, scaled, strict=True)) @ np.linalg.inv(sum(scaled))
