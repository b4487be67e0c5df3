"""The parts of a flow that loop: extraction and convergence."""
