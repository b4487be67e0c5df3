"""Look for faults in a data set: near-duplicates, suspect labels, odd pictures. Knows vectors and pixels, not where files lie."""
