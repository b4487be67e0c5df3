"""The child process: its loop, its record of in-flight images, and the watchdog that limits it."""
