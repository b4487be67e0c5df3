"""From features or pixels to class probabilities. A head of dense layers needs no Keras."""
