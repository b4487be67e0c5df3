"""One module for each kind of peer. None of them uses the project, except for its reader of Keras' weights."""
