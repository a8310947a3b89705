"""How the load tester's figures read; see `pmesh.units`, which objectives share."""

from pmesh.units import bytes_text, duration_text, observed_text, percent_text

__all__ = ["bytes_text", "duration_text", "observed_text", "percent_text"]
