"""The manifest: versions, their segments and tables, and how two versions differ."""
