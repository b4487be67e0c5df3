"""`python -m storage`: the only folder of this room that prints."""
