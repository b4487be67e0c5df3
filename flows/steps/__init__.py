"""Parts of a flow that loop: extraction and convergence."""
