"""One page of tables and figures of measured runs; imports neither torch nor Lightning."""
