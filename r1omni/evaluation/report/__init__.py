"""The report: Table 1 beside the paper's, plots, and the models' completions."""
