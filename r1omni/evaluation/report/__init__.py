"""The report: Table 1 beside the paper's, plots, and what the models really wrote."""
