"""Every benchmark runs in the tests, on tiny volumes and without judging its times."""
