"""Studies of heads and batch sizes: rows, cells and advice from finished trainings."""
