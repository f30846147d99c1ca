"""Any file -> an answer: what `r1omni predict`, serving and demos stand on."""
