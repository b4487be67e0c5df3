"""The web server of a trained store: knows HTTP, limits and queues; not how an image becomes an answer, which children of
`workers/` compute. It loads no TensorFlow, Keras or engine, and decodes no image."""
