"""One module for each kind of peer. None of them knows the project, but for the reader of Keras' weights."""
