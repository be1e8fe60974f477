"""ForeAct: foresee, then act. Vision-language-action policies that predict the frames they act towards."""

__version__ = "0.1.0"
