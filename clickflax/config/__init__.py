"""Configuration: every knob, presets of published models, protocols of papers."""

from clickflax.config.default import default
from clickflax.config.protocols import follow
from clickflax.config.variants import vary

__all__ = ["default", "follow", "vary"]
