"""Files, names, bytes and the order of rows.

This room knows numpy and pyarrow and where everything lies. It does not know Prefect or TensorFlow,
nor what a feature means: to it, features are rows of fixed size with a digest.
"""
