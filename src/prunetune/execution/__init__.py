"""Where steps run and where their results lie: store, execution, workers, and the rows collected from them."""
