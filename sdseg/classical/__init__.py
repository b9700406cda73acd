"""Photos in, mattes by methods without training out, the baselines of a trained model: `sdseg classical`."""
