"""From encoder states to log-odds to probabilities: predictor, fold, calibration."""
