"""The order of a heat map's rows, against a clustering that looks at every pair in every step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from erestore.report.seriation import clustered


def cosines(vectors: np.ndarray) -> list[list[float | None]]:
    norms = np.linalg.norm(vectors, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = vectors @ vectors.T / np.outer(norms, norms)
    return [[float(value) if np.isfinite(value) else None for value in row] for row in found]


def merges(matrix: list[list[float]]) -> set[frozenset[int]]:
    """Return every cluster that average linkage makes, by the definition."""
    distances = 1 - np.array(matrix)
    clusters = [frozenset([place]) for place in range(len(matrix))]
    found = set(clusters)
    while len(clusters) > 1:
        one, two = min(
            itertools.combinations(clusters, 2),
            key=lambda pair: distances[np.ix_(sorted(pair[0]), sorted(pair[1]))].mean(),
        )
        clusters = [each for each in clusters if each not in (one, two)] + [one | two]
        found.add(one | two)
    return found


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("count", [1, 2, 3, 9, 24])
def test_each_cluster_of_average_linkage_stands_together(seed: int, count: int) -> None:
    matrix = cosines(np.random.default_rng(seed).standard_normal((count, 5)))
    order = clustered(matrix)
    assert sorted(order) == list(range(count))
    place = {variant: number for number, variant in enumerate(order)}
    for cluster in merges(matrix):
        numbers = sorted(place[variant] for variant in cluster)
        assert numbers == list(range(numbers[0], numbers[-1] + 1))


def test_groups_come_out_whole() -> None:
    noise = np.random.default_rng(3)
    centres = 10 * noise.standard_normal((6, 40))
    group = noise.permutation(np.repeat(np.arange(6), 30))
    order = clustered(cosines(centres[group] + noise.standard_normal((180, 40))))
    changes = sum(one != two for one, two in itertools.pairwise(group[order]))
    assert changes == 5


def test_vectors_on_an_arc_come_out_in_order() -> None:
    angles = np.random.default_rng(4).permutation(np.linspace(0, 1.5, 16))
    found = angles[clustered(cosines(np.stack([np.cos(angles), np.sin(angles)], axis=1)))]
    assert np.all(np.diff(found) > 0) or np.all(np.diff(found) < 0)


def test_zero_vectors_come_last_and_equal_ones_together() -> None:
    vectors = np.array([[0, 0], [1, 0], [0, 1], [0, 0], [1, 0], [0, 2]], dtype=float)
    order = clustered(cosines(vectors))
    assert order[-2:] == [0, 3]
    assert abs(order.index(1) - order.index(4)) == 1
    assert abs(order.index(2) - order.index(5)) == 1
    assert clustered(cosines(np.zeros((3, 2)))) == [0, 1, 2]
    assert clustered([]) == []
