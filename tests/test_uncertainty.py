"""Estimators against numpy's, and their edge cases."""

import numpy as np
import pytest
import torch

from sdseg.uncertainty import calibration_key, mean_and_variance


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("offset", [0.0, 1000.0])  # far from zero, E[x²] − E[x]² would lose every digit
def test_mean_and_variance_equal_numpys(count, offset):
    samples = np.random.default_rng(count).uniform(size=(count, 5, 7)) + offset
    mean, variance = mean_and_variance(samples)
    np.testing.assert_allclose(mean, samples.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(variance, samples.var(axis=0, ddof=1), rtol=1e-9)


def test_tensors_and_generators_give_the_same_and_the_input_is_left_alone():
    samples = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(0))
    before = samples.clone()
    mean, variance = mean_and_variance(sample for sample in samples)
    assert torch.equal(samples, before)
    torch.testing.assert_close(mean, samples.mean(dim=0))
    torch.testing.assert_close(variance, samples.var(dim=0))
    assert mean.dtype == torch.float32


def test_equal_samples_have_no_variance():
    _, variance = mean_and_variance(np.full((5, 2, 2), 0.3))
    assert (variance == 0).all()


def test_one_sample_has_no_variance_and_none_is_an_error():
    mean, variance = mean_and_variance(np.ones((1, 2, 2)))
    assert (mean == 1).all() and variance is None
    with pytest.raises(ValueError, match="at least one"):
        mean_and_variance([])


def test_scales_are_kept_by_steps_and_samples():
    assert calibration_key(4, 8) == "4x8"
