"""Results: the tally, the statistics, the report and the phantom they are shown on."""
