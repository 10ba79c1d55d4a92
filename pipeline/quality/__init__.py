"""Quality classifiers: fastText trained on declared good and ordinary documents, calibrated, applied in batch."""
