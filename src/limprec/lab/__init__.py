"""The laboratory: models, data, training runs, comparisons and reports; needs the `lab` extra."""
