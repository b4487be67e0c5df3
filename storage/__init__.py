"""Files, names, bytes and the order of rows.

This room knows numpy, pyarrow and the store's layout. It must not know Prefect, TensorFlow
or the meaning of a feature: features are fixed-size rows, each with a digest.
"""
