"""Measuring and showing: tables and figures."""
