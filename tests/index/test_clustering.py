import numpy as np

from rabtriever.index.clustering import cluster


def test_every_document_is_in_a_cluster_of_near_ones():
    rng = np.random.default_rng(0)
    centres = 3 * rng.standard_normal((40, 16))
    values = np.float32(centres[rng.integers(40, size=2000)] + 0.3 * rng.standard_normal((2000, 16)))
    clusters = cluster(values, 40)
    assert len(clusters) == 2000 and set(clusters) == set(range(clusters.max() + 1))
    within = np.mean([values[clusters == c].var(0).sum() for c in range(clusters.max() + 1)])
    assert within < 0.5 * values.var(0).sum()
    np.testing.assert_array_equal(cluster(np.zeros((10, 3), np.float32), 4), np.zeros(10))
    assert len(cluster(np.empty((0, 3), np.float32), 4)) == 0
