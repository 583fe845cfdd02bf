"""What in-context learning is made of: prompt text, exact likelihoods with a kept prefix, calibration, order, retrieval."""
